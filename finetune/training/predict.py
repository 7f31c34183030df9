"""A model's predictions for rows of a table of images: batches in, probabilities out."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from finetune.cli.console import say
from finetune.cli.machine import core_share
from finetune.errors import DivergedError
from finetune.images.augmentation.crops import PLACES
from finetune.images.batches import Batch, EvalBatches, TrainBatches
from finetune.images.cache.source import ImageSource
from finetune.images.loading.resident import resident_bytes
from finetune.images.preprocess import PreprocessSpec
from finetune.models.classifier import Classifier
from finetune.models.two_view import TwoView
from finetune.training.config import FitConfig
from finetune.training.data import TrainingData
from finetune.training.frozen.batches import FeatureBatch, see, stays_frozen
from finetune.training.frozen.evaluation import find_shared, read_back
from finetune.training.frozen.sharing import Sharing, sharing_of
from finetune.training.learner import Learner
from finetune.training.loop import evaluate
from finetune.training.optimization.distributed import World
from finetune.training.optimization.precision import Precision

AnyBatches = TypeVar("AnyBatches", TrainBatches, EvalBatches)


def predict(
    learner: Learner,
    task: TrainingData,
    rows: np.ndarray,
    config: FitConfig,
    *,
    crops: str = "center",
    batch_size: int = 64,
) -> dict[str, np.ndarray]:
    """Return {"index", "target", "probs"} of these rows, sorted by row, computed in float32.

    Float32 whatever the training used, so that an exported model can reproduce the scores to the last image.
    Of a backbone that stayed frozen, the features of these rows are those that other runs found.

    Raises DivergedError where a prediction is NaN or infinite: finite weights can be too large to compute
    with.
    """
    precision, sharing = learner.precision.in_float32(), None
    if stays_frozen(config):
        parts = (learner.core, task.source, task.spec, precision, learner.world)
        sharing = sharing_of(*parts, deterministic=config.run.deterministic)
    found = show_images(
        learner.core,
        task.source,
        task.manifest.label,
        rows,
        task.spec,
        precision=precision,
        world=learner.world,
        crops=crops,
        batch_size=batch_size,
        workers=config.run.workers,
        sharing=sharing,
    )
    check_answers(found["probs"])
    return found


def check_answers(probs: np.ndarray) -> None:
    """Raise DivergedError where a trained model's probabilities (N, K) are NaN or infinite."""
    if not np.isfinite(probs).all():
        raise DivergedError(
            "the trained model's predictions are NaN or infinite: its weights grew beyond what can be "
            "computed with. Lower --train.lr or give --train.clip_grad 1"
        )


def row_batches(
    learner: Learner,
    task: TrainingData,
    rows: np.ndarray,
    config: FitConfig,
    *,
    crops: str = "center",
    batch_size: int | None = None,
    groups: np.ndarray | None = None,
) -> EvalBatches:
    """Return these rows as batches to evaluate: this process's share of them.

    A batch has 64 images, or on a GPU twice what it trains on at once: no gradients are kept meanwhile.
    `groups` is as in `EvalBatches`.
    """
    if batch_size is None:
        on_gpu = learner.precision.device.type == "cuda"
        batch_size = max(1, 2 * config.train.batch_size // learner.world.size) if on_gpu else 64
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
        groups=groups,
    )


def evaluate_batches(learner: Learner, batches: Iterable[Batch | FeatureBatch]) -> dict[str, np.ndarray]:
    """Evaluate the learner's model as it stands on these batches, as finely as it is trained."""
    return evaluate(learner.core, batches, learner.spec, learner.precision, learner.world)


def worker_count(asked: int) -> int:
    """Return how many processes prepare batches: `asked`, or for -1 none with few cores, else up to 8.

    Several training processes divide the cores of their machine.
    """
    cores = core_share()
    return asked if asked >= 0 else 0 if cores <= 2 else min(8, cores - 1)


def keep_on_gpu(
    batches: AnyBatches, task: TrainingData, config: FitConfig, device: torch.device
) -> AnyBatches:
    """Let the images of these batches stay on a GPU where they fit and only whole pixels are moved; say so.

    Returns the batches.

    Not where a number of loading processes was asked for (`run.workers`).
    """
    policy = config.train.augment if isinstance(batches, TrainBatches) else "none"
    if config.run.workers >= 0 or policy not in PLACES:
        return batches
    size = resident_bytes(task.source, batches.rows, task.spec, device)
    if size is None:
        return batches
    batches.stay_on(device, size)
    part = "training" if isinstance(batches, TrainBatches) else "validation"
    say(
        f"the {part} images stay on {device} ({len(batches.rows)}, {size / 2**30:.1f} GB): they are cropped "
        "and mirrored there, and no process loads any (--run.workers 0 or more turns this off)"
    )
    return batches


def show_images(
    core: Classifier,
    source: ImageSource,
    label: np.ndarray,
    rows: np.ndarray,
    spec: PreprocessSpec,
    *,
    precision: Precision,
    world: World,
    crops: str,
    batch_size: int,
    workers: int,
    sharing: Sharing | None = None,
) -> dict[str, np.ndarray]:
    """Return {"index", "target", "probs"} of these rows, sorted by row, each row once.

    Args:
        core: the classifier, on the precision's device.
        source: the prepared images by manifest row.
        label: int64, the class index of every manifest row.
        rows: which to show.
        spec: how the images were prepared.
        precision: device and number format.
        world: the processes that share the work.
        crops: center, flip, ten, or cam: the mean of what the network says of the centre and of the region
            that its own activations point to (`finetune.models.two_view.TwoView`).
        batch_size: images at once.
        workers: processes that prepare batches, -1 by the number of cores.
        sharing: where other runs find the backbone's features of these images.
    """
    batches = EvalBatches(
        source,
        label,
        rows,
        spec,
        crops="center" if crops == "cam" else crops,
        batch_size=batch_size,
        workers=worker_count(workers),
        rank=world.rank,
        world_size=world.size,
    )
    if sharing is not None and crops != "cam":
        see_images = partial(see, core, spec=spec, precision=precision)
        kept = find_shared(sharing, batches, label, see_images, lambda: None)
        if kept is not None:
            return evaluate(core, read_back(*kept, precision.device), spec, precision, world)
    return evaluate(TwoView(core, spec) if crops == "cam" else core, batches, spec, precision, world)
