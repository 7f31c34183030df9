"""Training runs of a fraction of a second, in float32 and in this process, and ways to disturb them."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import finetune.training.learner
from core_losses import LossModule
from finetune.errors import InterruptedRunError
from finetune.runs.config_file import FREE_KEYS
from finetune.runs.folder import RunFolder
from finetune.training.checkpoint import CheckpointFolder, weights_hash
from finetune.training.config import FitConfig, ModelConfig, RunConfig, TrainConfig, to_dict
from finetune.training.data import TrainingData
from finetune.training.fit import Fitted, fit
from finetune.training.optimization.distributed import World
from tests.finetune.tiny_run import build_task

QUICK = FitConfig(
    model=ModelConfig(backbone="test_resnet", weights="none", image_size=32),
    train=TrainConfig(epochs=2, batch_size=8, lr=0.02, head_lr_multiplier=1.0, augment="flip"),
    run=RunConfig(workers=0, precision="float32"),
    device="cpu",
)
STEPS = 5  # per epoch: 45 training images in batches of 8


def quick(**changes: Any) -> FitConfig:
    """Return the quick configuration with changes such as train_lr=0.1 or run_workers=2."""
    config = QUICK
    for key, value in changes.items():
        section, _, name = key.partition("_")
        config = replace(config, **{section: replace(getattr(config, section), **{name: value})})
    return config


def train(
    task: TrainingData,
    folder: Path,
    config: FitConfig,
    *,
    allow_change: Sequence[str] = (),
    world: World | None = None,
) -> Fitted:
    """Train, or go on, in `folder`, as a command would."""
    world, content = world or World(), to_dict(config)
    opened = RunFolder.open(
        folder,
        content,
        resume="auto",
        allow_change=allow_change,
        free_keys=FREE_KEYS,
        writer=world.is_main,
        wait_seconds=0.1,
    )
    with opened:
        return fit(task, config, opened, world)


def task_of(root: Path, config: FitConfig = QUICK, *, val: int = 15) -> TrainingData:
    """Return the task over the drawn images in `root`."""
    return build_task(root, config, val=val)


def trained_hash(fitted: Fitted) -> str:
    """Return the hash of the chosen weights."""
    return weights_hash(fitted.model.state_dict())


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl without their times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def disturbed(loss: LossModule, disturb: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> LossModule:
    """Return the class loss with `disturb(call, loss, logits, target)` in its place; calls count from 1.

    What is written down of its gradients is neither disturbed nor counted.
    """
    calls = itertools.count(1)

    class Disturbed(type(loss)):  # type: ignore[misc]
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            value: Tensor = super().forward(logits, target)
            return value if self.reduction == "none" else disturb(next(calls), value, logits, target)

    loss.__class__ = Disturbed
    return loss


def disturb_loss(patch: pytest.MonkeyPatch, disturb: Callable[[int, Tensor, Tensor, Tensor], Tensor]) -> None:
    """Let every run begun while `patch` holds compute its loss through `disturb`."""
    build = finetune.training.learner.build_class_loss
    patch.setattr(
        finetune.training.learner, "build_class_loss", lambda *given: disturbed(build(*given), disturb)
    )


def at_call(number: int, act: Callable[[], Any]) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
    """Return a disturbance that acts once and leaves the loss as it is."""

    def disturb(call: int, loss: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        if call == number:
            act()
        return loss

    return disturb


def all_finite(state: dict[str, Any]) -> bool:
    """Return whether no tensor of a state dict is NaN or infinite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in state.values())


def break_off(task: TrainingData, folder: Path, config: FitConfig, call: int) -> str:
    """Run until Ctrl-C during the given training step and return what the run says."""
    with pytest.MonkeyPatch.context() as patch:
        disturb_loss(patch, at_call(call, lambda: os.kill(os.getpid(), signal.SIGINT)))
        with pytest.raises(InterruptedRunError) as told:
            train(task, folder, config)
    return str(told.value)


def last(folder: Path) -> dict[str, Any]:
    """Return the newest checkpoint's state."""
    saved = CheckpointFolder(folder / "checkpoints").load_latest()
    assert saved is not None
    return saved[0]
