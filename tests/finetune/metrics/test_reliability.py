"""Calibration errors over bins of equal count and over thresholds, and what chance alone makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.metrics.classification import expected_calibration_error
from finetune.metrics.reliability import (
    adaptive_calibration_error,
    calibration_errors,
    calibration_references,
    threshold_calibration_error,
)

CONFIDENCE = np.array([0.95, 0.9, 0.85, 0.8, 0.6, 0.55, 0.5, 0.4])
RIGHT = np.array([1, 1, 0, 1, 1, 0, 0, 0])


def three_classes(confidence: np.ndarray) -> np.ndarray:
    """Return probabilities whose first class is the most probable, at these confidences."""
    rest = (1 - confidence) / 2
    return np.stack([confidence, rest, rest], axis=1)


def test_the_worked_example_of_two_bins_of_equal_count():
    probs, target = three_classes(CONFIDENCE), 1 - RIGHT
    assert adaptive_calibration_error(probs, target, bins=2) == pytest.approx(0.19375)
    assert adaptive_calibration_error(probs[::-1], target[::-1], bins=2) == pytest.approx(0.19375)


def test_equal_confidences_do_not_depend_on_their_order():
    probs = three_classes(np.full(8, 0.6))
    for right in (RIGHT, RIGHT[::-1], np.roll(RIGHT, 3)):
        assert adaptive_calibration_error(probs, 1 - right, bins=4) == pytest.approx(0.1)


def test_thresholds_see_what_the_top_probability_does_not():
    probs = np.array([[0.6, 0.4, 0.0], [0.6, 0.4, 0.0], [0.6, 0.0, 0.4], [0.6, 0.0, 0.4], [0.6, 0.2, 0.2]])
    target = np.array([0, 0, 0, 1, 2])
    assert expected_calibration_error(probs, target).error == pytest.approx(0.0)
    # P(y > 0) is 0.4 for all, 2 of 5 are; P(y > 1) is 0, 0, .4, .4, .2, and 0 of 2, 0 of 2, 1 of 1 are
    assert threshold_calibration_error(probs, target, bins=5) == pytest.approx((0 + (0.8 + 0.8) / 5) / 2)


def test_degenerate_cells():
    none, nobody = np.zeros((0, 3)), np.zeros(0, dtype=int)
    assert all(np.isnan(value) for value in calibration_errors(none, nobody, ordered=True).values())
    assert calibration_references(none) == {}
    assert np.isnan(threshold_calibration_error(np.ones((2, 1)), np.zeros(2, dtype=int)))
    assert "threshold_ece" not in calibration_references(np.ones((2, 1)), ordered=True)
    one = three_classes(np.array([0.7]))
    assert adaptive_calibration_error(one, np.array([0])) == pytest.approx(0.3)
    assert threshold_calibration_error(one, np.array([0])) == pytest.approx((0.3 + 0.15) / 2)
    with pytest.raises(ValueError, match="target"):
        adaptive_calibration_error(one, np.zeros(2, dtype=int))


def test_a_perfect_model_shows_the_reference_and_a_bad_one_is_above_it():
    rng = np.random.default_rng(1)
    probs = rng.dirichlet(np.ones(4), size=600)
    target = (rng.random(600)[:, None] > probs.cumsum(axis=1)).sum(axis=1).clip(0, 3)
    reference = calibration_references(probs, ordered=True)
    found = calibration_errors(probs, target, ordered=True)
    assert reference.keys() == found.keys()
    for name, value in found.items():
        assert 0.01 < reference[name].mean < reference[name].upper
        assert value < reference[name].upper
    sharp = probs**3 / (probs**3).sum(axis=1, keepdims=True)
    for name, value in calibration_errors(sharp, target, ordered=True).items():
        assert value > 2 * calibration_references(sharp, ordered=True)[name].upper


def test_labels_are_drawn_from_the_probabilities():
    probs = np.tile([[0.5, 0.0, 0.3, 0.2]], (400, 1))
    whole = calibration_references(probs, ordered=True, bins=1, draws=400)
    # one bin: the mean of |share right - 0.5| of 400 fair coins is sqrt(2 / pi) * 0.5 / 20
    assert whole["ece"].mean == pytest.approx(np.sqrt(2 / np.pi) * 0.025, rel=0.1)
    by_hand = [np.sqrt(2 / np.pi) * np.sqrt(p * (1 - p) / 400) for p in (0.5, 0.5, 0.2)]
    assert whole["threshold_ece"].mean == pytest.approx(np.mean(by_hand), rel=0.1)
