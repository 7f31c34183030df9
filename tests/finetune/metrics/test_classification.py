"""Metrics against scikit-learn, hand-worked numbers and the edge cases that hide behind a plausible value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from finetune.metrics.classification import (
    ConfusionCounts,
    accuracy,
    balanced_accuracy,
    brier_score,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    negative_log_likelihood,
    per_class_recall,
    predicted_classes,
    top_k_accuracy,
)

CLASSES = 5


@pytest.fixture(scope="module")
def sample() -> tuple[np.ndarray, np.ndarray]:
    """Random probabilities (317, 5) and targets that agree with them more often than chance."""
    rng = np.random.default_rng(3)
    target = rng.integers(0, CLASSES, 317)
    logits = rng.normal(size=(317, CLASSES)) + 1.5 * np.eye(CLASSES)[target]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), target


def test_counts_and_shares_equal_scikit_learn(sample):
    probs, target = sample
    preds = probs.argmax(axis=1)
    assert (
        confusion_matrix(probs, target, CLASSES).tolist()
        == reference.confusion_matrix(target, preds).tolist()
    )
    assert accuracy(probs, target) == pytest.approx(reference.accuracy_score(target, preds))
    assert balanced_accuracy(probs, target, CLASSES) == pytest.approx(
        reference.balanced_accuracy_score(target, preds)
    )
    assert macro_f1(probs, target, CLASSES) == pytest.approx(
        reference.f1_score(target, preds, average="macro")
    )
    recall = reference.recall_score(target, preds, average=None)
    np.testing.assert_allclose(per_class_recall(preds, target, CLASSES), recall)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k_equals_scikit_learn(sample, k):
    probs, target = sample
    assert top_k_accuracy(probs, target, k) == pytest.approx(
        reference.top_k_accuracy_score(target, probs, k=k)
    )


def test_proper_scores_equal_scikit_learn(sample):
    probs, target = sample
    assert negative_log_likelihood(probs, target) == pytest.approx(reference.log_loss(target, probs))
    assert brier_score(probs, target) == pytest.approx(
        reference.brier_score_loss(target, probs, labels=range(CLASSES), scale_by_half=False)
    )


def test_a_class_without_samples_has_no_recall_and_stays_out_of_the_means():
    target = np.array([0, 0, 2, 2])
    preds = np.array([0, 1, 2, 2])
    recall = per_class_recall(preds, target, num_classes=4)
    assert recall[[0, 2]].tolist() == [0.5, 1.0]
    assert np.isnan(recall[[1, 3]]).all()
    assert balanced_accuracy(preds, target, num_classes=4) == 0.75
    expected = reference.f1_score(target, preds, labels=[0, 2], average="macro")
    assert macro_f1(preds, target, num_classes=4) == pytest.approx(expected)


def test_equal_probabilities_rank_by_class_index_so_top_1_is_accuracy():
    probs = np.array([[0.5, 0.5], [0.5, 0.5]])
    target = np.array([0, 1])
    assert accuracy(probs, target) == top_k_accuracy(probs, target, 1) == 0.5
    assert top_k_accuracy(probs, target, 2) == 1.0


def test_top_2_is_not_one_off():
    probs = np.array([[0.5, 0.1, 0.0, 0.4]])
    target = np.array([3])
    assert top_k_accuracy(probs, target, 2) == 1.0
    counts = ConfusionCounts(4)
    counts.update(torch.tensor([0]), torch.tensor([3]))
    assert counts.accuracy(within=1) == 0.0


def test_calibration_error_by_hand():
    confidence = np.array([0.95, 0.95, 0.65, 0.65])
    probs = np.stack([confidence, 1 - confidence], axis=1)
    result = expected_calibration_error(probs, np.array([0, 1, 0, 0]), bins=10)
    assert result.error == pytest.approx((2 * abs(0.5 - 0.95) + 2 * abs(1.0 - 0.65)) / 4)
    assert result.count.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 2]
    assert np.isnan(result.accuracy[0])
    assert result.accuracy[[6, 9]].tolist() == [1.0, 0.5]


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin():
    result = expected_calibration_error(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0, 0]), bins=2)
    assert result.count.tolist() == [1, 1]


def test_calibration_bins_equal_scikit_learn(sample):
    probs, target = sample
    result = expected_calibration_error(probs, target)
    right, sure = calibration_curve(probs.argmax(axis=1) == target, probs.max(axis=1), n_bins=15)
    filled = result.count > 0
    np.testing.assert_allclose(result.accuracy[filled], right)
    np.testing.assert_allclose(result.confidence[filled], sure)
    assert result.error == pytest.approx((result.count[filled] * np.abs(right - sure)).sum() / len(target))


def test_a_zero_probability_costs_a_finite_surprise():
    assert negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(87.33654, abs=1e-4)


def test_no_sample_gives_nan_and_never_zero():
    probs, target = np.empty((0, 3)), np.empty(0, dtype=int)
    results = [
        accuracy(probs, target),
        top_k_accuracy(probs, target, 1),
        balanced_accuracy(probs, target, 3),
        macro_f1(probs, target, 3),
        negative_log_likelihood(probs, target),
        brier_score(probs, target),
        expected_calibration_error(probs, target).error,
        ConfusionCounts(3).accuracy(),
        ConfusionCounts(3).balanced_accuracy(),
    ]
    assert np.isnan(results).all()


def test_counts_on_the_device_add_up_over_uneven_batches(sample):
    probs, target = sample
    counts = ConfusionCounts(CLASSES)
    for start in range(0, len(target), 50):
        preds = torch.from_numpy(probs[start : start + 50].argmax(axis=1))
        counts.update(preds, torch.from_numpy(target[start : start + 50]))
    assert counts.matrix().tolist() == confusion_matrix(probs, target, CLASSES).tolist()
    assert counts.accuracy() == pytest.approx(accuracy(probs, target))
    assert counts.accuracy(within=1) == pytest.approx(np.mean(np.abs(probs.argmax(axis=1) - target) <= 1))
    assert counts.balanced_accuracy() == pytest.approx(balanced_accuracy(probs, target, CLASSES))


def test_wrong_shapes_and_ranges_are_refused_by_name():
    with pytest.raises(ValueError, match="one target for each of 2 samples"):
        accuracy(np.array([0, 1]), np.array([0, 1, 1]))
    with pytest.raises(ValueError, match=r"targets must lie in \[0, 1\]"):
        confusion_matrix(np.array([0, 1]), np.array([0, 2]), 2)
    with pytest.raises(ValueError, match=r"k must lie in \[1, 2\]"):
        top_k_accuracy(np.array([[0.5, 0.5]]), np.array([0]), 3)
    with pytest.raises(ValueError, match="shape"):
        predicted_classes(np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match=r"\(N, K\)"):
        brier_score(np.array([0, 1]), np.array([0, 1]))
