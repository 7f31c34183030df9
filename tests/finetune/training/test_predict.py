"""Predictions: in float32 whatever trained, and the same for any batch size and number of workers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.errors import DivergedError
from finetune.images.augmentation.policies import build_augment
from finetune.images.batches import TrainBatches
from finetune.training.config import FitConfig
from finetune.training.data import TrainingData
from finetune.training.learner import build_learner
from finetune.training.optimization.distributed import World
from finetune.training.predict import evaluate_batches, keep_on_gpu, predict, row_batches, worker_count
from tests.finetune.quick import QUICK, quick, train, trained_hash

pytestmark = pytest.mark.usefixtures("one_thread")


def test_predictions_are_equal_for_any_workers_and_batch_size(task: TrainingData):
    learner = build_learner(task, QUICK, World())
    base = predict(learner, task, task.val, QUICK)
    assert base["index"].tolist() == task.val.tolist()
    workers = predict(learner, task, task.val, quick(run_workers=2))
    np.testing.assert_array_equal(workers["probs"], base["probs"])
    for size in (1, 4, 15, 100):
        probs = predict(learner, task, task.val, QUICK, batch_size=size)["probs"]
        np.testing.assert_allclose(probs, base["probs"], atol=1e-6)


def test_predictions_are_in_float32_whatever_the_training_used(task: TrainingData):
    learner = build_learner(task, QUICK, World())
    half = build_learner(task, quick(run_precision="bfloat16"), World())
    np.testing.assert_array_equal(
        predict(half, task, task.val, QUICK)["probs"], predict(learner, task, task.val, QUICK)["probs"]
    )
    rough = evaluate_batches(half, row_batches(half, task, task.val, QUICK))["probs"]
    assert not np.array_equal(rough, predict(half, task, task.val, QUICK)["probs"])


@pytest.mark.parametrize(
    ("device", "processes", "sizes"), [("cpu", 1, [15]), ("cuda", 1, [8, 7]), ("cuda", 2, [4, 4])]
)
def test_a_gpu_validates_twice_what_it_trains_on_at_once(
    task: TrainingData, device: str, processes: int, sizes: list[int]
):
    config = quick(train_batch_size=4)
    learner = build_learner(task, config, World())
    learner.precision = replace(learner.precision, device=torch.device(device))
    learner.world = World(0, processes)
    batches = row_batches(learner, task, task.val, config)
    assert [len(batch.target) for batch in batches] == sizes


def test_answers_that_are_no_numbers_are_of_a_training_that_diverged(task: TrainingData):
    learner = build_learner(task, QUICK, World())
    with torch.no_grad():
        next(learner.core.head.parameters()).fill_(3e38)
    with pytest.raises(DivergedError, match="predictions are NaN or infinite"):
        predict(learner, task, task.val, QUICK)


def stayed(task: TrainingData, config: FitConfig, folder: Path, patch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return the weights of a training whose images stay on the device if they may, and what it said."""
    size = sum(task.source[row].nbytes for row in range(len(task.source)))
    said: list[str] = []
    patch.setattr("finetune.training.predict.resident_bytes", lambda *_: size)
    patch.setattr("finetune.training.predict.say", said.append)
    weights = trained_hash(train(task, folder, config))
    return weights, "\n".join(said)


def test_images_that_stay_on_the_device_teach_the_same(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = quick(train_augment="crop")
    plain, said = stayed(task, config, tmp_path / "plain", monkeypatch)
    assert said == "", "a number of processes was asked for"
    there, said = stayed(task, quick(train_augment="crop", run_workers=-1), tmp_path / "there", monkeypatch)
    assert there == plain
    assert said.count("images stay on cpu (") == 2
    assert "the training images stay on cpu (45, " in said
    assert "--run.workers 0 or more turns this off" in said


def test_policies_that_change_pixels_keep_their_processes(
    task: TrainingData, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("finetune.training.predict.resident_bytes", lambda *_: 1)
    augment = build_augment("standard", task.spec)
    batches = TrainBatches(
        task.source, task.manifest.label, task.train, augment=augment, batch_size=8, seed=0
    )
    engine = batches._engine
    keep_on_gpu(batches, task, quick(train_augment="standard", run_workers=-1), torch.device("cuda"))
    assert batches._engine is engine


def test_the_processes_share_the_rows(task: TrainingData):
    learner = build_learner(task, QUICK, World())
    shown = []
    for rank in range(2):
        learner = replace(learner, world=World(rank, 2))
        shown += [
            int(row)
            for batch in row_batches(learner, task, task.val, QUICK, batch_size=4)
            for row in batch.index
        ]
    assert sorted(shown) == task.val.tolist()


def test_no_rows_are_no_predictions(task: TrainingData):
    learner = build_learner(task, QUICK, World())
    assert len(predict(learner, task, np.arange(0), QUICK)["index"]) == 0


@pytest.mark.parametrize(("cores", "chosen"), [(1, 0), (2, 0), (3, 2), (8, 7), (64, 8)])
def test_workers_are_chosen_by_the_number_of_cores(cores: int, chosen: int, monkeypatch: pytest.MonkeyPatch):
    def affinity(_: Any) -> set[int]:
        return set(range(cores))

    monkeypatch.setattr(os, "sched_getaffinity", affinity, raising=False)
    assert worker_count(-1) == chosen
    assert worker_count(5) == 5
    assert worker_count(0) == 0
