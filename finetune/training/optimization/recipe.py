"""How a run unfolds: stages, and each one's learning rates at any moment as a pure function."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from finetune.errors import UsageError
from finetune.models.classifier import Classifier, unwrap
from finetune.models.heads.base import Hooks
from finetune.training.optimization.optim import SCHEDULES, Schedule, learning_rate_factor


@dataclass(frozen=True)
class Stage:
    """A stretch of epochs with one set of trainable weights and one schedule, which starts and ends with it.

    Args:
        name: for the log.
        epochs: length, at least 1.
        train: "head" freezes the backbone (its batch norms and dropout then act as in evaluation), or "all".
        lr: the backbone's base learning rate; the head's is lr * head_lr_multiplier.
        head_lr_multiplier: see `lr`.
        schedule: cosine, step or constant.
        warmup_epochs: epochs of linear warm-up, counted from the stage's start; fractions count.
        milestones: epochs, counted from the stage's start, from which on a step schedule multiplies by gamma.
        gamma: the step schedule's factor.
        weight_decay: on weights, never on norms and biases; None keeps what the optimiser was built with.

    Raises UsageError that lists every invalid field.
    """

    name: str
    epochs: int
    train: Literal["head", "all"] = "all"
    lr: float = 0.01
    head_lr_multiplier: float = 1.0
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        rules = [
            (self.epochs >= 1, f"epochs must be at least 1, got {self.epochs}"),
            (self.train in ("head", "all"), f"train must be head or all, got {self.train!r}"),
            (self.lr > 0, f"lr must be positive, got {self.lr}"),
            (
                self.head_lr_multiplier > 0,
                f"head_lr_multiplier must be positive, got {self.head_lr_multiplier}",
            ),
            (
                self.schedule in SCHEDULES,
                f"schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}",
            ),
            (self.warmup_epochs >= 0, f"warmup_epochs must not be negative, got {self.warmup_epochs}"),
            (
                list(self.milestones) == sorted(self.milestones),
                f"milestones must ascend, got {self.milestones}",
            ),
            (
                self.weight_decay is None or self.weight_decay >= 0,
                f"weight_decay must not be negative, got {self.weight_decay}",
            ),
        ]
        broken = [rule for holds, rule in rules if not holds]
        if broken:
            raise UsageError(f"stage {self.name!r}: {'; '.join(broken)}")

    def rates(self, epoch: int, step: int, steps_per_epoch: int) -> dict[str, float]:
        """Return {"backbone": rate, "head": rate} at a step of an epoch counted from the stage's start."""
        factor = learning_rate_factor(
            epoch * steps_per_epoch + step,
            self.epochs * steps_per_epoch,
            self.schedule,
            warmup_steps=round(min(self.warmup_epochs, self.epochs) * steps_per_epoch),
            milestones=[milestone * steps_per_epoch for milestone in self.milestones],
            gamma=self.gamma,
        )
        head = self.lr * self.head_lr_multiplier * factor
        return {"backbone": 0.0 if self.train == "head" else self.lr * factor, "head": head}


