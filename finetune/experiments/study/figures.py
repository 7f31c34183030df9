"""The pictures of a study, in the order in which they are looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from finetune.experiments.study.arms import BASELINE, Arm
from finetune.experiments.study.cells import Cell
from finetune.experiments.study.curve_figures import draw_error_curves, draw_factor_curves
from finetune.experiments.study.difference_figure import draw_differences
from finetune.experiments.study.grid_figure import draw_grid, find_grid
from finetune.figures.markdown import Picture

__all__ = ["draw_differences", "draw_error_curves", "draw_factor_curves", "draw_grid", "draw_study"]

PICTURES = PurePosixPath("pictures")


def draw_study(
    folder: Path, summary: Mapping[str, Any], cells: Sequence[Cell], arms: Sequence[Arm]
) -> dict[str, Picture]:
    """Draw what the cells allow into folder/pictures; return the pictures by name.

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
    return [arm for arm in arms if arm.name in kept or arm.loss.name != "crl" or arm.head]


_VALIDATION = (
    "Validation error per epoch",
    "Means over seeds in bands of one standard deviation, on the images held out from training. Test images "
    "are asked once, at the end.",
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
        "Push on the true logit over q = 1 - p of the true class, averaged over the training images as they "
        "come; cross-entropy's is 1.",
    ),
    "grid": (
        "Alpha and beta",
        "Mean error, and its sd over seeds. Outlined is the lowest of CRL's cells drawn, or all that share "
        "it; of so many cells one is lowest by chance too, and the outline is no test.",
    ),
}
