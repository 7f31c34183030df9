"""Warnings of trainings that learned nothing: right values, and silence where all is well."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.metrics.learning import (
    ONE_CLASS,
    beaten_by_guessing,
    learning_warnings,
    majority_accuracy,
    prediction_warnings,
    unbounded_loss,
)

FALLING = [{"stage": "all", "train_loss": loss} for loss in (2.3, 1.4, 0.9)]


def told(rows=FALLING, *, accuracy=60.0, majority=10.0, nll=1.2, classes=10) -> list[str]:
    return learning_warnings(rows, classes=classes, accuracy=accuracy, majority=majority, nll=nll)


def test_a_training_that_learns_is_not_warned_of():
    assert told() == []
    assert told([], accuracy=None, majority=None, nll=None) == []


@pytest.mark.parametrize("accuracy", [9.7, 10.0])
def test_the_majority_class_must_be_beaten(accuracy):
    (warning,) = told(accuracy=accuracy)
    assert warning.startswith(f"accuracy {accuracy:.2f} % is not above the majority-class baseline (10.00 %)")
    assert warning.endswith(": nothing useful was learned")


def test_probabilities_worse_than_equal_ones_are_named():
    assert told(nll=2.30) == []
    (warning,) = told(nll=2.31)
    assert "cross-entropy 2.310 nats, where 10 equal probabilities have 2.303" in warning


def test_the_numbers_of_equal_probabilities_are_told_apart():
    (warning,) = told(nll=1.0987, classes=3)
    assert "cross-entropy 1.0987 nats, where 3 equal probabilities have 1.0986" in warning
    assert told(nll=float(np.log(3)) + 1e-12, classes=3) == []  # rounding is not worse


def test_a_rising_training_loss_is_named():
    rows = [{"stage": "all", "train_loss": loss} for loss in (0.9, 1.4, 2.3)]
    (warning,) = told(rows)
    assert warning == "the training loss rose, from 0.9 in its first epoch to 2.3 in its last"
    assert told([{"stage": "frozen", "train_loss": 0.1}, *FALLING]) == []
    assert told([{**row, "train_blend": 0.5} for row in rows]) == []
    assert told([{"stage": "all", "train_loss": loss} for loss in (1.0, 1.005)]) == []


def test_predictions_are_held_against_the_class_that_training_saw_most():
    target = np.array([0, 0, 0, 1])
    assert majority_accuracy(np.array([0, 0, 1]), target, 2) == 75
    probs = np.array([[0.6, 0.4]] * 2 + [[0.4, 0.6]] * 2)
    (warning,) = prediction_warnings([], probs, target, np.array([0, 0, 1]))
    assert warning.startswith("accuracy 75.00 % is not above")
    assert prediction_warnings([], probs, target, np.array([1, 1, 0])) == []


def history(losses, accuracies, key="train_accuracy"):
    return [
        {"epoch": epoch, "train_loss": loss, key: accuracy}
        for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True))
    ]


@pytest.mark.parametrize(
    ("key", "accuracies"),
    [
        ("train_accuracy", (0.30, 0.42, 0.38, 0.345)),
        ("val_accuracy", (0.30, 0.42, 0.38, 0.345)),
        ("test_error", (70.0, 58.0, 62.0, 65.5)),
    ],
)
def test_a_loss_that_falls_without_bound_while_accuracy_falls_is_said(key, accuracies):
    told = unbounded_loss(history((-1.0, -40.0, -9_000.0, -970_000.0), accuracies, key))
    assert told is not None
    assert "from -40 in epoch 2 to -970000, while the accuracy fell from 42.0 to 34.5 %" in told


@pytest.mark.parametrize(
    ("losses", "accuracies"),
    [
        ((2.3, 1.0, 0.5, 0.2), (0.5, 0.8, 0.7, 0.6)),  # an overfitting cross-entropy
        ((-1.0, -8.0, -15.0, -16.1), (0.5, 0.8, 0.7, 0.6)),  # clamped NLLR
        ((-1.0, -40.0, -9_000.0, -970_000.0), (0.3, 0.4, 0.5, 0.6)),  # learns all the same
        ((-1.0, -40.0, -9_000.0, -970_000.0), (0.3, 0.4, 0.6, 0.595)),  # less than a point
        ((-600.0, -680.0, -690.0, -692.0), (0.5, 0.8, 0.7, 0.6)),  # DualCE, whose floor depends on classes
        ((-1.0, -9_000.0, -40.0, -30.0), (0.5, 0.8, 0.7, 0.6)),  # rises again
        ((-1.0, float("nan")), (0.5, 0.1)),
        ((), ()),
    ],
)
def test_other_trainings_are_not_said_to_fall_without_bound(losses, accuracies):
    assert unbounded_loss(history(losses, accuracies)) is None


def test_a_run_warns_of_a_loss_without_bound():
    rows = history((-1.0, -40.0, -9_000.0, -970_000.0), (0.30, 0.42, 0.38, 0.345))
    (warning,) = told(rows)
    assert warning == unbounded_loss(rows)


def test_a_test_part_of_one_class_is_said_to_be_one():
    target = np.zeros(4, dtype=int)
    right, wrong = np.array([[0.9, 0.1]] * 4), np.array([[0.4, 0.6]] * 4)
    for probs in (right, wrong):
        found = prediction_warnings([], probs, target, np.array([0, 0, 1]))
        assert found[0] == ONE_CLASS
        assert not beaten_by_guessing(found)
