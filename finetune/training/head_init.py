"""What a head gets before the first step: every training image, plain, as often as it asks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from finetune.cli.console import progress, say
from finetune.errors import InterruptedRunError, UsageError
from finetune.images.batches import EvalBatches, normalise
from finetune.models.heads.base import Hooks
from finetune.models.heads.registry import head_class
from finetune.runs.interrupts import StopRequest
from finetune.training.config import FitConfig
from finetune.training.data import TrainingData
from finetune.training.failures import resume_line
from finetune.training.learner import Learner
from finetune.training.optimization.distributed import any_true, follow_first
from finetune.training.optimization.optim import Ema
from finetune.training.predict import worker_count

ASK_EVERY = 10  # batches between two questions to the other processes whether to stop


class TrainPictures:
    """Every training image in the table's order, prepared as in evaluation; iterable again and again.

    Gives (normalised images (B, 3, S, S), target int64 (B,)) on the learner's device. Each process gets all
    of them. Where a stop is requested meanwhile the iteration raises InterruptedRunError.
    """

    def __init__(self, learner: Learner, task: TrainingData, config: FitConfig, stop: StopRequest) -> None:
        self._learner, self._stop = learner, stop
        self._count = len(task.train)
        self._batches = EvalBatches(
            task.source,
            task.manifest.label,
            np.sort(task.train),
            task.spec,
            batch_size=config.train.batch_size,
            workers=worker_count(config.run.workers),
        )

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        learner, device = self._learner, self._learner.precision.device
        with progress(self._count, "preparing the head") as bar:
            for number, batch in enumerate(self._batches):
                asked = learner.world.size == 1 or number % ASK_EVERY == 0
                if asked and any_true(self._stop.requested, learner.world):
                    raise InterruptedRunError(
                        f"stopped while the head was being prepared, nothing is learned yet; {resume_line()}"
                    )
                there = batch.to(device)
                images = normalise(there.images, learner.spec.mean, learner.spec.std)
                yield learner.precision.arrange(images), there.target
                bar.advance(len(batch.target))


def prepare_head(learner: Learner, task: TrainingData, config: FitConfig, stop: StopRequest) -> None:
    """Let the head initialise its weights from the training images, if it wants to.

    The model is in evaluation mode meanwhile, and a moving average starts from what comes out. Of several
    processes all go on with the first one's weights: their GPUs may differ in the last bit.
    """
    prepare = learner.recipe.hooks.prepare
    if prepare is None:
        return
    say(f"preparing the {config.head.name} head from {len(task.train)} training images")
    learner.core.eval()
    with torch.no_grad():
        prepare(learner.core, TrainPictures(learner, task, config, stop))
    follow_first(learner.core.state_dict().values(), learner.world)
    if learner.ema:
        learner.ema = Ema(learner.core, learner.ema.decay)


def check_hooks(hooks: Hooks, config: FitConfig) -> None:
    """Raise UsageError where what a head asks for does not go together with itself or the configuration."""
    head, train = config.head.name, config.train
    mixing = [name for name in ("mixup", "cutmix") if getattr(train, name)]
    if mixing and head_class(head).needs_classes:
        raise UsageError(
            f"train.{' and train.'.join(mixing)} cannot be used with the {head} head, which gives one class "
            f"its margin: give --train.{mixing[0]} 0"
        )
    if hooks.batch_transform is None:
        if hooks.views != 1:
            raise UsageError(
                f"the {head} head asks for {hooks.views} views of each image, but transforms no batch: "
                "nothing would join them"
            )
        return
    if mixing:
        raise UsageError(
            f"train.{' and train.'.join(mixing)} cannot be used with the {head} head, which remakes every "
            f"batch itself: give --train.{mixing[0]} 0"
        )
