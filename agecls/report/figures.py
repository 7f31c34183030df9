"""Figures of age groups: the confusion matrix, bars per group, and where two results disagree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agecls.data.years import years_of
from agecls.report.year_figures import draw_year_curves, spread
from finetune.experiments.compare.disagreements import draw_both
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.figures import canvas
from finetune.figures.gallery import draw_gallery, draw_heat_maps
from finetune.figures.markdown import Picture
from finetune.figures.selection import choose_disagreements

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PICKED = (
    "Chosen by rule, not by eye: per true group the image on which the two probabilities of the true group "
    "differ most. Single images show what kind of image is concerned, not which result is better."
)
TELLING = (
    "Chosen by rule, not by eye: per true group the image on which the two differ most among those that only "
    "one predicts correctly, else among those that both do; a group without either has no row."
)


def draw_confusion(counts: np.ndarray, class_names: Sequence[str], out: Path) -> Path:
    """Draw the confusion matrix: rows are true groups, shaded by fraction of the row, counts in the cells.

    The outlined band holds the images that one-off accuracy counts as correct: |predicted - true| <= 1 group.

    Args:
        counts: (K, K) int, counts[i, j] = images of true group i predicted as j, groups young to old.
        class_names: the K groups in the same order.
        out: the PNG to write.

    Returns:
        `out`.
    """
    counts = np.asarray(counts)
    size = len(class_names)
    if counts.shape != (size, size):
        raise ValueError(f"counts must be ({size}, {size}) for {size} class names, got {counts.shape}")
    per_row = counts.sum(axis=1)
    total = int(per_row.sum())
    near = np.abs(np.subtract.outer(np.arange(size), np.arange(size))) <= 1
    exact, one_off = (100 * int(part) / max(total, 1) for part in (np.trace(counts), counts[near].sum()))
    shades = counts / np.maximum(per_row, 1)[:, None]
    title = f"Confusion matrix: {exact:.1f} % exact, {one_off:.1f} % within one group"
    subtitle = (
        f"{canvas.count_text(total, 'image')} pooled; shade = fraction of row; outlined = within one group"
    )
    with canvas.new_figure(out, 6.6, title, subtitle) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(shades, cmap=canvas.SEQUENTIAL, vmin=0, vmax=1, aspect="auto")
        _write_confusion_cells(axes, counts, per_row)
        _outline_band(axes, size)
        canvas.label_ticks(axes, "x", class_names)
        labels = [f"{name}\nn = {n:,}" for name, n in zip(class_names, per_row, strict=True)]
        canvas.label_ticks(axes, "y", labels)
        axes.set(xlabel="predicted group", ylabel="true group")
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(
            image, ax=axes, fraction=0.04, pad=0.02, aspect=40, label="fraction of the true group"
        )
        bar.outline.set_visible(False)
    return out


def _write_confusion_cells(axes: Axes, counts: np.ndarray, per_row: np.ndarray) -> None:
    large = canvas.NORMAL if len(per_row) <= 10 else canvas.SMALL - 2
    for (row, column), count in np.ndenumerate(counts):
        if per_row[row] == 0:
            if column == 0:
                axes.text(
                    (len(per_row) - 1) / 2, row, "no images", ha="center", va="center", color=canvas.MUTED
                )
            continue
        share = count / per_row[row]
        if not count:
            axes.text(column, row, "0", ha="center", va="center", size=large - 1.5, color=canvas.MUTED)
            continue
        style: dict[str, Any] = {"ha": "center", "color": canvas.ink_on(share)}
        axes.text(
            column,
            row,
            f"{100 * share:.0f} %" if share >= 0.005 else "< 1 %",
            va="bottom",
            size=large,
            **style,
        )
        axes.text(column, row + 0.08, f"{count:,}", va="top", size=large - 1.5, **style)


def _outline_band(axes: Axes, size: int) -> None:
    upper = [(x, max(x - 1, 0)) for x in range(size)]
    lower = [(x, min(x + 2, size)) for x in range(size)]
    for edge in (upper, lower):
        stairs = np.array([(x + step, y) for x, y in edge for step in (0, 1)], dtype=float) - 0.5
        axes.plot(*stairs.T, color=canvas.VERMILION, linewidth=1.8, solid_joinstyle="miter", clip_on=False)
    for side, (low, high) in ((-0.5, (0, min(2, size))), (size - 0.5, (max(size - 2, 0), size))):
        axes.plot([side, side], [low - 0.5, high - 0.5], color=canvas.VERMILION, linewidth=1.8, clip_on=False)


def group_recalls(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, per true group of a confusion matrix, the per cent predicted exactly and within one group.

    Both are float64 (K,), nan for a group without images.

    >>> exact, one_off = group_recalls(np.array([[1, 1, 2], [0, 0, 0], [0, 0, 5]]))
    >>> exact.tolist(), one_off.tolist()
    ([25.0, nan, 100.0], [50.0, nan, 100.0])
    """
    near = np.abs(np.subtract.outer(np.arange(len(counts)), np.arange(len(counts)))) <= 1
    totals = np.where(counts.sum(axis=1) > 0, counts.sum(axis=1), np.nan)
    return 100 * np.diag(counts) / totals, 100 * np.where(near, counts, 0).sum(axis=1) / totals


