"""Fine-grained scores: hand-worked numbers, limit cases, and what is missing stays missing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from finegrained.scores import class_rows, commonest_class_baseline, fine_scores

NAMES = ("a", "b", "c", "d", "e", "f")
# Six classes, f without an image: a right, two a taken for b, b right, c taken for a, d and e right.
TARGET = np.array([0, 0, 0, 1, 2, 3, 4])
PREDS = np.array([0, 1, 1, 1, 0, 3, 4])


def certain(preds: np.ndarray, classes: int) -> np.ndarray:
    """Return probabilities that put 0.9 on the predicted class and share the rest."""
    rest = 0.1 / (classes - 1)
    return np.full((len(preds), classes), rest) + (0.9 - rest) * np.eye(classes)[preds]


def test_scores_by_hand():
    scores = fine_scores(certain(PREDS, 6), TARGET, NAMES)
    assert (scores["n"], scores["classes"], scores["classes_tested"]) == (7, 6, 5)
    assert scores["top1"] == pytest.approx(100 * 4 / 7)
    assert scores["balanced_accuracy"] == pytest.approx(100 * (1 / 3 + 1 + 0 + 1 + 1) / 5)
    f1 = [2 * 1 / (3 + 2), 2 * 1 / (1 + 3), 0, 1, 1]
    assert scores["macro_f1"] == pytest.approx(100 * np.mean(f1))
    assert scores["nll"] == pytest.approx(-(4 * np.log(0.9) + 3 * np.log(0.02)) / 7)
    assert scores["ece"] == pytest.approx(abs(0.9 - 4 / 7))


def test_top5_counts_the_five_most_probable_and_is_missing_for_five_classes():
    probs = np.array([[0.3, 0.25, 0.2, 0.15, 0.06, 0.04], [0.3, 0.25, 0.2, 0.15, 0.06, 0.04]])
    assert fine_scores(probs, np.array([4, 5]), NAMES)["top5"] == 50.0
    assert fine_scores(certain(np.array([0]), 5), np.array([0]), NAMES[:5])["top5"] is None


def test_a_class_row_names_what_it_is_mostly_taken_for():
    rows = {row["name"]: row for row in class_rows(certain(PREDS, 6), TARGET, NAMES)}
    assert rows["a"] == {
        "name": "a",
        "n": 3,
        "right": 1,
        "accuracy": pytest.approx(100 / 3),
        "taken_for": "b",
        "taken_for_n": 2,
    }
    assert (rows["b"]["accuracy"], rows["b"]["taken_for"], rows["b"]["taken_for_n"]) == (100.0, None, 0)
    assert (rows["f"]["n"], rows["f"]["accuracy"]) == (0, None)


def test_scores_are_plain_json():
    scores = fine_scores(certain(PREDS, 6), TARGET, NAMES)
    assert json.loads(json.dumps(scores)) == scores


def test_without_an_image_there_is_no_score():
    scores = fine_scores(np.empty((0, 6)), np.empty(0, dtype=np.int64), NAMES)
    assert scores["top1"] is None
    assert scores["top1_interval"]["low"] is None
    assert scores["n"] == 0


def test_the_baseline_guesses_the_commonest_class_of_training():
    told = commonest_class_baseline(np.array([1, 1, 0, 2, 2]), np.array([1, 0, 1, 2]), NAMES)
    assert told == {"class": "b", "top1": 50.0}
