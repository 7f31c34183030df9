"""The product's own training, a few steps of it, on drawn images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from apps.doctor.gpu.setup import Sizes
from apps.doctor.gpu.work.drawn import draw_task, drawn_images, targets
from finetune.images.augmentation.policies import build_augment
from finetune.images.batches import Batch, TrainBatches
from finetune.training.config import FitConfig, HeadConfig, LossConfig, ModelConfig, RunConfig, TrainConfig
from finetune.training.data import TrainingData
from finetune.training.learner import Learner, build_learner
from finetune.training.loop import train_one_epoch
from finetune.training.optimization.distributed import World, wrap_model
from finetune.training.optimization.precision import choose_precision

RATE = 0.02


def recipe(
    backbone: str, side: int, device: str, *, head: str = "linear", precision: str = "float32", **more: Any
) -> FitConfig:
    """Return the configuration of a short training with the loss CRL.

    Args:
        backbone: by name; its weights are random.
        side: pixels.
        device: where.
        head: by name.
        precision: number format; auto is the hardware's own, not a measured one: two processes take the same.
        more: `options` of the head, `second` backbone, `workers`, `minutes` between checkpoints,
            `compile`; all others are fields of `TrainConfig`.
    """
    options, second = more.pop("options", {}), more.pop("second", "")
    workers, minutes = more.pop("workers", 0), more.pop("minutes", 10.0)
    compiled = more.pop("compile", False)
    if precision == "auto":
        precision = choose_precision(device).dtype_name
    return FitConfig(
        model=ModelConfig(backbone, "none", second=second, second_weights="none", image_size=side),
        head=HeadConfig(head, options=options),
        loss=LossConfig("crl"),
        train=replace(TrainConfig(lr=RATE, head_lr_multiplier=1.0, augment="standard"), **more),
        run=RunConfig(workers=workers, precision=precision, checkpoint_minutes=minutes, compile=compiled),  # type: ignore[arg-type]
        device=device,
    )


def task_for(folder: Path, sizes: Sizes, side: int, *, val: int = 0) -> TrainingData:
    """Return the drawn task of the check's size, its images under `folder`."""
    return draw_task(folder / f"drawn{side}", sizes.images, side, val=val)


class Ready:
    """The same batch again and again, as a loader would give it.

    Args:
        batch: what every step sees.
        steps: of an epoch.
    """

    def __init__(self, batch: Batch, steps: int) -> None:
        self.batch, self.steps_per_epoch, self.batch_size = batch, steps, len(batch.target)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:  # noqa: ARG002  # as a loader's
        """Yield the batch once for each step."""
        for _ in range(start_step, self.steps_per_epoch):
            yield self.batch


def ready_batch(count: int, side: int, views: int = 1) -> Batch:
    """Return a batch of random images, `views` of each, that lies in ordinary memory."""
    images = drawn_images(count, side).repeat_interleave(views, dim=0)
    target = targets(count)
    return Batch(images, target, target.clone())


def learner_for(task: TrainingData, config: FitConfig, world: World | None = None) -> Learner:
    """Return the product's learner in its first stage, compiled, or one of several processes, as asked."""
    alone = world or World()
    learner = build_learner(task, config, alone)
    learner.enter_stage(0)
    learner.model = wrap_model(learner.core, alone, learner.precision.device)
    if config.run.compile:
        learner.model.compile()
    return learner


def batches_for(learner: Learner, task: TrainingData) -> TrainBatches:
    """Return the batches of the learner's configuration, as a training makes them."""
    train, world = learner.config.train, learner.world
    return TrainBatches(
        task.source,
        task.manifest.label,
        task.train,
        augment=build_augment(train.augment, task.spec),
        batch_size=train.batch_size,
        seed=train.seed,
        workers=learner.config.run.workers,
        rank=world.rank,
        world_size=world.size,
        views=learner.recipe.hooks.views,
    )


def train_steps(
    learner: Learner, batches: TrainBatches | Ready, steps: int, after: Callable[[int], None] | None = None
) -> None:
    """Train for `steps` steps, through as many epochs as they take; `after` hears of each that is done."""
    done, epoch = 0, 0

    def count(_step: int, _totals: object) -> bool:
        nonlocal done
        done += learner.config.train.accumulate
        if after is not None:
            after(done)
        return done >= steps

    while done < steps:
        train_one_epoch(learner, batches, epoch, after_step=count)  # type: ignore[arg-type]
        epoch += 1


def weights_of(learner: Learner) -> dict[str, Tensor]:
    """Return the weights that were trained, on the CPU."""
    return {name: value.detach().cpu() for name, value in learner.core.state_dict().items()}