def draw_group_bars(
    class_names: Sequence[str],
    counts: np.ndarray,
    exact: np.ndarray,
    one_off: np.ndarray,
    out: Path,
    *,
    exact_interval: np.ndarray | None = None,
    one_off_interval: np.ndarray | None = None,
) -> Path:
    """Draw, for each true group, how many of its images were predicted exactly and within one group.

    Args:
        class_names: the K groups, young to old.
        counts: (K,) int, images of each true group; a group with 0 is marked "no images".
        exact, one_off: (K,) per cent; nan where the group has no images.
        out: the PNG to write.
        exact_interval, one_off_interval: (K, 2) per cent, low and high ends of a 95 % interval; nan for none.

    Where intervals are given, a group without one is pale: it has too few subjects to conclude anything.

    Returns:
        `out`.
    """
    counts, positions = np.asarray(counts), np.arange(len(class_names))
    title = f"Correct per true age group, {canvas.count_text(int(counts.sum()), 'image')}"
    given = exact_interval is not None or one_off_interval is not None
    meaning = "; lines: 95 % intervals, pale: too few for one" if given else ""
    with canvas.new_figure(out, 4.4, title, f"fraction of each group's images{meaning}") as figure:
        axes = figure.add_subplot()
        axes.grid(True, axis="y")
        for values, interval, colour, line, shift in (
            (exact, exact_interval, canvas.BLUE, canvas.INK, -0.2),
            (one_off, one_off_interval, canvas.SKY, canvas.MUTED, 0.2),
        ):
            heights = np.where(counts > 0, np.asarray(values, dtype=float), np.nan)
            _draw_bars(axes, positions + shift, heights, interval, colour, line)
        for x in positions[counts == 0]:
            axes.text(x, 3, "no images", ha="center", va="bottom", color=canvas.MUTED, rotation=90)
        labels = [f"{name}\nn = {n:,}" for name, n in zip(class_names, counts, strict=True)]
        canvas.label_ticks(axes, "x", labels)
        axes.set(ylim=(0, 108), xlim=(-0.6, len(class_names) - 0.4), yticks=range(0, 101, 20))
        axes.set(ylabel="% of the group's images", xlabel="true group")
        _draw_legend(figure, {"exactly the group": canvas.BLUE, "within one group": canvas.SKY})
    return out


def _draw_bars(
    axes: Axes, x: np.ndarray, heights: np.ndarray, interval: np.ndarray | None, colour: str, line: str
) -> None:
    """Draw one kind of bars with their numbers, and with their intervals where there are any."""
    tops, known = heights, np.isfinite(heights)
    if interval is not None:
        low, high = np.asarray(interval, dtype=float).T
        known = known & np.isfinite(low) & np.isfinite(high)
        axes.vlines(x[known], low[known], high[known], color=line, linewidth=1.4)
        tops = np.where(known, np.fmax(heights, high), heights)
    bars = axes.bar(x, np.nan_to_num(heights), 0.4, color=colour)
    for bar, sure in zip(bars, known, strict=True):
        bar.set_alpha(1.0 if sure else 0.45)
    for place, height, top in zip(x, heights, tops, strict=True):
        if np.isfinite(height):
            axes.text(place, top + 1.2, f"{height:.0f}", ha="center", va="bottom", size=canvas.SMALL)


def _draw_legend(figure: Figure, colours: dict[str, str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
    figure.legend(handles=handles, loc="upper right", ncols=2, bbox_to_anchor=(0.995, 0.985))


def draw_comparison(a: Result, b: Result, names: Sequence[str], out: Path) -> list[Picture]:
    """Draw the gallery of disagreements and the heat maps of the most telling images under `out`.

    Of years the heat maps are curves. Without leave to show people (`Result.shows_people` of both) there is
    no gallery, and no face in the maps.
    """
    classes, called = a.class_names, (names[0], names[1])
    shown = a.shows_people and b.shows_people
    years = years_of(classes)
    unit = "group" if years is None else "year"

    def gallery(files: Sequence[Path], first: Predictions, second: Predictions, file: Path) -> None:
        rows = choose_disagreements(first.target, first.probs, second.probs)
        draw_gallery(
            rows, files, first.target, first.probs, second.probs, classes, file, names=called, unit=unit
        )

    def heat_maps(files: Sequence[Path], first: Predictions, second: Predictions, file: Path) -> None:
        probs = dict(zip(called, (first.probs, second.probs), strict=True))
        if years is not None:
            rows = spread(range(len(files)))
            own = {name: one[rows] for name, one in probs.items()}
            told = first.select(rows)
            draw_year_curves([files[row] for row in rows], told, own, years, file, thumbnails=shown)
            return
        subtitle = "per true group, the image on which the two differ most, only one correct if any"
        draw_heat_maps(files, first.target, probs, classes, file, subtitle=subtitle, thumbnails=shown)

    faces = gallery if shown else None  # a gallery shows faces and nothing else
    return draw_both(a, b, out, gallery=faces, heat_maps=heat_maps, picked=PICKED, telling=TELLING)
