"""Warnings of trainings that learned nothing: right values, and silence where all is well."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.metrics.learning import learning_warnings, majority_accuracy, prediction_warnings

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


def test_probabilities_worse_than_equal_ones_are_named():
    assert told(nll=2.30) == []
    (warning,) = told(nll=2.31)
    assert "cross-entropy 2.310 nats, where 10 equal probabilities have 2.303" in warning


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
