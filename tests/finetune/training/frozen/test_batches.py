"""A stage with a frozen backbone, trained from features kept, against the stage that asks it every time."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import finetune.training.frozen.batches
import finetune.training.frozen.evaluation
import finetune.training.frozen.stage
import finetune.training.frozen.store
from finetune.errors import InterruptedRunError
from finetune.models.backbone import FeatureBackbone, Features
from finetune.models.heads import registry as heads
from finetune.models.heads.base import FeatureDims, Head, HeadOutput, Hooks
from finetune.models.heads.linear import LinearHead
from finetune.training.config import FitConfig, HeadConfig
from finetune.training.data import TrainingData
from finetune.training.fit import Fitted
from finetune.training.frozen.batches import FeatureBatch, cached_views
from finetune.training.frozen.evaluation import EvalFeatures
from finetune.training.frozen.store import FeatureStore, FileStore, Layout
from finetune.training.optimization.recipe import fine_tune_recipe
from tests.finetune.quick import STEPS, break_off, last, metrics, quick, train, trained_hash

pytestmark = pytest.mark.usefixtures("one_thread")


class MapHead(Head):
    """A small head that reads two maps, with dropout and a batch norm of its own."""

    default_taps = ("last-1", "last")
    uses_embedding = False

    def __init__(self, channels: tuple[int, int], num_classes: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(channels[0], 8, 1)
        self.coarse = nn.Conv2d(channels[1], 8, 1)
        self.norm, self.dropout = nn.BatchNorm1d(16), nn.Dropout(0.2)
        self.classifier = nn.Linear(16, num_classes)

    @classmethod
    def build(cls, backbone: FeatureDims, num_classes: int) -> MapHead:
        fine, coarse = backbone.taps
        return cls((backbone.map_dims[fine], backbone.map_dims[coarse]), num_classes)

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:
        fine, coarse = features.maps.values()
        pooled = torch.cat([self.fine(fine).amax((2, 3)), self.coarse(coarse).mean((2, 3))], 1)
        return HeadOutput(self.classifier(self.dropout(self.norm(pooled))))


@pytest.fixture(autouse=True)
def _map_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads.HEADS, "map", MapHead)


@pytest.fixture(autouse=True)
def _place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where features lie: in memory where a test says nothing, or in a file, or in one that runs share."""
    place = str(getattr(request, "param", "memory"))
    if place == "file":
        monkeypatch.setattr(finetune.training.frozen.store, "memory_bytes", lambda: 0)
    if place != "shared":
        monkeypatch.setattr(finetune.training.frozen.stage, "sharing_of", lambda *_given, **_more: None)
    return place


class Counting:
    """How many images the backbone was asked for in training batches, and in evaluation ones."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []
        forward = FeatureBackbone.forward

        def count(backbone: FeatureBackbone, images: Tensor) -> Features:
            self.asked.append(len(images))
            return forward(backbone, images)

        patch.setattr(FeatureBackbone, "forward", count)


def configured(head: str = "map", **changes: Any) -> FitConfig:
    """Return a run of three frozen epochs and one free one, without augmentation."""
    options = {"train_epochs": 4, "train_frozen_epochs": 3, "train_augment": "none", "train_lr": 0.02}
    return replace(quick(**{**options, **changes}), head=HeadConfig(head))


def farthest(one: Fitted, other: Fitted) -> float:
    """Return the greatest difference between two models' values."""
    first, second = one.model.state_dict(), other.model.state_dict()
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def assert_same_metrics(one: Path, other: Path) -> None:
    for left, right in zip(metrics(one), metrics(other), strict=True):
        assert left == pytest.approx(right, abs=1e-5)


@pytest.mark.parametrize("head", ["map", "linear"])
def test_a_stage_without_augmentation_learns_what_it_learns_uncached(
    task: TrainingData, tmp_path: Path, head: str, monkeypatch: pytest.MonkeyPatch
):
    config = configured(head, train_ema=0.9, model_drop_rate=0.3)
    plain = train(task, tmp_path / "plain", replace(config, train=replace(config.train, frozen_views=0)))
    counting = Counting(monkeypatch)
    kept = train(task, tmp_path / "kept", config)
    assert farthest(plain, kept) < 1e-5
    assert_same_metrics(tmp_path / "plain", tmp_path / "kept")
    frozen = len(task.train) + len(task.val)
    assert sum(counting.asked) == frozen + 8 * STEPS + len(task.val), "once, and in the free epoch"


def test_views_enough_for_every_epoch_learn_what_is_learned_uncached(task: TrainingData, tmp_path: Path):
    config = configured(train_augment="standard", train_frozen_views=5)
    plain = train(task, tmp_path / "plain", replace(config, train=replace(config.train, frozen_views=0)))
    kept = train(task, tmp_path / "kept", config)
    assert farthest(plain, kept) < 1e-5
    assert_same_metrics(tmp_path / "plain", tmp_path / "kept")


