"""Epoch by epoch: the test error and the gradient factor of every arm, means over seeds with their spread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.experiments.study.arms import BASELINE, Arm
from finetune.experiments.study.cells import Cell
from finetune.figures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours that read on white, and line styles for the arms beyond them.
COLOURS = (canvas.VERMILION, canvas.BLUE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
TOGETHER = 4  # arms whose errors share one pair of axes; more get a panel each
FACTORS_TOGETHER = 8  # the same of gradient factors, whose lines lie further apart
PANEL_HEIGHT = 1.75  # inches
SHEETS = ((16, 4, 9.0), (10**6, 6, 12.0))  # up to so many panels: panels in a row, inches of width
SETTLED = 1 / 3  # fraction of the training after which the error decides how far the axis reaches
FAILED = 4.0  # an arm whose error is so many times as far up as the usual one's does not flatten the others
UNBOUNDED = 100.0  # a mean factor above it is one of few images with a tiny q = 1 - p, as NLLR's 1 / q
LEGEND_WIDTH, PANEL_TITLE_WIDTH = 2.4, 1.8  # inches
LOG_FROM = 12.0  # ratio of the largest to the smallest factor from which on the axis is logarithmic


@dataclass(frozen=True)
class Curve:
    """An arm's mean and sd (nan for one seed) over `seeds` cells, at epochs counted from 1."""

    arm: Arm
    epochs: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    seeds: int
    ends: tuple[float, float] = (-np.inf, np.inf)  # what no value can lie beyond

    @property
    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """One sd below and above the mean, within the ends; the mean itself for one seed."""
        sd = np.nan_to_num(self.sd)
        return np.clip(self.mean - sd, *self.ends), np.clip(self.mean + sd, *self.ends)


