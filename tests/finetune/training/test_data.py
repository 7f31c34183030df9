"""What a run learns from, checked before anything is built."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from finetune.errors import DataError, UsageError
from finetune.training.data import TrainingData, check_task, monitored, plain_scores, turned
from finetune.training.optimization.distributed import World
from tests.finetune.quick import QUICK, quick


def test_plain_scores_worked_by_hand():
    probs = np.eye(3)[[0, 1, 1, 2]]
    assert plain_scores(probs, np.array([0, 1, 0, 0])) == {
        "accuracy": 0.5,
        "balanced_accuracy": pytest.approx((1 / 3 + 1) / 2),  # class 2 has no sample and does not count
    }


def test_a_good_task_passes(task: TrainingData):
    check_task(task, QUICK, World())
    check_task(task, quick(train_select="best", train_patience=3), World())


def test_a_batch_that_cannot_be_shared_evenly_is_refused(task: TrainingData):
    with pytest.raises(UsageError, match="batch_size 8 must be a multiple of 3 processes"):
        check_task(task, QUICK, World(0, 3))


def test_more_processes_than_pictures_are_refused(task: TrainingData):
    with pytest.raises(DataError, match="2 training images are fewer than 4 processes"):
        check_task(replace(task, train=task.train[:2]), QUICK, World(0, 4))


def test_one_class_is_refused_with_all_counts(task: TrainingData):
    rows = np.flatnonzero(task.manifest.label == 2)[:4]
    with pytest.raises(DataError, match=r"\{'r': 0, 'g': 0, 'b': 4\}"):
        check_task(replace(task, train=rows), QUICK, World())


def test_choosing_needs_validation_images_and_a_known_metric(task: TrainingData):
    blind = replace(task, val=task.val[:0])
    check_task(blind, QUICK, World())
    check_task(blind, quick(train_monitor="one_off"), World())
    with pytest.raises(UsageError, match="this split has none"):
        check_task(blind, quick(train_patience=2), World())
    with pytest.raises(UsageError, match="one_off: this task is scored by accuracy"):
        check_task(task, quick(train_patience=2, train_monitor="one_off"), World())


def test_a_lower_error_is_the_better_one():
    scores = {"accuracy": 0.5, "mae": 3.0}
    assert monitored(scores, "accuracy") == 0.5
    assert monitored(scores, "mae") == -3.0
    assert monitored(scores, "one_off") is None
    assert turned("mae", monitored(scores, "mae")) == 3.0
