"""Tests of paired repeats, one pair per training seed: Student's t and Wilcoxon's signed ranks.

The repeats are independent, unlike images of one subject, for which `finetune.metrics.bootstrap` resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Differences of paired scores that agree to so many decimals are one value: fractions of n images as floats
# do.
SAME_TO = 9
EXACT_UP_TO = 25  # pairs for which the signed-rank test counts every assignment of signs


def paired_t_test(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float | None:
    """Return Student's paired two-sided p that the mean of b - a is zero; None where there is no p.

    t = mean(b - a) sqrt(n) / sd(b - a) with n - 1 degrees of freedom. A single pair has no spread, and where
    all pairs differ by the same (to nine decimals) t is 0/0 or infinite: both give None, never a p of zero.

    Args:
        a, b: (n,) finite values of the same repeats (training seeds) in the same order.

    Raises:
        ValueError: for lengths that differ, no pair, or values that are not finite.

    Source: Student, "The Probable Error of a Mean", Biometrika 6, 1908.

    >>> round(paired_t_test([1.0, 2.0, 3.0], [1.5, 2.2, 3.8]), 4)
    0.102
    """
    from scipy.stats import ttest_1samp

    difference = _paired_difference(a, b)
    if np.ptp(difference) == 0:
        return None
    return float(ttest_1samp(difference, 0.0).pvalue)


def wilcoxon_signed_rank(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float | None:
    """Return the signed-rank test's two-sided p that b - a is symmetric about zero; None if b = a.

    Pairs without a difference are dropped; equal sizes (to nine decimals) share their mean rank. Up to 25
    pairs that remain, p = min(1, 2 min(P(W <= w), P(W >= w))) over all 2^n assignments of signs, ties or not;
    beyond, scipy's normal approximation, corrected for ties. No p can be below `least_wilcoxon_p` of the
    pairs that remain. Arguments and errors as `paired_t_test`.
    Source: Wilcoxon, "Individual Comparisons by Ranking Methods", Biometrics Bulletin 1, 1945.

    >>> wilcoxon_signed_rank([1, 2, 3, 4, 5], [2, 4, 6, 8, 10]), wilcoxon_signed_rank([1, 2], [1, 2])
    (0.0625, None)
    """
    from scipy.stats import rankdata, wilcoxon

    difference = _paired_difference(a, b)
    difference = difference[difference != 0]
    if not difference.size:
        return None
    if difference.size > EXACT_UP_TO:
        return float(wilcoxon(difference, method="asymptotic").pvalue)
    doubled = np.rint(2 * rankdata(np.abs(difference))).astype(
        np.int64
    )  # mean ranks are halves: whole numbers
    ways = np.ones(1)  # ways[w]: assignments of signs whose positive doubled ranks sum to w
    for rank in doubled:
        ways = np.append(ways, np.zeros(rank)) + np.append(np.zeros(rank), ways)
    seen = int(doubled[difference > 0].sum())
    tail = min(ways[: seen + 1].sum(), ways[seen:].sum()) / ways.sum()
    return float(min(1.0, 2 * tail))


def least_wilcoxon_p(pairs: int) -> float:
    """Return the least two-sided p that the exact signed-rank test of this many pairs can give, 2^(1 - n).

    >>> least_wilcoxon_p(5), least_wilcoxon_p(6)
    (0.0625, 0.03125)
    """
    return float(min(1.0, 2.0 ** (1 - pairs)))


def _paired_difference(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> np.ndarray:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(f"paired values must be (n,) with one n >= 1, got {first.shape} and {second.shape}")
    difference: np.ndarray = np.round(second - first, SAME_TO)
    if not np.isfinite(difference).all():
        raise ValueError("paired values must be finite")
    return difference
