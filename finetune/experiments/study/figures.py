"""The figures of a study, in the order in which they are looked at: differences, curves, the grid of CRL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.cli.words import value_text
from finetune.experiments.study.arms import BASELINE, Arm, grid_arm
from finetune.experiments.study.cells import Cell
from finetune.experiments.study.conclusion import all_alike, interval_words
from finetune.experiments.study.curve_figures import draw_error_curves, draw_factor_curves, short_titles
from finetune.figures import canvas
from finetune.figures.markdown import Picture, p_text, signed
from finetune.metrics.intervals import alike_words
from finetune.metrics.paired_tests import SAME_TO

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = PurePosixPath("pictures")
ROW, TITLE_WIDTH = 0.3, 2.9  # inches; a title may have two lines
FAR = 6.0  # medians of the reach beyond which a line is cut off
CELL = (1.15, 0.62)  # inches
Row = tuple[str, Mapping[str, Any]]


def draw_study(
    folder: Path, summary: Mapping[str, Any], cells: Sequence[Cell], arms: Sequence[Arm]
) -> dict[str, Picture]:
    """Draw what the cells allow into folder/pictures; return the figures by name.

    Names: differences, error_curves, factor_curves, grid. The curves leave out the grid's arms.
    """
    alone = _outside_grid(arms)
    places = {name: folder / PICTURES / f"{name}.png" for name in _TOLD}
    tested = any("test_error" in row for cell in cells for row in cell.history)
    part = "test" if tested else "validation"
    drawn = {
        "differences": draw_differences(summary, places["differences"]),
        "error_curves": draw_error_curves(cells, alone, places["error_curves"], part=part),
        "factor_curves": draw_factor_curves(cells, alone, places["factor_curves"]),
        "grid": draw_grid(summary, arms, places["grid"]),
    }
    told = _TOLD if tested else {**_TOLD, "error_curves": _VALIDATION}
    return {
        name: Picture(PICTURES / f"{name}.png", *told[name])
        for name, file in drawn.items()
        if file is not None
    }


def _outside_grid(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms without those that are there for the grid alone."""
    if find_grid(arms) is None:
        return list(arms)
    kept = {BASELINE, "crl", *(arm.matches for arm in arms)}
    return [arm for arm in arms if arm.name in kept or arm.loss.name != "crl" or not arm.plain]


_VALIDATION = (
    "Validation error per epoch",
    "Means over seeds in bands of one standard deviation, on the images held out from training. Test images "
    "are computed once, at the end.",
)
_TOLD = {
    "differences": (
        "Differences from cross-entropy",
        "Each line is a paired difference over seeds with its interval; blue ones are shown by the "
        "Holm-adjusted paired t-test, grey ones are not.",
    ),
    "error_curves": (
        "Test error per epoch",
        "Means over seeds in bands of one standard deviation. The curves were looked at after the fact: no "
        "epoch was chosen by them.",
    ),
    "factor_curves": (
        "Gradient factor per epoch",
        "Gradient magnitude on the true logit over cross-entropy's (1 - p), averaged over the training "
        "images as they come; cross-entropy's is 1.",
    ),
    "grid": (
        "Alpha and beta",
        "Mean error, and its sd over seeds. Outlined is the lowest of CRL's cells drawn, or all that share "
        "it; of so many cells one is lowest by chance too, and the outline is no test.",
    ),
}


def draw_differences(summary: Mapping[str, Any], out: Path) -> Path | None:
    """Draw the mean difference of each arm to cross-entropy in the first measure, with its interval.

    Blue lines are differences that the Holm-adjusted paired t-test shows; grey ones are not shown. A line
    that would flatten all the others is cut off, with a triangle; its numbers stand beside it all the same.

    Args:
        summary: of `summarise_study`.
        out: the PNG to write.

    Returns:
        `out`, or None where no arm has an interval (a single seed).
    """
    measure = summary["measures"][0]
    found = [(row["title"], row["measures"][measure["key"]]["difference"]) for row in summary["arms"]]
    rows: list[Row] = [(title, one) for title, one in found if one is not None and one["interval"]]
    if not rows:
        return None
    label, level = measure["label"].removesuffix("(%)").strip(), 100 * summary["level"]
    title = f"Difference from CE in {label}, in points"
    subtitle = (
        f"mean over paired seeds, its {level:g} % interval, the Holm-adjusted p of the paired t-test\n"
        "blue: shown; grey: not shown"
    )
    limit = _reach(rows)
    if any(abs(end) > limit for _, found in rows for end in found["interval"]):
        subtitle += "; triangles: beyond the axis"
    with canvas.new_figure(out, 1.45 + ROW * len(rows), title, subtitle, 9.0) as figure:
        axes = figure.subplots()
        _draw_rows(axes, rows, limit)
        axes.set_xlabel("lower than CE  |  higher than CE", color=canvas.MUTED, size=canvas.SMALL)
    return out


