"""A learner's answers for rows of its task: the batches to show and the probabilities that come back."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from finetune.cli.machine import core_count
from finetune.errors import DivergedError
from finetune.images.batches import Batch, EvalBatches
from finetune.training.config import FitConfig
from finetune.training.data import Task
from finetune.training.feature_cache import FeatureBatch
from finetune.training.learner import Learner
from finetune.training.loop import evaluate


def predict(
    learner: Learner,
    task: Task,
    rows: np.ndarray,
    config: FitConfig,
    *,
    crops: str = "center",
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """Return {"index", "target", "probs"} of these rows, sorted by row, computed in float32.

    Float32 whatever the training used, so that an exported model can reproduce the scores to the last image.

    Raises DivergedError where an answer is no number: finite weights can be too large to compute with.
    """
    batches = row_batches(learner, task, rows, config, crops=crops, batch_size=batch_size)
    found = evaluate(learner.core, batches, learner.spec, learner.precision.in_float32(), learner.world)
    check_answers(found["probs"])
    return found


def check_answers(probs: np.ndarray) -> None:
    """Raise DivergedError where a trained model's probabilities (N, K) are no numbers."""
    if not np.isfinite(probs).all():
        raise DivergedError(
            "the trained model's answers are no numbers: its weights grew beyond what can be computed with. "
            "Lower --train.lr or give --train.clip_grad 1"
        )


def row_batches(
    learner: Learner,
    task: Task,
    rows: np.ndarray,
    config: FitConfig,
    *,
    crops: str = "center",
    batch_size: int = 64,
) -> EvalBatches:
    """Return these rows as batches to evaluate: this process's share of them."""
    return EvalBatches(
        task.source,
        task.manifest.label,
        rows,
        task.spec,
        crops=crops,
        batch_size=batch_size,
        workers=worker_count(config.run.workers),
        rank=learner.world.rank,
        world_size=learner.world.size,
    )


def evaluate_batches(learner: Learner, batches: Iterable[Batch | FeatureBatch]) -> dict[str, np.ndarray]:
    """Evaluate the learner's model as it stands on these batches, as finely as it is trained."""
    return evaluate(learner.core, batches, learner.spec, learner.precision, learner.world)


def worker_count(asked: int) -> int:
    """Return how many processes prepare batches: `asked`, or for -1 none on small machines, else up to 8."""
    cores = core_count()
    return asked if asked >= 0 else 0 if cores <= 2 else min(8, cores - 1)
