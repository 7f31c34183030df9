"""Intervals where resampling cannot move, bounds that are zero: against scipy, by hand, simulated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from finetune.metrics.bootstrap import cluster_bootstrap_interval, paired_cluster_bootstrap
from finetune.metrics.intervals import (
    clopper_pearson,
    contains_zero,
    fewest_without_failure,
    highest_rate,
    is_shown,
    unmoved_difference,
    wilson_interval,
)


@pytest.mark.parametrize(("right", "count"), [(0, 10), (3, 10), (10, 10), (5000, 5794)])
def test_the_interval_is_wilsons(right, count):
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    low, high = wilson_interval(right, count)
    assert (low, high) == (pytest.approx(100 * expected.low), pytest.approx(100 * expected.high))
    assert 0 <= low <= 100 * right / count <= high <= 100


@pytest.mark.parametrize(("hit", "ends"), [(0.0, (0.0, 2.359)), (100.0, (97.641, 100.0))])
def test_none_or_all_of_159_images_have_wilsons_interval(hit, ends):
    found = cluster_bootstrap_interval(np.full(159, hit), np.arange(159), percent=True)
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-3)
    assert (found.estimate, found.method) == (hit, "Wilson")


def test_images_of_one_subject_count_as_one_draw():
    """159 images of 30 subjects, all correct: 30 of 30, not 159 of 159."""
    subjects = np.arange(160) % 30
    found = cluster_bootstrap_interval(np.full(160, 100.0), subjects, percent=True)
    draws = 160**2 / (10 * 36 + 20 * 25)
    assert found.low == pytest.approx(wilson_interval(draws, draws)[0])
    assert found.low < 89


def test_a_mean_that_moves_keeps_its_bootstrap():
    values = 100.0 * (np.arange(50) < 49)
    assert cluster_bootstrap_interval(values, np.arange(50), percent=True).method == "bootstrap"


def test_a_difference_that_no_image_moves_has_an_interval():
    none, every = np.zeros(159), np.full(159, 100.0)
    same = paired_cluster_bootstrap(every, every, np.arange(159), percent=True)
    assert (same.low, same.high, same.p) == pytest.approx((-2.359, 2.359, 1), abs=1e-3)
    apart = paired_cluster_bootstrap(none, every, np.arange(159), percent=True)
    assert (apart.low, apart.high) == (pytest.approx(95.281, abs=1e-3), 100)
    assert is_shown((apart.low, apart.high), apart.p)
    few = paired_cluster_bootstrap(none[:4], every[:4], np.arange(4), percent=True)
    assert few.p == 0.125
    assert not is_shown((few.low, few.high), few.p)


def test_parts_that_differ_have_an_interval_and_no_p():
    part = np.repeat([0, 1], 50)
    found = paired_cluster_bootstrap(
        np.zeros(100), 100.0 * part, np.arange(100), part, statistic="mean_of_strata", percent=True
    )
    assert np.isnan(found.p)
    assert (found.low, found.high) == pytest.approx(unmoved_difference(50.0, [(0.5, 50), (0.5, 50)]))
    assert not is_shown((found.low, found.high), found.p)


def test_a_bound_that_rounding_keeps_from_zero_is_zero():
    """Hits of three seeds are thirds: sums of them miss zero by rounding, and the lattice holds zero."""
    rng = np.random.default_rng(0)
    exact = 0
    for _ in range(100):
        a, b = ((rng.random((3, 120)) < 0.5).mean(0) * 100 for _ in range(2))
        found = paired_cluster_bootstrap(a, b, np.arange(120) % 20, resamples=200)
        half = 100 / 3 / 120 / 2
        assert not 0 < found.low <= half
        assert not -half <= found.high < 0
        for end in (found.low, found.high):
            assert end == 0 or abs(end) > 1e-9
            exact += end == 0
    assert exact


def test_zero_within_rounding_is_contained():
    assert contains_zero((4e-16, 8.02))
    assert contains_zero((-8.02, -4e-16))
    assert not contains_zero((0.01, 8.02))
    assert not is_shown((0.4, 8.02), 0.0504)


def claims(trials: int, resamples: int) -> tuple[int, int]:
    """Return how many of so many null pairs are claimed, and how many bounds are zero."""
    rng = np.random.default_rng(7)
    claimed = zeros = 0
    for _ in range(trials):
        n = int(rng.integers(100, 401))
        clusters = np.arange(n) % 20
        skill = rng.beta(4, 4, 20)[clusters]
        a, b = (100.0 * (rng.random((2, n)) < skill)).astype(float)
        found = paired_cluster_bootstrap(a, b, clusters, resamples=resamples)
        shown = is_shown((found.low, found.high), found.p)
        at_zero = abs(found.low) < 1e-9 or abs(found.high) < 1e-9
        assert not (shown and at_zero)
        claimed, zeros = claimed + shown, zeros + at_zero
    return claimed, zeros


def test_null_pairs_are_claimed_one_time_in_twenty():
    claimed, zeros = claims(200, 5000)
    assert claimed <= 200 * (0.05 + 2 * (0.05 * 0.95 / 200) ** 0.5)
    assert zeros


@pytest.mark.parametrize(("hits", "count"), [(0, 68), (3, 20), (19, 20), (20, 20)])
def test_the_exact_interval_is_scipys(hits: int, count: int):
    wanted = binomtest(hits, count).proportion_ci(0.95, "exact")
    assert clopper_pearson(hits, count) == pytest.approx((100 * wanted.low, 100 * wanted.high))
    one_sided = binomtest(hits, count, alternative="less").proportion_ci(0.95, "exact")
    assert highest_rate(hits, count) == pytest.approx(100 * one_sided.high)


def test_what_no_failure_shows():
    assert highest_rate(0, 68) == pytest.approx(100 * (1 - 0.05 ** (1 / 68)))  # 4.3 %
    assert fewest_without_failure(1.0) == 299
    assert highest_rate(0, 299) < 1 < highest_rate(0, 298)
    assert highest_rate(0, 0) == 100.0
    assert np.isnan(clopper_pearson(0, 0)).all()
