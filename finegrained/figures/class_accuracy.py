"""Accuracy per class as a figure that reads with five classes and with two hundred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.figures import canvas
from finetune.images.class_names import display_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALL_SHOWN = 30  # up to so many classes each has a bar
ENDS = 15  # else bars for so many at either end
BAR = 0.235  # inches per bar

Rows = Sequence[Mapping[str, Any]]


def ranked(rows: Rows) -> list[Mapping[str, Any]]:
    """Return the classes that have images, least accurate first, equal ones in official order."""
    tested = [row for row in rows if row["n"]]
    return sorted(tested, key=lambda row: float(row["accuracy"]))


def draw_class_accuracy(rows: Rows, out: Path) -> Path:
    """Draw the accuracy of every class: all as bars, or the whole range as a curve and its ends as bars.

    Args:
        rows: one per class in official order: name, n, right, accuracy (percent; None without an image).
        out: the PNG to write.

    Returns:
        `out`.
    """
    order = ranked(rows)
    images = sum(row["n"] for row in order)
    title = f"Accuracy per class: {len(order)} classes, {canvas.count_text(images, 'test image')}"
    mean = float(np.mean([row["accuracy"] for row in order])) if order else float("nan")
    subtitle = f"dashed: the mean over classes, {mean:.1f} %; at the right: images correct of all"
    untested = len(rows) - len(order)
    if untested:
        subtitle += f"; {untested} classes without a test image are left out"
    if len(order) <= ALL_SHOWN:
        with canvas.new_figure(out, 1.3 + BAR * max(len(order), 4), title, subtitle) as figure:
            _draw_bars(figure.add_subplot(), order, mean)
        return out
    with canvas.new_figure(out, 3.9 + BAR * ENDS, title, subtitle, width=10.5) as figure:
        halves: Any = figure.subfigures(2, 1, height_ratios=(2.4, 0.9 + BAR * ENDS))
        _draw_range(halves[0].add_subplot(), order, mean)
        left, right = halves[1].subplots(1, 2)
        _draw_bars(left, order[:ENDS], mean)
        left.set_title(f"the {ENDS} least accurate", loc="left", weight="bold", pad=10)
        best = [row for row in order[: -ENDS - 1 : -1] if row["right"]]
        right.set_title(_best_title(len(best)), loc="left", weight="bold", pad=10)
        if best:
            _draw_bars(right, best, mean, places_for=ENDS)
        else:
            right.set_axis_off()
    return out


def _best_title(count: int) -> str:
    if not count:
        return "no class has a correct prediction"
    return f"the {count} most accurate" if count == ENDS else f"the only {count} with a correct prediction"


def _draw_bars(axes: Axes, order: Rows, mean: float, *, places_for: int = 0) -> None:
    places = np.arange(len(order))
    values = [row["accuracy"] for row in order]
    axes.barh(places, values, height=0.72, color=canvas.SKY)
    axes.axvline(mean, color=canvas.VERMILION, linewidth=1.2, linestyle=(0, (4, 3)))
    for place, row in zip(places, order, strict=True):
        axes.text(
            101.5,
            float(place),
            f"{row['right']:,} of {row['n']:,}",
            va="center",
            size=canvas.SMALL,
            color=canvas.INK,
        )
    names = canvas.distinct_fits([display_name(str(row["name"])) for row in order], 2.3, canvas.SMALL)
    canvas.label_ticks(axes, "y", names, size=canvas.SMALL)
    axes.set(
        xlim=(0, 100),
        xticks=range(0, 101, 20),
        xlabel="correct (%)",
        ylim=(max(len(order), places_for) - 0.4, -0.6),
    )
    axes.grid(True, axis="x")


def _draw_range(axes: Axes, order: Rows, mean: float) -> None:
    values = np.array([row["accuracy"] for row in order], dtype=float)
    places = np.arange(1, len(order) + 1)
    axes.fill_between(places, values, step="mid", color=canvas.SKY, linewidth=0)
    axes.step(places, values, where="mid", color=canvas.BLUE, linewidth=1.4)
    axes.axhline(mean, color=canvas.VERMILION, linewidth=1.2, linestyle=(0, (4, 3)))
    axes.set(ylim=(0, 104), yticks=range(0, 101, 20), xlim=(0.5, len(order) + 0.5))
    axes.set(xlabel="classes, least accurate first", ylabel="correct (%)")
    axes.grid(True, axis="y")