@dataclass(frozen=True)
class Recipe:
    """Stages, one after the other, and what the head asks for beside them.

    >>> recipe = Recipe((Stage("head", 1, train="head"), Stage("all", 2)))
    >>> [recipe.stage_at(epoch).name for epoch in range(recipe.epochs)]
    ['head', 'all', 'all']
    """

    stages: tuple[Stage, ...]
    hooks: Hooks = field(default_factory=Hooks)

    def __post_init__(self) -> None:
        if not self.stages:
            raise UsageError("a recipe needs at least one stage")

    @property
    def epochs(self) -> int:
        """Length of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def stage_at(self, epoch: int) -> Stage:
        """Return the stage that a zero-based epoch of the run belongs to."""
        return self._position(epoch)[0]

    @property
    def last_start(self) -> int:
        """The zero-based epoch of the run that begins the last stage."""
        return self.epochs - self.stages[-1].epochs

    def starts_stage(self, epoch: int) -> bool:
        """Return whether this epoch is the first of its stage."""
        return self._position(epoch)[1] == 0

    def rates(self, epoch: int, step: int, steps_per_epoch: int) -> dict[str, float]:
        """Return {"backbone": rate, "head": rate} at a step of an epoch of the run."""
        stage, own_epoch = self._position(epoch)
        return stage.rates(own_epoch, step, steps_per_epoch)

    def enter(self, model: nn.Module, epoch: int) -> None:
        """Put the model in training mode as the stage of this epoch wants it."""
        apply_stage(unwrap(model), self.stage_at(epoch))
        model.train()

    def _position(self, epoch: int) -> tuple[Stage, int]:
        rest = epoch
        for stage in self.stages:
            if 0 <= rest < stage.epochs:
                return stage, rest
            rest -= stage.epochs
        raise UsageError(f"epoch must lie in [0, {self.epochs}), got {epoch}")


def apply_stage(model: Classifier, stage: Stage) -> None:
    """Freeze or free the backbone as the stage says; the head always learns."""
    model.freeze_backbone(stage.train == "head")
    model.head.requires_grad_(True)


def fine_tune_recipe(
    epochs: int,
    frozen_epochs: int = 0,
    *,
    lr: float,
    head_lr_multiplier: float = 1.0,
    schedule: Schedule = "cosine",
    warmup_epochs: float = 0.0,
    milestones: tuple[int, ...] = (),
    gamma: float = 0.1,
    frozen_lr: float | None = None,
    frozen_weight_decay: float | None = None,
    frozen_schedule: Schedule = "constant",
    hooks: Hooks | None = None,
) -> Recipe:
    """Return `epochs` epochs of fine-tuning, in the first `frozen_epochs` of which only the head learns.

    The head-only stage starts at `frozen_lr`, or the head's own learning rate (lr * head_lr_multiplier), and
    follows `frozen_schedule`. The second stage, in which everything learns, begins again at its own learning
    rate, with `schedule` and the warm-up. `milestones` are epochs of the whole run (80 in "divide by 10 after
    epoch 80"); those in the frozen epochs need `frozen_schedule` step.

    Raises UsageError when frozen_epochs is not in [0, epochs], or a milestone lies where no step schedule is
    or at the end of the frozen epochs, where the learning rate begins again.
    """
    if not 0 <= frozen_epochs <= epochs:
        raise UsageError(f"frozen_epochs must lie in [0, epochs = {epochs}], got {frozen_epochs}")
    early = tuple(milestone for milestone in milestones if milestone < frozen_epochs)
    _check_milestones(milestones, frozen_epochs, early_allowed=frozen_schedule == "step")
    stages = []
    if frozen_epochs:
        head = Stage(
            "head",
            frozen_epochs,
            "head",
            lr=lr if frozen_lr is None else frozen_lr,
            head_lr_multiplier=head_lr_multiplier if frozen_lr is None else 1.0,
            schedule=frozen_schedule,
            milestones=early,
            gamma=gamma,
            weight_decay=frozen_weight_decay,
        )
        stages.append(head)
    if epochs > frozen_epochs:
        late = tuple(milestone - frozen_epochs for milestone in milestones[len(early) :])
        rest = Stage(
            "all",
            epochs - frozen_epochs,
            "all",
            lr=lr,
            head_lr_multiplier=head_lr_multiplier,
            schedule=schedule,
            warmup_epochs=warmup_epochs,
            milestones=late,
            gamma=gamma,
        )
        stages.append(rest)
    return Recipe(tuple(stages), hooks or Hooks())


def _check_milestones(milestones: tuple[int, ...], frozen_epochs: int, *, early_allowed: bool) -> None:
    if list(milestones) != sorted(milestones):
        raise UsageError(f"milestones must ascend, got {milestones}")
    early = [milestone for milestone in milestones if milestone <= frozen_epochs]
    if early and not early_allowed:
        raise UsageError(
            f"milestones must lie behind the {frozen_epochs} frozen epochs, got {early}; only --train."
            "frozen_schedule step has some among them"
        )
    if frozen_epochs and frozen_epochs in early:
        raise UsageError(
            f"a milestone at {frozen_epochs}, the end of the frozen epochs, changes nothing: the learning "
            "rate begins again there"
        )
