"""What a run learns from: a manifest, its prepared images, and which rows train and validate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from finetune.errors import DataError, UsageError
from finetune.images.cache.source import ImageSource
from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec
from finetune.metrics.classification import accuracy, balanced_accuracy
from finetune.training.config import FitConfig
from finetune.training.optimization.distributed import World

Scorer = Callable[[np.ndarray, np.ndarray], dict[str, float]]

LOWER_IS_BETTER = ("mae",)  # of the metrics that may be monitored


def plain_scores(probs: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return accuracy and balanced accuracy in the unit interval, for probs (N, K) and target (N,)."""
    balanced = balanced_accuracy(probs, target, probs.shape[1])
    return {"accuracy": accuracy(probs, target), "balanced_accuracy": balanced}


@dataclass(frozen=True)
class TrainingData:
    """What to learn from, and how its validation part is scored.

    `source[row]` gives the prepared image of a manifest row; `train` and `val` are row indices (val may be
    empty). `split_hash` names the split; a checkpoint of another split is never resumed. `groups` gives a
    group of every manifest row, int (N,), where there are other splits too: in each of them, this one
    included, a group's rows are all trained on, all validated on, or neither. `places` are
    where ordered classes lie on a scale of their own, such as years; None for classes on no scale.
    """

    manifest: Manifest
    source: ImageSource
    spec: PreprocessSpec
    train: np.ndarray
    val: np.ndarray
    split_hash: str
    scorer: Scorer = plain_scores
    groups: np.ndarray | None = None
    places: tuple[float, ...] | None = None

    @property
    def identity(self) -> dict[str, str]:
        """What a checkpoint must share with its task, as hashes: table, images and split."""
        return {
            "manifest": self.manifest.fingerprint,
            "pictures": self.source.content,
            "split": self.split_hash,
        }


def turned(metric: str, value: float | None) -> float | None:
    """Return a validation metric's value so that higher is better: an error with its sign turned.

    Twice it is as it was.
    """
    return -value if metric in LOWER_IS_BETTER and value is not None else value


def monitored(scores: Mapping[str, float], metric: str) -> float | None:
    """Return the validation metric that selects, so that higher is better; None where there is none."""
    return turned(metric, scores.get(metric))


def check_task(task: TrainingData, config: FitConfig, world: World) -> None:
    """Raise DataError or UsageError where training could only fail later: classes, rows, batch sizes."""
    counts = np.bincount(task.manifest.label[task.train], minlength=task.manifest.num_classes)
    if (counts > 0).sum() < 2:
        named = dict(zip(task.manifest.class_names, counts.tolist(), strict=True))
        raise DataError(f"training needs at least two classes with images; the training rows hold {named}")
    _check_validation(task, config)
    if config.train.batch_size % world.size:
        raise UsageError(
            f"train.batch_size {config.train.batch_size} must be a multiple of {world.size} processes"
        )
    if world.size > len(task.train):
        raise DataError(f"{len(task.train)} training images are fewer than {world.size} processes")


def _check_validation(task: TrainingData, config: FitConfig) -> None:
    """Raise UsageError where weights are to be chosen by a validation metric that there will not be."""
    train = config.train
    if train.select == "last" and not train.patience:
        return
    if not len(task.val):
        raise UsageError("train.select best and train.patience need validation images; this split has none")
    classes = task.manifest.num_classes
    scored = task.scorer(np.full((1, classes), 1 / classes), np.zeros(1, dtype=np.int64))
    if train.monitor not in scored:
        raise UsageError(f"train.monitor {train.monitor}: this task is scored by {', '.join(scored)}")
