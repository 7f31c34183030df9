"""Made-up cells of a study: scores that are known, histories that look like a training's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.experiments.study.arms import Arm
from finetune.experiments.study.cells import Cell

FACTORS = {"crl": 1.5, "nllr": 40.0, "focal": 0.4, "tce": 0.9, "cce": 1.2, "dualce": 1.3}


def cell_of(arm: str, seed: int, accuracy: float | None, **changes: Any) -> Cell:
    """A finished cell that is known by its accuracy."""
    scores = {"accuracy": accuracy, "macro_f1": None if accuracy is None else accuracy - 0.5}
    facts: dict[str, Any] = {"gradient_factor": 1.5, "gradient_ratio": 1.2, "lr_factor": 1.0, "seconds": 2.0}
    return Cell(arm, seed, scores, device="cpu", **(facts | {"history": ()} | changes))


def cells_of(scores: Mapping[str, Sequence[float | None]]) -> list[Cell]:
    """A cell for every score, seeds from 0."""
    return [cell_of(arm, seed, score) for arm, row in scores.items() for seed, score in enumerate(row)]


def history_of(arm: Arm, error: float, epochs: int) -> list[dict[str, Any]]:
    """Rows of a training that comes down to `error`."""
    factor = FACTORS.get(arm.loss.name, 1.0)
    return [
        {
            "epoch": epoch + 1,
            "train_loss": 2.0 * math.exp(-epoch / 5),
            "train_accuracy": 1 - 0.9 * math.exp(-epoch / 4),
            "test_error": error + 70 * math.exp(-epoch / 3),
            "gradient_factor": 1 + (factor - 1) * (1 - math.exp(-epoch / 4)),
            "gradient_ratio": 1 + (factor - 1) * 0.5,
        }
        for epoch in range(epochs)
    ]


def study_of(arms: Sequence[Arm], seeds: int = 5, epochs: int = 30, base: float = 15.0) -> list[Cell]:
    """Cells of all arms: the seeds have something in common, the arms differ a little."""
    rng = np.random.default_rng(0)
    common = rng.normal(0, 0.3, seeds)
    cells = []
    for number, arm in enumerate(arms):
        effect = 0.0 if number == 0 else 0.8 * math.sin(number)
        for seed in range(seeds):
            error = base + effect + common[seed] + rng.normal(0, 0.15)
            factor = FACTORS.get(arm.loss.name, 1.0)
            cells.append(
                cell_of(
                    arm.name,
                    seed,
                    100 - error,
                    history=history_of(arm, error, epochs),
                    gradient_factor=factor,
                    lr_factor=1.5 if arm.matches else 1.0,
                )
            )
    return cells
