"""Temperature and vector scaling: the worked example, what never changes, refusals, and cross-fitting."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.errors import DataError
from finetune.metrics.calibration import (
    HIGHEST,
    LOWEST,
    Scaling,
    cross_fitted,
    fit_temperature,
    fit_vector,
    log_probs,
    softmax,
)


def drawn(count: int, classes: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Return logits that are `sharpness` times the true ones, and labels drawn from the truth."""
    rng = np.random.default_rng(5)
    true = 1.5 * rng.normal(size=(count, classes))
    chance = rng.random((count, 1))
    target = (chance > softmax(true).cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return sharpness * true, target


def test_the_worked_example():
    found = fit_temperature(np.array([[2.0, 0], [2, 0], [2, 0], [0, 2]]), np.array([0, 0, 1, 1]))
    assert found.temperature == pytest.approx(2 / np.log(3), abs=1e-6)
    assert found.temperature == pytest.approx(1.820478, abs=1e-6)
    assert (found.before, found.after) == pytest.approx((0.626928, 0.562335), abs=1e-6)


@pytest.mark.parametrize("sharpness", [0.4, 3.0])
def test_a_temperature_finds_how_much_too_sharp_a_model_is(sharpness):
    logits, target = drawn(4000, 5, sharpness)
    found = fit_temperature(logits, target)
    assert found.temperature == pytest.approx(sharpness, rel=0.08)
    assert found.after < found.before
    stored = softmax(logits).astype(np.float32)
    assert fit_temperature(log_probs(stored), target).temperature == pytest.approx(
        found.temperature, rel=1e-4
    )
    after = found.apply(stored)
    assert (after.argmax(axis=1) == stored.argmax(axis=1)).all()
    np.testing.assert_allclose(after, softmax(logits / found.temperature), atol=1e-6)


def test_no_search_beyond_its_ends():
    always = fit_temperature(np.array([[1.0, 0.0]]), np.array([0]))
    assert always.temperature == pytest.approx(LOWEST)
    assert always.at_end
    never = fit_temperature(np.array([[1.0, 0.0]]), np.array([1]))
    assert never.temperature == pytest.approx(HIGHEST)
    assert never.at_end
    flat = fit_temperature(np.zeros((3, 2)), np.array([0, 1, 1]))
    assert flat.after == pytest.approx(np.log(2))
    with pytest.raises(DataError, match="no image"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, dtype=int))
    with pytest.raises(ValueError, match="logits"):
        fit_temperature(np.zeros((3, 2)), np.zeros(2, dtype=int))


def test_people_may_count_alike():
    logits = np.array([[2.0, 0], [2, 0], [2, 0], [0, 2]])
    repeated = np.r_[logits, logits[:1], logits[:1]]
    weights = np.array([1 / 3, 1, 1, 1, 1 / 3, 1 / 3])
    found = fit_temperature(repeated, np.array([0, 0, 1, 1, 0, 0]), weights)
    assert found.temperature == pytest.approx(1.820478, abs=1e-6)


def test_several_models_share_a_temperature_before_their_mean():
    logits, target = drawn(600, 4, 2.0)
    rng = np.random.default_rng(0)
    both = np.stack([logits, logits + rng.normal(size=logits.shape)])
    found = fit_temperature(both, target)

    def loss(t: float) -> float:
        mean = softmax(both / t).mean(axis=0)
        return float(-np.log(mean[np.arange(600), target]).mean())

    assert found.after == pytest.approx(loss(found.temperature))
    assert all(loss(found.temperature) <= loss(found.temperature * step) for step in (0.9, 1.1))
    np.testing.assert_allclose(found.apply(softmax(both)), softmax(both / found.temperature).mean(axis=0))


def test_vector_scaling_undoes_a_scale_and_a_shift():
    logits, target = drawn(3000, 3, 1.0)
    spoiled = np.log(softmax(logits)) * [2.0, 1.0, 0.5] + [0.0, 1.0, -1.0]
    found = fit_vector(spoiled, target)
    truth = fit_temperature(logits, target)
    assert found.after == pytest.approx(truth.after, abs=0.02)
    assert found.after < fit_temperature(spoiled, target).after - 0.1
    assert found.temperature is None
    np.testing.assert_allclose(found.apply(softmax(spoiled)).sum(axis=1), 1)


def test_vector_scaling_stays_at_one_where_nothing_is_wrong_and_its_slope_is_right():
    logits, target = drawn(400, 3, 1.0)
    found = fit_vector(logits, target)
    np.testing.assert_allclose(found.scale, 1, atol=0.2)

    def loss(a: np.ndarray, b: np.ndarray) -> float:
        probs = softmax(a * np.log(softmax(logits)) + b)
        own = -np.log(probs[np.arange(400), target]).mean()
        return float(own + (np.square(a - 1).sum() + np.square(b).sum()) / 400)

    best = loss(found.scale, found.shift)
    for step in 0.02 * np.eye(3):
        assert best <= min(loss(found.scale + step, found.shift), loss(found.scale - step, found.shift))
        assert best <= min(loss(found.scale, found.shift + step), loss(found.scale, found.shift - step))


def test_vector_scaling_is_refused_with_few_people():
    logits, target = drawn(400, 3, 1.0)
    people = np.arange(400) // 20
    with pytest.raises(DataError, match=r"more than 50 people of each class, class \d .* has"):
        fit_vector(logits, target, people=people)
    with pytest.raises(DataError, match="more than 50 images"):
        fit_vector(logits[:60], target[:60])


def test_each_part_is_calibrated_by_the_others():
    probs, parts = np.tile([[0.25, 0.75]], (6, 1)), np.array([0, 0, 1, 1, 2, 2])
    asked = []

    def fit(rows: np.ndarray) -> Scaling:
        asked.append(rows.tolist())
        return Scaling(np.full(2, float(len(asked))), np.zeros(2))

    found = cross_fitted(probs, parts, fit)
    assert asked[1] == [True, True, False, False, True, True]
    np.testing.assert_allclose(found[:, 1], np.repeat([3 / 4, 9 / 10, 27 / 28], 2))
