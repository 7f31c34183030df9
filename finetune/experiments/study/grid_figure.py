"""Mean error over alpha and beta of CRL, as the paper's Table I has it, with the spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.cli.words import value_text
from finetune.experiments.study.arms import BASELINE, Arm, grid_arm
from finetune.figures import canvas
from finetune.figures.shades import BLUES, readable_ink, shade
from finetune.metrics.paired_tests import SAME_TO

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL = (1.15, 0.62)  # inches


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
    crl = [arm for arm in arms if arm.loss.name == "crl" and not arm.head and not arm.loss.label_smoothing]
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
        colour = shade(BLUES, share) if np.isfinite(value) else canvas.PAPER
        place = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(place, wide, 1, facecolor=colour, edgecolor=canvas.PAPER, linewidth=1.5))
        ink = readable_ink(colour, (canvas.INK, canvas.PAPER))
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
