"""Intervals and paired tests: against scipy, hand-worked numbers, slow versions, and simulated coverage."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

import finetune.metrics.bootstrap as statistics
from finetune.metrics.bootstrap import (
    cluster_bootstrap_interval,
    effective_clusters,
    holm,
    mcnemar,
    paired_cluster_bootstrap,
    student_interval,
    summarise,
)


def clustered_answers(rng: np.random.Generator, folds: int = 5, subjects: int = 20) -> dict[str, np.ndarray]:
    """Answers of two equally good models: true accuracy 0.6, correlated within subjects (ICC 0.3)."""
    sizes = rng.integers(1, 25, folds * subjects)
    cluster = np.repeat(np.arange(folds * subjects), sizes)
    shape = np.array([0.6, 0.4]) * (1 - 0.3) / 0.3
    skill = rng.beta(*shape, (2, folds * subjects))
    a, b = (rng.random((2, len(cluster))) < skill[:, cluster]).astype(float)
    return {"a": a, "b": b, "cluster": cluster, "fold": cluster // subjects}


def test_summary_uses_the_sample_deviation():
    summary = summarise([60.0, 62.0, 67.0])
    assert summary == pytest.approx((63.0, np.sqrt((9 + 1 + 16) / 2), 3))
    assert np.isnan(summarise([60.0]).sd)
    with pytest.raises(ValueError, match="at least one"):
        summarise([])


def test_student_interval_equals_scipy_and_needs_two_values():
    values = [0.4, 1.1, 0.7]
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert student_interval(values, level=0.9) == pytest.approx((expected.low, expected.high))
    assert np.isnan(student_interval([0.4])).all()


def test_kish_number_of_unequal_clusters():
    assert effective_clusters(np.repeat([0, 1, 2], [1, 1, 4])) == pytest.approx(36 / 18)


def test_the_two_estimates_differ_with_fold_sizes():
    values = np.array([1.0, 1.0, 1.0, 0.0])
    fold = np.array([0, 0, 0, 1])
    args = (values, np.arange(4), fold)
    assert cluster_bootstrap_interval(*args).estimate == 0.75
    assert cluster_bootstrap_interval(*args, statistic="mean_of_strata").estimate == 0.5


@pytest.mark.parametrize("statistic", ["pooled", "mean_of_strata"])
def test_resampling_equals_all_enumerated_draws(statistic):
    """Three clusters in fold 0 and two in fold 1: every draw of 2 of 3 and 1 of 2 is equally likely."""
    sums, sizes = np.array([1.0, 0.0, 2.0, 1.0, 3.0]), np.array([1, 2, 4, 1, 3])
    outcomes = []
    for first in itertools.product([0, 1, 2], repeat=2):
        for second in ([3], [4]):
            s = np.array([sums[list(first)].sum() * 1.5, sums[second].sum() * 2])
            n = np.array([sizes[list(first)].sum() * 1.5, sizes[second].sum() * 2])
            outcomes.append(s.sum() / n.sum() if statistic == "pooled" else (s / n).mean())
    clusters = np.repeat(np.arange(5), sizes)
    table = statistics._ClusterTable(np.repeat(sums / sizes, sizes), clusters, clusters // 3)
    draws = table.resample(statistic, 40_000, seed=0)
    assert draws.mean() == pytest.approx(np.mean(outcomes), abs=0.01)
    assert draws.std() == pytest.approx(np.std(outcomes), abs=0.01)
    assert set(draws.round(9)) == set(np.round(outcomes, 9))


def test_singleton_clusters_give_the_textbook_standard_error():
    values = np.random.default_rng(0).normal(size=400)
    interval = cluster_bootstrap_interval(values, np.arange(400), resamples=8000)
    half = 1.96 * stats.sem(values)
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.04)
    assert interval.clusters == 400


def test_repeating_every_image_does_not_narrow_the_interval():
    data = clustered_answers(np.random.default_rng(1))
    once = cluster_bootstrap_interval(data["a"], data["cluster"], data["fold"])
    tenfold = cluster_bootstrap_interval(*(np.repeat(data[key], 10) for key in ("a", "cluster", "fold")))
    assert once == pytest.approx(tenfold)


def test_the_seed_decides_and_the_chunks_do_not(monkeypatch):
    data = clustered_answers(np.random.default_rng(2))
    args = (data["a"], data["cluster"], data["fold"])
    whole = cluster_bootstrap_interval(*args, resamples=300)
    assert whole != cluster_bootstrap_interval(*args, resamples=300, seed=1)
    monkeypatch.setattr(statistics, "CELLS_AT_ONCE", 700)
    assert cluster_bootstrap_interval(*args, resamples=300) == pytest.approx(whole)


def test_clusters_that_cross_folds_are_resampled_as_wholes():
    """Two subjects, each with one right and one wrong fold: whole subjects cancel, pieces would not."""
    values = np.array([1.0, 0.0, 1.0, 0.0])
    interval = cluster_bootstrap_interval(values, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    assert (interval.low, interval.estimate, interval.high) == (0.5, 0.5, 0.5)


def test_one_pool_serves_all_clusters_as_soon_as_one_crosses_folds():
    """Of three clusters the middle one lies in both folds: 2 of 3 are drawn, so all-zero has chance 1/9."""
    table = statistics._ClusterTable(np.array([1.0, 0, 0, 1]), np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]))
    draws = table.resample("pooled", 20_000, seed=0)
    assert np.mean(draws == 0) == pytest.approx(1 / 9, abs=0.01)
    assert np.mean(draws == 1) == pytest.approx(4 / 9, abs=0.01)


def test_the_clustered_interval_covers_and_the_naive_one_does_not():
    rng = np.random.default_rng(4)
    covered = {"pooled": 0, "mean_of_strata": 0, "naive": 0}
    trials = 1000
    for _ in range(trials):
        data = clustered_answers(rng)
        for statistic in statistics.STATISTICS:
            interval = cluster_bootstrap_interval(
                data["a"], data["cluster"], data["fold"], statistic=statistic, resamples=400
            )
            covered[statistic] += interval.low <= 0.6 <= interval.high
        covered["naive"] += abs(data["a"].mean() - 0.6) <= 1.96 * stats.sem(data["a"])
    assert 0.91 <= covered["pooled"] / trials <= 0.98
    assert 0.91 <= covered["mean_of_strata"] / trials <= 0.98
    assert covered["naive"] / trials < 0.80


def test_the_paired_test_rejects_equal_models_about_one_time_in_twenty():
    rng = np.random.default_rng(5)
    trials, clustered, naive = 1000, 0, 0
    for _ in range(trials):
        data = clustered_answers(rng)
        paired = paired_cluster_bootstrap(data["a"], data["b"], data["cluster"], data["fold"], resamples=400)
        clustered += paired.p < 0.05
        naive += mcnemar(data["a"], data["b"]).p < 0.05
    assert 0.02 <= clustered / trials <= 0.08
    assert naive / trials > 0.15


def test_a_real_difference_is_found():
    rng = np.random.default_rng(6)
    data = clustered_answers(rng, subjects=60)
    better = np.maximum(data["a"], rng.random(len(data["a"])) < 0.2)
    paired = paired_cluster_bootstrap(data["a"], better, data["cluster"], data["fold"])
    assert paired.difference == pytest.approx(better.mean() - data["a"].mean())
    assert 0 < paired.low < paired.difference < paired.high
    assert paired.p == pytest.approx(2 / 2001)


def test_swapping_the_models_mirrors_the_difference():
    data = clustered_answers(np.random.default_rng(7))
    args = (data["cluster"], data["fold"])
    forth, back = (paired_cluster_bootstrap(data[x], data[y], *args) for x, y in ("ab", "ba"))
    assert (back.difference, back.low, back.high) == pytest.approx(
        (-forth.difference, -forth.high, -forth.low)
    )
    assert forth.p == back.p


def test_identical_answers_differ_by_exactly_nothing():
    data = clustered_answers(np.random.default_rng(8))
    paired = paired_cluster_bootstrap(data["a"], data["a"], data["cluster"], data["fold"])
    assert (paired.difference, paired.low, paired.high, paired.p) == (0.0, 0.0, 0.0, 1.0)
    assert mcnemar(data["a"], data["a"]) == (0, 0, 1.0)


def test_p_and_interval_agree_about_zero():
    rng = np.random.default_rng(9)
    for _ in range(30):
        data = clustered_answers(rng, folds=2)
        paired = paired_cluster_bootstrap(data["a"], data["b"], data["cluster"], resamples=999)
        if abs(paired.p - 0.05) > 0.01:
            assert (paired.p < 0.05) == (paired.low > 0 or paired.high < 0)


@pytest.mark.parametrize(("b", "c"), [(0, 1), (3, 3), (7, 2), (120, 90)])
def test_mcnemar_is_the_exact_binomial(b, c):
    first = np.array([1] * b + [0] * c + [1, 0])
    second = np.array([0] * b + [1] * c + [1, 0])
    result = mcnemar(first, second)
    tail = stats.binom.cdf(min(b, c), b + c, 0.5)
    assert (result.b, result.c) == (b, c)
    assert result.p == pytest.approx(min(1.0, 2 * tail))


def test_holm_by_hand_and_keeps_the_order_given():
    assert holm([0.04, 0.01, 0.02, 0.9]) == pytest.approx([0.08, 0.04, 0.06, 0.9])
    assert holm([0.6, 0.7]).tolist() == [1.0, 1.0]
    assert holm([]).tolist() == []


def test_broken_input_is_refused():
    with pytest.raises(ValueError, match="one N >= 1"):
        cluster_bootstrap_interval(np.ones(3), np.arange(2))
    with pytest.raises(ValueError, match="one N >= 1"):
        cluster_bootstrap_interval(np.ones(0), np.arange(0))
    with pytest.raises(ValueError, match="finite, got nan"):
        cluster_bootstrap_interval(np.array([1.0, np.nan]), np.arange(2))
    with pytest.raises(ValueError, match="level must lie"):
        cluster_bootstrap_interval(np.ones(2), np.arange(2), level=95)
    with pytest.raises(ValueError, match="pooled, mean_of_strata"):
        cluster_bootstrap_interval(np.ones(2), np.arange(2), statistic="median")
    with pytest.raises(ValueError, match="pooled, mean_of_strata"):
        paired_cluster_bootstrap(np.ones(2), np.ones(2), np.arange(2), statistic="median")
    with pytest.raises(ValueError, match="resamples"):
        cluster_bootstrap_interval(np.ones(2), np.arange(2), resamples=0)
    with pytest.raises(ValueError, match="one shape"):
        paired_cluster_bootstrap(np.ones(2), np.ones(3), np.arange(2))
    with pytest.raises(ValueError, match="one shape"):
        mcnemar(np.ones(2), np.ones(3))