def draw_error_curves(
    cells: Sequence[Cell], arms: Sequence[Arm], out: Path, *, part: str = "test"
) -> Path | None:
    """Draw the error against epochs: a line per arm, the mean over seeds, in a band of one sd each way.

    Up to four arms share the axes; more get a panel each, beside cross-entropy in grey, on one scale. The
    axis may cut off errors of the first third of the training, and an arm that failed; then that is reported.

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
    ends, cut = _reach(curves)
    subtitle += "; higher errors are cut off" if cut else ""
    notes = [_off_the_scale(curve, ends) for curve in curves]
    label = f"{part} error (%)"
    if len(curves) <= TOGETHER:
        with canvas.new_figure(out, 4.2, heading, subtitle) as figure:
            axes = figure.subplots()
            _draw_together(axes, curves, notes)
            _finish(axes, ends)
            axes.set(xlabel="epoch", ylabel=label)
        return out
    baseline = next((curve for curve in curves if curve.arm.name == BASELINE), None)
    panels = [(curve, note) for curve, note in zip(curves, notes, strict=True) if curve is not baseline]
    subtitle += "; grey: CE" if baseline else ""

    def behind(axes: Axes) -> None:
        if baseline is not None:
            _draw_curve(axes, baseline, canvas.MUTED, width=1.2)

    with _sheet(out, heading, subtitle, len(panels)) as (figure, grid):
        _draw_panels(grid, panels, behind)
        _limit(grid.flat[0], ends)
        figure.supylabel(label, size=canvas.NORMAL)
    return out


def draw_factor_curves(cells: Sequence[Cell], arms: Sequence[Arm], out: Path) -> Path | None:
    """Draw by how much each loss's gradient magnitude exceeds cross-entropy's, epoch by epoch.

    A line is the mean over seeds of an epoch's mean of that ratio over images. Cross-entropy's is 1
    throughout, at whatever learning rate. More than eight arms get a panel each. The axis is logarithmic
    where the factors are far apart. A factor without bound, as NLLR's 1 / q, is that of its few most
    confident images: it is left out, and that is reported.

    Args:
        cells: the finished cells, whose history holds `gradient_factor`.
        arms: those to draw; cross-entropy and its lr-matched and smoothed forms are left out.
        out: the PNG to write.

    Returns:
        `out`, or None where no arm but cross-entropy has a factor with a bound.
    """
    shown = [arm for arm in arms if arm.loss.name != BASELINE or arm.head]
    found = read_curves(cells, shown, "gradient_factor")
    curves = [curve for curve in found if curve.mean.max() <= UNBOUNDED]
    if not curves:
        return None
    left_out = [curve.arm.title for curve in found if curve.mean.max() > UNBOUNDED]
    values = np.concatenate([[1.0], *(curve.mean for curve in curves)])
    wide = values.min() > 0 and values.max() / values.min() > LOG_FROM
    heading = "Gradient factor per epoch"
    subtitle = "gradient over cross-entropy's: mean over images, mean of seeds; 1 is cross-entropy's" + (
        "; logarithmic axis" if wide else ""
    )
    subtitle += f"\n{_left_out(left_out)}" if left_out else ""
    if len(curves) <= FACTORS_TOGETHER:
        with canvas.new_figure(out, 4.2, heading, subtitle) as figure:
            axes = figure.subplots()
            _draw_together(axes, curves, [""] * len(curves))
            axes.axhline(1.0, color=canvas.INK, linewidth=1.4, label="CE (always 1)")
            axes.set(xlabel="epoch", ylabel="gradient factor")
            _finish(axes, None)
            if wide:
                _count_in_powers(axes)
        return out
    with _sheet(out, heading, subtitle, len(curves)) as (figure, grid):
        panels = [(curve, "") for curve in curves]
        _draw_panels(grid, panels, lambda axes: axes.axhline(1.0, color=canvas.MUTED, linewidth=1.2))
        if wide:
            _count_in_powers(grid.flat[0])
        figure.supylabel("gradient factor", size=canvas.NORMAL)
    return out


def _left_out(titles: Sequence[str]) -> str:
    """Return a line that names the arms left out, as many as it has room for."""
    lead, room = f"left out, beyond {UNBOUNDED:g}: ", canvas.WIDTH_INCHES - 0.4
    for count in range(len(titles), 0, -1):
        more = f" and {len(titles) - count} more" if count < len(titles) else ""
        line = lead + ", ".join(titles[:count]) + more
        if canvas.text_width(line, canvas.NORMAL) <= room:
            return line
    return f"{lead}{canvas.count_text(len(titles), 'arm')}"


def read_curves(cells: Sequence[Cell], arms: Sequence[Arm], key: str) -> list[Curve]:
    """Return the curve of every arm whose cells have `key` in their history, at the epochs they all have."""
    ends = (0.0, 100.0) if key.endswith("_error") else (-np.inf, np.inf)
    curves = []
    for arm in arms:
        tables = [_by_epoch(cell, key) for cell in cells if cell.arm == arm.name]
        tables = [table for table in tables if table]
        shared = sorted(set.intersection(*map(set, tables))) if tables else []
        if not shared:
            continue
        values = np.array([[table[epoch] for epoch in shared] for table in tables])
        sd = values.std(axis=0, ddof=1) if len(tables) > 1 else np.full(len(shared), np.nan)
        curves.append(Curve(arm, np.array(shared), values.mean(axis=0), sd, len(tables), ends))
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


def _draw_together(axes: Axes, curves: Sequence[Curve], notes: Sequence[str]) -> None:
    titles = short_titles([curve.arm.title for curve in curves], LEGEND_WIDTH, canvas.SMALL)
    for (curve, colour, dashes), title, note in zip(styles(curves), titles, notes, strict=True):
        _draw_curve(axes, curve, colour, dashes, label=f"{title}\n{note}" if note else title)


def _draw_curve(
    axes: Axes, curve: Curve, colour: str, dashes: object = "-", width: float = 1.6, label: str = ""
) -> None:
    marker = "o" if len(curve.epochs) == 1 else ""
    style: dict[str, Any] = {"color": colour, "linestyle": dashes, "linewidth": width, "marker": marker}
    axes.plot(curve.epochs, curve.mean, label=label, **style)
    if np.isfinite(curve.sd).any():
        axes.fill_between(curve.epochs, *curve.band, color=colour, alpha=0.16, linewidth=0)


@contextmanager
def _sheet(out: Path, title: str, subtitle: str, panels: int) -> Iterator[tuple[Figure, Any]]:
    """Give a figure with a grid of at least so many axes, all on one scale."""
    across, width = next((across, width) for most, across, width in SHEETS if panels <= most)
    rows = -(-panels // across)
    with canvas.new_figure(out, 0.9 + PANEL_HEIGHT * rows, title, subtitle, width) as figure:
        yield figure, figure.subplots(rows, across, sharex=True, sharey=True, squeeze=False)
        figure.supxlabel("epoch", size=canvas.NORMAL)


def _draw_panels(grid: Any, panels: Sequence[tuple[Curve, str]], behind: Callable[[Axes], object]) -> None:
    """Draw one curve a panel, over what `behind` draws in each, with its note where it has one."""
    from matplotlib.ticker import MaxNLocator

    titles = short_titles([curve.arm.title for curve, _ in panels], PANEL_TITLE_WIDTH, canvas.SMALL)
    for position, axes in enumerate(grid.flat):
        if position >= len(panels):
            axes.set_axis_off()
            grid.flat[position - grid.shape[1]].tick_params(labelbottom=True)
            continue
        curve, note = panels[position]
        behind(axes)
        _draw_curve(axes, curve, canvas.VERMILION)
        axes.set_title(titles[position], size=canvas.SMALL)
        axes.text(
            0.5,
            0.9,
            note,
            transform=axes.transAxes,
            ha="center",
            va="top",
            size=canvas.SMALL,
            color=canvas.VERMILION,
        )
        axes.tick_params(labelsize=canvas.SMALL)
        axes.grid(True, axis="y")
    grid.flat[0].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _off_the_scale(curve: Curve, ends: tuple[float, float]) -> str:
    """Return what to write of a curve that ends above the axis; nothing of one that does not."""
    return f"off the scale: {curve.mean[-1]:.0f} %" if curve.mean[-1] > ends[1] else ""


def _finish(axes: Axes, top: tuple[float, float] | None) -> None:
    axes.grid(True, axis="y")
    _limit(axes, top)
    axes.margins(x=0.02)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=canvas.SMALL)


def _limit(axes: Axes, ends: tuple[float, float] | None) -> None:
    from matplotlib.ticker import MaxNLocator

    if ends is not None:
        axes.set_ylim(*ends)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _count_in_powers(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _reach(curves: Sequence[Curve]) -> tuple[tuple[float, float], bool]:
    """Return the ends of the error axis, and whether some errors lie beyond it; one arm alone is whole."""
    last = max(int(curve.epochs[-1]) for curve in curves)
    lows, highs, peak = [], [], 0.0
    for curve in curves:
        below, above = curve.band
        settled = curve.epochs > SETTLED * last
        if len(curves) == 1 or not settled.any():
            settled = np.ones_like(settled)
        lows.append(float(below[settled].min()))
        highs.append(float(above[settled].max()))
        peak = max(peak, float(above.max()))
    low, usual = min(lows), float(np.median(highs))
    high = min(max(highs), low + FAILED * (usual - low))
    room = 0.05 * max(high - low, 0.1)
    return (max(low - room, 0.0), high + room), peak > high + room


def short_titles(titles: Sequence[str], width: float, size: float) -> list[str]:
    """Return drawable titles of one or two lines; different ones stay different.

    A title that is too wide goes onto two lines, and only what is too wide then is cut.

    Args:
        titles: of all arms of a figure.
        width: what a line has, in inches.
        size: of the letters, in points.

    >>> short_titles(["CRL", "CE, lr matched to CRL (mean factor)"], 1.95, 8.0)
    ['CRL', 'CE, lr matched to CRL\\n(mean factor)']
    """
    parts = [_parts(title) if canvas.text_width(title, size) > width else (title, "") for title in titles]
    first, second = (canvas.distinct_fits([part[side] for part in parts], width, size) for side in (0, 1))
    return [canvas.drawable(f"{one}\n{two}" if two else one) for one, two in zip(first, second, strict=True)]


def _parts(title: str) -> tuple[str, str]:
    """Return the two lines of a title; the second is empty where there is no place to break it."""
    for mark, keeps in ((", label smoothing", 2), (" (", 1), (", ", 2)):
        place = title.find(mark)
        if place > 0:
            return title[: place + keeps].rstrip(), title[place + keeps :]
    return title, ""
