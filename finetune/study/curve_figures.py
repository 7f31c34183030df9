"""Epoch by epoch: the test error and the gradient factor of every arm, means over seeds with their spread."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune import canvas
from finetune.study.arms import BASELINE, Arm
from finetune.study.cells import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours that read on white, and line styles for the arms beyond them.
COLOURS = (canvas.VERMILION, canvas.BLUE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
TOGETHER = 4  # arms that share one pair of axes; more get a panel each
ACROSS, PANEL_HEIGHT = 4, 1.75  # panels in a row; inches
SETTLED = 1 / 3  # share of the training after which the error decides how far the axis reaches
FAILED = 4.0  # an arm whose error is so many times as far up as the usual one's does not flatten the others
UNBOUNDED = 100.0  # a mean factor above it is one of few images with a tiny q, as NLLR's 1 / q
LOG_FROM = 12.0  # ratio of the largest to the smallest factor from which on the axis is logarithmic


@dataclass(frozen=True)
class Curve:
    """An arm's mean and sd (nan for one seed) over `seeds` cells, at epochs counted from 1."""

    arm: Arm
    epochs: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    seeds: int


def draw_error_curves(
    cells: Sequence[Cell], arms: Sequence[Arm], out: Path, *, part: str = "test"
) -> Path | None:
    """Draw the error against epochs: a line per arm, the mean over seeds, in a band of one sd each way.

    Up to four arms share the axes; more get a panel each, beside cross-entropy in grey, on one scale. The
    axis may cut off errors of the first third of the training, and an arm that failed; then it is told.

    Args:
        cells: the finished cells, whose history holds `test_error` (or `validation_error`); an arm's epochs
            are those that all of its cells measured.
        arms: those to draw.
        out: the PNG to write.
        part: the images the error is of: test or validation.

    Returns:
        `out`, or None where no such error was measured.
    """
    curves = read_curves(cells, arms, f"{part}_error")
    heading = f"{part.capitalize()} error per epoch"
    if not curves:
        return None
    seeds = max(curve.seeds for curve in curves)
    subtitle = f"mean of {canvas.count_text(seeds, 'seed')}" + (
        ", band: one sd each way" if seeds > 1 else ""
    )
    top, cut = _reach(curves)
    subtitle += "; higher errors are cut off" if cut else ""
    if len(curves) <= TOGETHER:
        with canvas.new_figure(out, 4.2, heading, subtitle) as figure:
            axes = figure.subplots()
            _draw_together(axes, curves)
            _finish(axes, top)
            axes.set(xlabel="epoch", ylabel=f"{part} error (%)")
        return out
    baseline = next((curve for curve in curves if curve.arm.name == BASELINE), None)
    others = [curve for curve in curves if curve is not baseline]
    rows = -(-len(others) // ACROSS)
    subtitle += "; grey: CE" if baseline else ""
    with canvas.new_figure(out, 0.9 + PANEL_HEIGHT * rows, heading, subtitle, 9.0) as figure:
        _draw_panels(figure, rows, baseline, others, top)
        figure.supylabel(f"{part} error (%)", size=canvas.NORMAL)
    return out


def draw_factor_curves(cells: Sequence[Cell], arms: Sequence[Arm], out: Path) -> Path | None:
    """Draw by how much each loss's push on the true logit exceeds cross-entropy's, epoch by epoch.

    A line is the mean over seeds of an epoch's mean of push / q over images. Cross-entropy's is 1 throughout,
    at whatever rate it learns. The axis is logarithmic where the factors are far apart. A factor without
    bound, as NLLR's 1 / q, is that of its few surest images: it is left out, and that is told.

    Args:
        cells: the finished cells, whose history holds `gradient_factor`.
        arms: those to draw; cross-entropy and its rate-matched and smoothed forms are left out.
        out: the PNG to write.

    Returns:
        `out`, or None where no arm but cross-entropy has a factor with a bound.
    """
    shown = [arm for arm in arms if arm.loss.name != BASELINE or arm.head]
    found = read_curves(cells, shown, "gradient_factor")
    curves = [curve for curve in found if curve.mean.max() <= UNBOUNDED]
    if not curves:
        return None
    left_out = [canvas.drawable(curve.arm.title) for curve in found if curve.mean.max() > UNBOUNDED]
    values = np.concatenate([[1.0], *(curve.mean for curve in curves)])
    wide = values.min() > 0 and values.max() / values.min() > LOG_FROM
    subtitle = "mean over images of push / q, mean of the seeds; 1 is cross-entropy's" + (
        "; logarithmic axis" if wide else ""
    )
    subtitle += f"\nleft out, beyond {UNBOUNDED:g}: {', '.join(left_out)}" if left_out else ""
    with canvas.new_figure(out, 4.2, "Gradient factor per epoch", subtitle) as figure:
        axes = figure.subplots()
        _draw_together(axes, curves)
        axes.axhline(1.0, color=canvas.INK, linewidth=1.4, label="CE (always 1)")
        axes.set(xlabel="epoch", ylabel="gradient factor")
        _finish(axes, None)
        if wide:
            _count_in_powers(axes)
    return out


def read_curves(cells: Sequence[Cell], arms: Sequence[Arm], key: str) -> list[Curve]:
    """Return the curve of every arm whose cells have `key` in their history, at the epochs they all have."""
    curves = []
    for arm in arms:
        tables = [_by_epoch(cell, key) for cell in cells if cell.arm == arm.name]
        tables = [table for table in tables if table]
        shared = sorted(set.intersection(*map(set, tables))) if tables else []
        if not shared:
            continue
        values = np.array([[table[epoch] for epoch in shared] for table in tables])
        sd = values.std(axis=0, ddof=1) if len(tables) > 1 else np.full(len(shared), np.nan)
        curves.append(Curve(arm, np.array(shared) + 1, values.mean(axis=0), sd, len(tables)))
    return curves


def _by_epoch(cell: Cell, key: str) -> Mapping[int, float]:
    rows = {int(row["epoch"]): row.get(key) for row in cell.history}
    return {epoch: float(value) for epoch, value in rows.items() if value is not None and np.isfinite(value)}


def styles(curves: Sequence[Curve]) -> Iterator[tuple[Curve, str, object]]:
    """Yield every curve with its colour and line style; cross-entropy is dark and solid."""
    number = 0
    for curve in curves:
        if curve.arm.name == BASELINE:
            yield curve, canvas.INK, "-"
            continue
        yield curve, COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        number += 1


def _draw_together(axes: Axes, curves: Sequence[Curve]) -> None:
    for curve, colour, dashes in styles(curves):
        _draw_curve(axes, curve, colour, dashes)


def _draw_curve(axes: Axes, curve: Curve, colour: str, dashes: object = "-", width: float = 1.6) -> None:
    marker = "o" if len(curve.epochs) == 1 else ""
    title = canvas.drawable(curve.arm.title)
    axes.plot(
        curve.epochs, curve.mean, color=colour, linestyle=dashes, linewidth=width, marker=marker, label=title
    )
    if np.isfinite(curve.sd).any():
        low, high = curve.mean - curve.sd, curve.mean + curve.sd
        axes.fill_between(curve.epochs, low, high, color=colour, alpha=0.16, linewidth=0)


def _draw_panels(
    figure: Figure, rows: int, baseline: Curve | None, others: Sequence[Curve], top: tuple[float, float]
) -> None:
    grid = figure.subplots(rows, ACROSS, sharex=True, sharey=True, squeeze=False)
    for position, axes in enumerate(grid.flat):
        if position >= len(others):
            axes.set_axis_off()
            grid.flat[position - ACROSS].tick_params(labelbottom=True)
            continue
        if baseline is not None:
            _draw_curve(axes, baseline, canvas.MUTED, width=1.2)
        _draw_curve(axes, others[position], canvas.VERMILION)
        axes.set_title(_panel_title(others[position].arm.title), size=canvas.SMALL)
        axes.tick_params(labelsize=canvas.SMALL)
        axes.grid(True, axis="y")
    _limit(grid.flat[0], top)
    figure.supxlabel("epoch", size=canvas.NORMAL)


def _panel_title(title: str) -> str:
    """Return a title on two lines where it does not fit over a panel on one."""
    width = 1.95
    if canvas.text_width(title, canvas.SMALL) <= width:
        return canvas.drawable(title)
    head, space, tail = title.partition(" matched to ")
    first, second = (f"{head} matched", f"to {tail}") if space else (title.partition(", ")[0] + ",", "")
    if not space:
        second = title.partition(", ")[2]
    return canvas.drawable("\n".join(canvas.fit(line, width, canvas.SMALL) for line in (first, second)))


def _finish(axes: Axes, top: tuple[float, float] | None) -> None:
    axes.grid(True, axis="y")
    _limit(axes, top)
    axes.margins(x=0.02)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=canvas.SMALL)


def _limit(axes: Axes, ends: tuple[float, float] | None) -> None:
    from matplotlib.ticker import MaxNLocator

    if ends is not None:
        axes.set_ylim(*ends)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _count_in_powers(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _reach(curves: Sequence[Curve]) -> tuple[tuple[float, float], bool]:
    """Return the ends of the error axis, and whether some errors lie beyond it."""
    last = max(int(curve.epochs[-1]) for curve in curves)
    lows, highs, peak = [], [], 0.0
    for curve in curves:
        band = np.nan_to_num(curve.sd)
        settled = curve.epochs > SETTLED * last
        settled = settled if settled.any() else np.ones_like(settled)
        lows.append(float((curve.mean - band)[settled].min()))
        highs.append(float((curve.mean + band)[settled].max()))
        peak = max(peak, float((curve.mean + band).max()))
    low, usual = max(min(lows), 0.0), float(np.median(highs))
    high = min(max(highs), low + FAILED * (usual - low))
    room = 0.05 * max(high - low, 0.1)
    return (max(low - room, 0.0), high + room), peak > high + room