def _reach(rows: Sequence[Row]) -> float:
    """Return how far the axis goes each way; arms without any difference do not shorten it."""
    reach = np.array([max(abs(end) for end in found["interval"]) for _, found in rows])
    reach = reach[reach > 0]
    return min(float(reach.max()), FAR * float(np.median(reach))) if reach.size else 1.0


def _draw_rows(axes: Axes, rows: Sequence[Row], limit: float) -> None:
    axes.axvline(0, color=canvas.INK, linewidth=0.9)
    for y, (_, found) in enumerate(rows):
        colour = canvas.BLUE if found["shown"] else canvas.MUTED
        low, high = (float(np.clip(end, -limit, limit)) for end in found["interval"])
        axes.plot([low, high], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt")
        if abs(found["mean"]) <= limit:
            axes.plot(found["mean"], y, "o", color=colour, markersize=5)
        for side in {float(np.sign(end)) for end in found["interval"] if abs(end) > limit}:
            mark = "<" if side < 0 else ">"
            axes.plot(limit * side, y, mark, color=colour, markersize=6, clip_on=False)
        axes.text(
            1.02,
            y,
            _numbers(found),
            transform=axes.get_yaxis_transform(),
            va="center",
            size=canvas.SMALL,
            color=canvas.INK if found["shown"] else canvas.MUTED,
        )
    titles = short_titles([title for title, _ in rows], TITLE_WIDTH, canvas.SMALL)
    canvas.label_ticks(axes, "y", titles, size=canvas.SMALL)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(-1.05 * limit, 1.05 * limit))
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")


def _numbers(found: Mapping[str, Any]) -> str:
    if all_alike(found):
        return f"{signed(found['mean'])}, all seeds {alike_words(found['mean'])}"
    return f"{signed(found['mean'])} ({interval_words(found)}), p {p_text(found['p_t_holm'])}"


@dataclass(frozen=True)
class Grid:
    """The alphas and betas that CRL was trained with, rising."""

    alphas: tuple[float, ...]
    betas: tuple[float, ...]

    def arm(self, alpha: float, beta: float) -> str:
        """Return the name of a cell's arm."""
        return grid_arm(alpha, beta)


def find_grid(arms: Sequence[Arm]) -> Grid | None:
    """Return the grid that a study's CRL arms make; None for fewer than two alphas or two betas.

    >>> from finetune.experiments.study.arms import build_arms
    >>> find_grid(build_arms(["crl"], controls=False, grid=True, grid_alphas=(1, 1.5), grid_betas=(0.5, 1)))
    Grid(alphas=(1.0, 1.5), betas=(0.5, 1.0))
    """
    crl = [arm for arm in arms if arm.loss.name == "crl" and arm.plain]
    pairs = {(float(arm.loss.options["alpha"]), float(arm.loss.options["beta"])) for arm in crl}
    alphas, betas = ({pair[side] for pair in pairs} for side in (0, 1))
    if min(len(alphas), len(betas)) < 2 or len(pairs) <= len(alphas) + len(betas) - 1:
        return None
    return Grid(tuple(sorted(alphas)), tuple(sorted(betas)))


