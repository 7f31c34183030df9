"""Prediction sets: worked scores, ranks that exceed n, and the promise itself by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.metrics.conformal import (
    FOR_ORDERED,
    SCORES,
    aps_scores,
    coverage,
    coverage_range,
    fewest_people,
    filled,
    group_quantiles,
    lac_scores,
    ordinal_aps_scores,
    own_scores,
    person_quantile,
    prediction_sets,
    rank_of,
    rank_quantile,
    raps_scores,
    rps_scores,
)

WORKED = np.array([[0.05, 0.10, 0.20, 0.35, 0.20, 0.08, 0.02, 0.0]])


def dirichlet(count: int, classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.6), size=count)


def test_the_worked_scores_of_ordered_classes():
    found = ordinal_aps_scores(WORKED)[0]
    np.testing.assert_allclose(found, [0.98, 0.85, 0.55, 0.35, 0.75, 0.93, 1, 1], atol=1e-12)
    found = rps_scores(WORKED)[0]
    wanted = [0.3068, 0.1783, 0.0783, 0.0354, 0.0926, 0.2068, 0.344, 0.4868]
    np.testing.assert_allclose(found, wanted, atol=5e-5)
    sets = prediction_sets(rps_scores(WORKED), 0.1, WORKED, ordered=True)
    assert np.flatnonzero(sets[0]).tolist() == [2, 3, 4]


def test_the_scores_of_unordered_classes_by_hand():
    probs = np.array([[0.2, 0.5, 0.3]])
    np.testing.assert_allclose(lac_scores(probs)[0], [0.8, 0.5, 0.7])
    np.testing.assert_allclose(aps_scores(probs)[0], [1.0, 0.5, 0.8])
    np.testing.assert_allclose(aps_scores(probs, np.array([0.5]))[0], [0.9, 0.25, 0.65])
    np.testing.assert_allclose(raps_scores(probs, weight=0.1, free=1)[0], [1.2, 0.5, 0.9])


@pytest.mark.parametrize("count", [1, 7, 8, 9, 20, 100])
def test_the_rank_and_never_the_maximum_in_its_place(count):
    scores = np.random.default_rng(0).random(count)
    rank = int(np.ceil(round((count + 1) * 0.9, 9)))
    wanted = np.inf if rank > count else np.sort(scores)[rank - 1]
    assert rank_quantile(scores) == wanted
    assert (rank > count) == (count < 9)
    assert person_quantile(scores, np.arange(count)) == wanted


def test_how_many_people_a_level_needs():
    assert [fewest_people(level) for level in (0.8, 0.9, 0.95)] == [4, 9, 19]
    assert rank_of(5) == 6
    with pytest.raises(ValueError, match="between 0 and 1"):
        rank_of(5, 1.0)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(50, 0.826, 0.960), (100, 0.848, 0.945), (400, 0.875, 0.924), (1000, 0.884, 0.915)],
)
def test_the_range_of_the_coverage(count, low, high):
    assert coverage_range(count) == pytest.approx((low, high), abs=5e-4)


def test_too_few_people_get_everything():
    assert coverage_range(8) == (1.0, 1.0)
    probs = dirichlet(5, 4)
    sets = prediction_sets(ordinal_aps_scores(probs), rank_quantile(np.arange(8.0)), probs, ordered=True)
    assert sets.all()
    assert person_quantile(np.zeros(0), np.zeros(0)) == np.inf
    assert person_quantile(np.random.default_rng(0).random(800), np.arange(800) % 8) == np.inf


def test_people_count_alike_however_many_pictures_they_have():
    scores = np.arange(10.0)
    people = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8])
    assert person_quantile(scores, people) == 9.0  # weights 1/10 each, the last two 1/20
    assert person_quantile(scores, people, 0.8) == 7.0
    # a prolific person with odd pictures moves the pooled quantile and not this one
    scores = np.r_[np.arange(30.0), np.full(300, 100.0)]
    people = np.r_[np.arange(30), np.full(300, 30)]
    assert rank_quantile(scores) == 100.0
    assert person_quantile(scores, people) == 28.0


@pytest.mark.parametrize("name", sorted(SCORES))
def test_sets_hold_the_argmax_and_grow_with_the_level(name):
    probs, ordered = dirichlet(200, 6), name in FOR_ORDERED
    scores = SCORES[name](probs)
    before = np.zeros_like(scores, dtype=bool)
    for quantile in (-1.0, 0.05, 0.3, 0.6, 0.9, np.inf):
        sets = prediction_sets(scores, quantile, probs, ordered=ordered)
        assert sets[np.arange(200), probs.argmax(axis=1)].all()
        assert (before <= sets).all()
        if ordered:
            assert (sets == filled(sets)).all()
        before = sets
    assert before.all()


@pytest.mark.parametrize("name", FOR_ORDERED)
def test_ordered_sets_are_contiguous_before_any_hole_is_filled(name):
    scores = SCORES[name](dirichlet(300, 8, seed=1))
    for quantile in (0.05, 0.2, 0.5, 0.8, 0.95):
        raw = scores <= quantile
        assert (raw == filled(raw)).all()


def test_holes_are_filled():
    sets = np.array([[True, False, False, True], [False, True, False, False], [False, False, False, False]])
    assert filled(sets).tolist() == [[True] * 4, [False, True, False, False], [False] * 4]
    assert prediction_sets(np.zeros((0, 3)), 0.5, np.zeros((0, 3)), ordered=True).shape == (0, 3)


def test_a_group_of_fewer_than_nine_people_is_in_every_set():
    probs = dirichlet(400, 3)
    target = np.r_[np.zeros(200, dtype=int), np.ones(192, dtype=int), np.full(8, 2)]
    scores = ordinal_aps_scores(probs)
    found = group_quantiles(scores, target, np.arange(400), 3)
    assert np.isfinite(found).tolist() == [True, True, False]
    assert found[0] == rank_quantile(scores[:200, 0])
    sets = prediction_sets(scores, found, probs, ordered=True)
    assert sets[:, 2].all()
    held, _ = coverage(sets[target == 0], target[target == 0], np.arange(200))
    assert held >= 0.9


def test_two_coverages_of_people_and_of_pictures():
    sets = np.array([[True, False], [False, True], [False, True], [True, True]])
    people = np.array(["a", "b", "b", "b"])
    assert coverage(sets, np.array([0, 1, 0, 0]), people) == pytest.approx(((1 + 2 / 3) / 2, 0.75))
    assert all(np.isnan(coverage(np.zeros((0, 2), bool), np.zeros(0, int), np.zeros(0))))


def covered(count: int, draws: int) -> np.ndarray:
    """Return, for each draw of `count` calibration scores, how probable it is that a new one is covered."""
    rank = rank_of(count)
    if rank > count:
        return np.ones(draws)
    scores = np.random.default_rng(count).random((draws, count))
    return np.array([rank_quantile(row) for row in scores])  # of uniform scores P(s <= q) is q


@pytest.mark.parametrize("draws", [2000, pytest.param(20_000, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("count", [8, 9, 20, 100])
def test_exchangeable_scores_are_covered_as_promised(count, draws):
    found = covered(count, draws)
    wanted = min(1.0, rank_of(count) / (count + 1))
    error = 3 * found.std() / np.sqrt(draws)
    assert found.mean() == pytest.approx(wanted, abs=max(error, 1e-12))
    assert found.mean() >= 0.9 - error


def new_people(draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return how often a picture of a new person is covered: by the hierarchical, and the pooled quantile.

    Sixty people have 1 to 60 pictures each; those with many are harder.
    """
    found = np.zeros((draws, 2))
    for draw in range(draws):
        counts = rng.integers(1, 61, 61)
        # Prolific people are harder; a person's pictures are as odd as each other, give or take.
        oddness = rng.normal(size=61) + counts / 30
        people = np.repeat(np.arange(61), counts)
        scores = oddness[people] + 0.5 * rng.normal(size=len(people))
        old, new = people < 60, scores[people == 60]
        quantiles = person_quantile(scores[old], people[old]), rank_quantile(scores[old])
        found[draw] = [(new <= quantile).mean() for quantile in quantiles]
    return found[:, 0], found[:, 1]