def test_fewer_views_than_epochs_come_again(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    counting = Counting(monkeypatch)
    config = configured(train_augment="standard", train_frozen_views=2, train_epochs=3)
    train(task, tmp_path, config)
    assert sum(counting.asked) == 2 * len(task.train) + len(task.val)
    told = capsys.readouterr().out
    assert "those of 2 views of each of 45 images are cached in memory" in told
    assert "after 2 epochs the same views come again" in told


@pytest.mark.parametrize("_place", ["memory", "file", "shared"], indirect=True)
def test_a_killed_stage_resumes_bit_for_bit_and_leaves_no_file(task: TrainingData, tmp_path: Path):
    config = configured(train_augment="flip", train_frozen_views=2, train_frozen_schedule="cosine")
    whole = train(task, tmp_path / "whole", config)
    for number, call in enumerate((2, 2 * STEPS + 3)):
        folder = tmp_path / str(number)
        break_off(task, folder, config, call)
        assert trained_hash(train(task, folder, config)) == trained_hash(whole)
        assert metrics(folder) == metrics(tmp_path / "whole")
        assert {entry.name for entry in folder.iterdir()} == {e.name for e in (tmp_path / "whole").iterdir()}


def test_training_and_validation_share_the_memory_and_no_picture_is_kept(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stores: list[FeatureStore] = []
    made: list[EvalFeatures] = []
    record, open_one = [0], finetune.training.frozen.batches.open_store

    def note_store(layout: Layout, *given: Any, **more: Any) -> FeatureStore:
        record[0] = layout.size
        stores.append(open_one(layout, *given, **more))
        return stores[-1]

    def note_made(*given: Any, **more: Any) -> EvalFeatures:
        made.append(EvalFeatures(*given, **more))
        return made[-1]

    for module in (finetune.training.frozen.batches, finetune.training.frozen.evaluation):
        monkeypatch.setattr(module, "open_store", note_store)
    monkeypatch.setattr(finetune.training.frozen.stage, "EvalFeatures", note_made)
    rows = len(task.train) + len(task.val)
    monkeypatch.setattr(finetune.training.frozen.store, "memory_bytes", lambda: 4 * (rows - 1) * record[0])
    config = configured(train_epochs=2, train_frozen_epochs=2)
    train(task, tmp_path, config)
    assert [type(store) for store in stores] == [FeatureStore, FileStore]
    kept = [part for batch in made[0]._kept for part in batch if isinstance(part, Tensor)]
    assert len(kept) >= 2
    held = sum(part.untyped_storage().nbytes() for part in kept)
    assert held == 2 * 8 * len(task.val), "a class and a row for each image"


@pytest.mark.parametrize(("room", "ahead"), [(10**9, False), (0, True)])
def test_a_stage_learns_the_same_bits_from_features_on_the_device_or_read_ahead(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, ahead: bool
):
    config = configured(train_epochs=2, train_frozen_epochs=2, train_augment="flip", train_frozen_views=1)
    plain = train(task, tmp_path / "memory", config)
    monkeypatch.setattr(finetune.training.frozen.store, "device_room", lambda device: room)
    monkeypatch.setattr(finetune.training.frozen.store, "reads_ahead", lambda device: ahead)
    assert trained_hash(train(task, tmp_path / "other", config)) == trained_hash(plain)
    assert metrics(tmp_path / "other") == metrics(tmp_path / "memory")


def test_a_stop_while_features_are_computed_saves_and_resumes(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = configured(train_epochs=2, train_frozen_epochs=2)
    whole = trained_hash(train(task, tmp_path / "whole", config))
    asked: list[int] = []
    forward = FeatureBackbone.forward

    def stop(backbone: FeatureBackbone, images: Tensor) -> Features:
        asked.append(1)
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return forward(backbone, images)

    with monkeypatch.context() as patch:
        patch.setattr(FeatureBackbone, "forward", stop)
        with pytest.raises(InterruptedRunError, match="while features were computed for epoch 1"):
            train(task, tmp_path / "cut", config)
    assert len(asked) == 2
    assert (last(tmp_path / "cut")["epoch"], last(tmp_path / "cut")["step"]) == (0, 0)
    assert trained_hash(train(task, tmp_path / "cut", config)) == whole


def test_when_features_are_kept(capsys: pytest.CaptureFixture[str]):
    def views(hooks: Hooks | None = None, frozen: int = 3, **changes: Any) -> int:
        recipe = fine_tune_recipe(4, frozen, lr=0.1, hooks=hooks)
        return cached_views(configured(**{"train_frozen_epochs": frozen, **changes}), recipe)

    assert views() == views(train_frozen_views=7) == 1
    assert views(frozen=0) == views(train_frozen_views=0) == 0
    assert views(train_augment="flip") == 0
    assert views(train_augment="flip", train_frozen_views=2) == 2
    assert views(train_augment="flip", train_frozen_views=9) == 3
    assert capsys.readouterr().out == ""
    assert views(train_mixup=0.2) == 0
    assert "mixup remakes the images of every batch: the frozen backbone is asked" in capsys.readouterr().out
    assert views(Hooks(batch_transform=lambda images, target, generator: (images, target))) == 0
    assert "the map head remakes the images" in capsys.readouterr().out


def test_a_head_that_remakes_batches_gets_pictures_in_the_frozen_stage_too(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen: list[int] = []

    def note(images: Tensor, target: Tensor, _: np.random.Generator) -> tuple[Tensor, Tensor]:
        seen.append(images.ndim)
        return images, target

    monkeypatch.setattr(LinearHead, "hooks", lambda self: Hooks(batch_transform=note))
    train(task, tmp_path, configured("linear", train_epochs=1, train_frozen_epochs=1))
    assert seen == [4] * STEPS


def test_a_batch_of_features_can_be_pinned_whole(monkeypatch: pytest.MonkeyPatch):
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    features = Features(torch.ones(2, 3), {"last": torch.ones(2, 5, 1, 1)})
    batch = FeatureBatch(features, torch.arange(2), torch.arange(2), crops=2)
    there = batch.pin_memory()
    given = (features.maps["last"], features.embedding, batch.target, batch.index)
    assert [id(tensor) for tensor in pinned] == [id(tensor) for tensor in given]
    assert torch.equal(there.features.maps["last"], features.maps["last"])
    assert (there.crops, batch.pageable) == (2, True)
