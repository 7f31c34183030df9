"""What a head sees before the first step, and what it may not ask for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.errors import InterruptedRunError, UsageError
from finetune.images.batches import normalise
from finetune.images.preprocess import center_crop
from finetune.models.classifier import Classifier
from finetune.models.heads.base import Hooks
from finetune.models.heads.linear import LinearHead
from finetune.runs.interrupts import StopRequest
from finetune.training.data import TrainingData
from finetune.training.head_init import prepare_head
from finetune.training.learner import build_learner
from finetune.training.optimization.distributed import World
from tests.finetune.quick import QUICK, STEPS, disturb_loss, last, quick, train

pytestmark = pytest.mark.usefixtures("one_thread")
Pairs = Iterable[tuple[Tensor, Tensor]]


def with_hooks(patch: pytest.MonkeyPatch, hooks: Hooks) -> None:
    patch.setattr(LinearHead, "hooks", lambda self: hooks)


def test_a_head_sees_every_training_picture_in_order_plain_and_twice(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[tuple[Tensor, Tensor]] = []
    modes: list[tuple[bool, bool]] = []

    def prepare(core: Classifier, pictures: Pairs) -> None:
        for _ in range(2):
            parts = list(pictures)
            seen.append(
                (torch.cat([images for images, _ in parts]), torch.cat([given for _, given in parts]))
            )
        modes.append((any(part.training for part in core.modules()), torch.is_grad_enabled()))

    with_hooks(monkeypatch, Hooks(prepare=prepare))
    train(task, tmp_path, quick(train_epochs=1))
    rows = np.sort(task.train)
    crops = np.stack([center_crop(task.source[row], task.spec.image_size) for row in rows])
    wanted = normalise(torch.from_numpy(crops), task.spec.mean, task.spec.std)
    for images, target in seen:
        assert torch.equal(images, wanted)
        assert target.tolist() == task.manifest.label[rows].tolist()
    assert modes == [(False, False)]


def test_the_moving_average_starts_from_the_prepared_weights(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def prepare(core: Classifier, pictures: Pairs) -> None:
        core.head.classifier.bias.fill_(7.0)

    def stop(call: int, loss: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        assert logits.mean() > 5, "the first step already has the prepared weights"
        return loss

    with_hooks(monkeypatch, Hooks(prepare=prepare))
    disturb_loss(monkeypatch, stop)
    train(task, tmp_path, quick(train_epochs=1, train_ema=0.999, train_lr=1e-6))
    assert float(last(tmp_path)["learner"]["ema"]["values"]["head.classifier.bias"].min()) > 6.999


def test_all_processes_and_their_averages_start_from_the_first_one_s_prepared_weights(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def first_ones(tensors: Iterable[Tensor], world: World) -> None:
        for tensor in tensors:
            tensor.fill_(3)

    with_hooks(monkeypatch, Hooks(prepare=lambda core, pictures: core.head.classifier.bias.fill_(7.0)))
    monkeypatch.setattr("finetune.training.head_init.follow_first", first_ones)
    learner = build_learner(task, quick(train_ema=0.9), World())
    with StopRequest() as stop:
        prepare_head(learner, task, learner.config, stop)
    assert all(bool((value == 3).all()) for value in learner.core.state_dict().values())
    assert learner.ema is not None
    assert float(learner.ema.state_dict()["values"]["head.classifier.bias"].min()) == 3


def test_a_stop_while_the_head_is_prepared_leaves_at_once_and_the_run_begins_again(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[int] = []

    def prepare(core: Classifier, pictures: Pairs) -> None:
        for _images, target in pictures:
            seen.append(len(target))
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGINT)

    with_hooks(monkeypatch, Hooks(prepare=prepare))
    with pytest.raises(InterruptedRunError, match=r"being prepared(.|\n)*--run\.resume auto"):
        train(task, tmp_path, QUICK)
    assert len(seen) == 2
    train(task, tmp_path, quick())
    assert sum(seen[2:]) == len(task.train)


def join(images: Tensor, target: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Let the second view of each image stand for an image of its own."""
    assert len(images) == 2 * len(target)
    assert not torch.equal(images[0], images[1])
    return images, target.repeat_interleave(2)


def test_a_head_may_train_on_two_views_of_every_picture(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with_hooks(monkeypatch, Hooks(batch_transform=join, views=2))
    shapes: list[tuple[int, ...]] = []

    def note(call: int, loss: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        shapes.append((*logits.shape, *target.shape))
        return loss

    disturb_loss(monkeypatch, note)
    train(task, tmp_path, quick(train_epochs=1, train_augment="standard"))
    assert shapes == [(16, 3, 16)] * STEPS


def test_a_transform_of_the_batch_refuses_mixing_and_views_need_a_transform(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with_hooks(monkeypatch, Hooks(batch_transform=join, views=2))
    told = r"train\.mixup and train\.cutmix cannot be used with the linear head.*--train\.mixup 0"
    with pytest.raises(UsageError, match=told):
        train(task, tmp_path, quick(train_mixup=0.2, train_cutmix=1.0))
    with_hooks(monkeypatch, Hooks(views=2))
    with pytest.raises(UsageError, match="asks for 2 views of each image, but transforms no batch"):
        train(task, tmp_path, QUICK)