@pytest.mark.parametrize("draws", [1000, pytest.param(20_000, marks=pytest.mark.exhaustive)])
def test_a_picture_of_a_new_person_is_covered_as_promised(draws):
    per_person, pooled = new_people(draws, np.random.default_rng(7))
    error = per_person.std() / np.sqrt(draws)
    assert per_person.mean() >= 0.9 - 3 * error
    assert per_person.mean() <= 0.93
    assert pooled.mean() > per_person.mean()  # pictures of prolific people, harder here, count more


@pytest.mark.parametrize("name", sorted(SCORES))
def test_sets_of_new_images_cover(name):
    rng = np.random.default_rng(2)
    far = -np.abs(6 * rng.random((6000, 1)) - np.arange(7)) * (0.5 + rng.random((6000, 1)))
    probs = np.exp(far) / np.exp(far).sum(axis=1, keepdims=True)
    target = (rng.random(6000)[:, None] > probs.cumsum(axis=1)).sum(axis=1).clip(0, 6)
    scores = SCORES[name](probs)
    quantile = rank_quantile(own_scores(scores[:3000], target[:3000]))
    sets = prediction_sets(scores[3000:], quantile, probs[3000:], ordered=name in FOR_ORDERED)
    held, _ = coverage(sets, target[3000:], np.arange(3000))
    assert 0.88 <= held <= 0.96
    assert sets.sum(axis=1).mean() < 5.5