def draw_grid(summary: Mapping[str, Any], arms: Sequence[Arm], out: Path) -> Path | None:
    """Draw the mean error of every alpha and beta, its sd small below, and cross-entropy as beta 0.

    The cell with the lowest mean is outlined, or all that share it; it is the best of so many by chance too,
    and no test belongs to the outline. Darker is more error; where the colours end below the highest, it is
    told.

    Args:
        summary: of `summarise_study`; its first measure is drawn, as 100 minus the score.
        arms: of the study.
        out: the PNG to write.

    Returns:
        `out`, or None where the study has no grid or none of its cells is finished.
    """
    grid, key = find_grid(arms), summary["measures"][0]["key"]
    if grid is None:
        return None
    found = {row["name"]: row["measures"][key] for row in summary["arms"]}
    rows = [
        (beta, [found.get(grid.arm(alpha, beta)) for alpha in grid.alphas]) for beta in grid.betas if beta
    ]
    rows.insert(0, (0.0, [found.get(BASELINE)] * len(grid.alphas)))
    table = np.array([[_error(cell) for cell in cells] for _, cells in rows])
    if not np.isfinite(table[1:]).any():
        return None
    count = int(np.isfinite(table[1:]).sum())
    title = "CRL: mean test error (%) over alpha and beta"
    best, top = _lowest(table), _scale(table)[1]
    lowest = "the lowest" if len(best) == 1 else f"the {len(best)} lowest, all equal,"
    subtitle = f"small: sd over seeds; outlined: {lowest} of {count} CRL cells, not a tested difference"
    if np.nanmax(table) > top:
        subtitle += f"\nno darker colour above {top:.2f}"
    widest = max(canvas.text_width(line, canvas.NORMAL) for line in subtitle.splitlines())
    width = max(CELL[0] * len(grid.alphas) + 1.9, widest + 0.3, 5.6)
    with canvas.new_figure(out, CELL[1] * len(rows) + 1.3, title, subtitle, width) as figure:
        axes = figure.subplots()
        _draw_cells(axes, table, [[cell and cell["sd"] for cell in cells] for _, cells in rows])
        canvas.label_ticks(axes, "x", [value_text(alpha) for alpha in grid.alphas])
        canvas.label_ticks(axes, "y", ["0 (CE)", *(value_text(beta) for beta, _ in rows[1:])])
        axes.set(xlabel="alpha", ylabel="beta")
    return out


def _error(cell: Mapping[str, Any] | None) -> float:
    return float("nan") if cell is None or cell["mean"] is None else 100 - cell["mean"]


def _draw_cells(axes: Axes, table: np.ndarray, spread: Sequence[Sequence[float | None]]) -> None:
    from matplotlib.patches import Rectangle

    low, high = _scale(table)
    for (row, column), value in np.ndenumerate(table):
        whole = row == 0  # cross-entropy knows no alpha: one cell across
        if whole and column:
            continue
        wide = table.shape[1] if whole else 1
        share = 0.85 * min(max((value - low) / (high - low), 0.0), 1.0) if np.isfinite(value) else 0.0
        colour = canvas.shade(canvas.BLUES, share) if np.isfinite(value) else canvas.PAPER
        place = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(place, wide, 1, facecolor=colour, edgecolor=canvas.PAPER, linewidth=1.5))
        ink = canvas.readable_ink(colour, (canvas.INK, canvas.PAPER))
        middle, sd = column + (wide - 1) / 2, spread[row][column]
        text = f"{value:.2f}" if np.isfinite(value) else "not finished"
        axes.text(middle, row - (0.1 if sd is not None else 0), text, ha="center", va="center", color=ink)
        if sd is not None:
            axes.text(
                middle, row + 0.24, f"± {sd:.2f}", ha="center", va="center", color=ink, size=canvas.SMALL - 1
            )
    for row, column in _lowest(table):
        place = (column - 0.46, row - 0.46)
        axes.add_patch(Rectangle(place, 0.92, 0.92, fill=False, edgecolor=canvas.VERMILION, linewidth=2))
    axes.set(xlim=(-0.5, table.shape[1] - 0.5), ylim=(len(table) - 0.5, -0.5))
    axes.spines[:].set_visible(False)


def _lowest(table: np.ndarray) -> list[tuple[int, int]]:
    """Return row and column of the lowest value of CRL's, or of all that share it; row 0 is cross-entropy."""
    rounded = np.round(table[1:], SAME_TO)
    return [(int(row) + 1, int(column)) for row, column in np.argwhere(rounded == np.nanmin(rounded))]


def _scale(table: np.ndarray) -> tuple[float, float]:
    """Return the ends of the colours: a column that failed does not turn all others into one shade."""
    values = table[np.isfinite(table)]
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    return float(low), float(max(min(high, low + 4 * (middle - low)), low + 0.01))
