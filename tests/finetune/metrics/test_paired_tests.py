"""Paired tests of a handful of seeds: against scipy, every assignment of signs, and simulated error rates."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from finetune.metrics.bootstrap import holm
from finetune.metrics.paired_tests import least_wilcoxon_p, paired_t_test, wilcoxon_signed_rank

A = [84.1, 83.7, 85.2, 84.8, 84.0, 83.9, 84.6]
B = [84.6, 83.9, 85.1, 85.6, 84.9, 84.0, 85.3]


def test_the_t_test_is_that_of_scipy_either_way_round():
    expected = stats.ttest_rel(A, B).pvalue
    assert paired_t_test(A, B) == pytest.approx(expected)
    assert paired_t_test(B, A) == pytest.approx(expected)


@pytest.mark.parametrize("shift", [0.0, 0.1, 97.3 - 97.1])
def test_equal_differences_give_no_p_and_never_a_p_of_zero(shift):
    a = np.array([97.1, 96.0, 98.2])
    assert paired_t_test(a, a + shift) is None
    assert paired_t_test([1.0], [2.0]) is None


def test_the_signed_rank_test_is_scipys_exact_one_without_ties():
    assert wilcoxon_signed_rank(A, B) == pytest.approx(stats.wilcoxon(A, B, method="exact").pvalue)
    assert wilcoxon_signed_rank(B, A) == wilcoxon_signed_rank(A, B)


@pytest.mark.parametrize(
    "difference",
    [[1, 1, 1, -1, 2, 3], [1, 0, 0, 2, 2, -5, 4, 4], [-1, 1], [3, 3, 3, 3], [0, 5], [2] * 9 + [-1]],
)
def test_ties_and_zeros_are_exact_too(difference):
    zeros = np.zeros(len(difference))
    kept = np.array([each for each in difference if each], dtype=float)
    every = stats.PermutationMethod(n_resamples=np.inf)
    expected = stats.wilcoxon(kept, method=every).pvalue if len(kept) > 1 else 1.0
    assert wilcoxon_signed_rank(zeros, difference) == pytest.approx(expected)


def test_shares_that_differ_by_rounding_alone_are_ties():
    """2 of 360 images more is one difference, whatever the floats say."""
    a = 100 * np.array([340, 331, 352, 347]) / 360
    b = 100 * np.array([342, 333, 350, 346]) / 360
    assert len(set(np.abs(b - a))) == 3
    assert wilcoxon_signed_rank(a, b) == wilcoxon_signed_rank([0, 0, 0, 0], [2, 2, -2, -1])


def test_many_pairs_take_scipys_approximation():
    a, b = np.random.default_rng(0).normal(size=(2, 40))
    assert wilcoxon_signed_rank(a, b) == pytest.approx(stats.wilcoxon(b - a, method="asymptotic").pvalue)


@pytest.mark.parametrize("pairs", [2, 5, 6, 10])
def test_the_least_p_is_reached_and_five_seeds_never_reach_five_per_cent(pairs):
    assert wilcoxon_signed_rank(np.zeros(pairs), np.arange(1, pairs + 1)) == least_wilcoxon_p(pairs)
    assert (least_wilcoxon_p(pairs) < 0.05) == (pairs >= 6)


@pytest.mark.parametrize("test", [paired_t_test, wilcoxon_signed_rank])
def test_what_cannot_be_paired_is_refused(test):
    for a, b in (([1.0, 2.0], [1.0]), ([], []), ([1.0, np.nan], [1.0, 2.0])):
        with pytest.raises(ValueError, match="paired values"):
            test(a, b)


def test_error_rates_of_equal_arms_are_five_per_cent_alone_and_as_a_family():
    """Five arms against one baseline over ten seeds, all equal: the seeds share what the arms do not."""
    rng = np.random.default_rng(1)
    studies, arms, seeds = 900, 5, 10
    scores = rng.normal(size=(studies, 1, seeds)) + rng.normal(size=(studies, arms + 1, seeds))
    raw = np.array([[paired_t_test(study[0], arm) for arm in study[1:]] for study in scores], dtype=float)
    alone = (raw < 0.05).mean()
    family = np.mean([(holm(row) < 0.05).any() for row in raw])
    uncorrected = (raw < 0.05).any(axis=1).mean()
    assert alone == pytest.approx(0.05, abs=0.012)
    assert 0.025 <= family <= 0.062
    assert uncorrected > 0.12
