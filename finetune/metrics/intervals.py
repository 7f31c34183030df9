"""Intervals where resampling says nothing, and the one rule for whether an interval holds zero.

A bootstrap of values that are all equal has no width: 0 correct of 159 would be "0 to 0". Wilson's score
interval does not shrink to a point there, with clusters (subjects) for draws where images are tied together.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log, sqrt
from statistics import NormalDist

LEVEL = 0.05  # a difference is claimed at; the intervals are of 1 - LEVEL
NO_WIDTH = 1e-9  # points: what is no wider than rounding has no width
BOOTSTRAP, WILSON, EXACT = "bootstrap", "Wilson", "Clopper-Pearson"  # how an interval was made
METHOD = "_method"  # ends the key of how an interval was made


def wilson_interval(right: float, count: float, level: float = 1 - LEVEL) -> tuple[float, float]:
    """Return Wilson's score interval of a fraction, in percent; NaN without an image.

    With p = right / n and z the normal quantile: (p + z^2/2n -+ z sqrt(p (1 - p) / n + z^2/4n^2)) / (1 +
    z^2/n). It never leaves [0, 100] and does not shrink to a point where all or none are correct. Both counts
    may be fractions: of clusters of unequal size, say.
    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.

    >>> tuple(round(end, 1) for end in wilson_interval(8, 10))
    (49.0, 94.3)
    """
    if not count:
        return float("nan"), float("nan")
    share, z = right / count, NormalDist().inv_cdf((1 + level) / 2)
    middle = share + z**2 / (2 * count)
    half = z * sqrt(max(share * (1 - share), 0.0) / count + z**2 / (4 * count**2))
    scale = 100 / (1 + z**2 / count)
    low = scale * (middle - half) if right else 0.0
    high = scale * (middle + half) if right < count else 100.0
    return low, high


def clopper_pearson(hits: int, count: int, level: float = 1 - LEVEL) -> tuple[float, float]:
    """Return the exact two-sided interval of a fraction, in percent; NaN without a draw.

    Its ends are quantiles of beta distributions; it covers at least `level` whatever the true fraction is.
    Source: Clopper and Pearson, "The Use of Confidence or Fiducial Limits", Biometrika 26, 1934.

    >>> tuple(round(end, 2) for end in clopper_pearson(0, 68))
    (0.0, 5.28)
    """
    from scipy.special import betaincinv

    if not count:
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low = float(betaincinv(hits, count - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, count - hits, 1 - tail)) if hits < count else 1.0
    return 100 * low, 100 * high


def highest_rate(failures: int, count: int, level: float = 1 - LEVEL) -> float:
    """Return the one-sided exact upper limit of a failure rate, in percent; 100 without a draw.

    >>> round(highest_rate(0, 68), 1), round(highest_rate(0, 299), 3)
    (4.3, 0.997)
    """
    from scipy.special import betaincinv

    return 100 * float(betaincinv(failures + 1, count - failures, level)) if failures < count else 100.0


def fewest_without_failure(percent: float, level: float = 1 - LEVEL) -> int:
    """Return how many draws without a failure show a rate of at most `percent`, one-sided.

    >>> fewest_without_failure(1.0), fewest_without_failure(4.31)
    (299, 68)
    """
    return ceil(log(1 - level) / log(1 - percent / 100))


def unmoved_mean(mean: float, draws: float, level: float = 1 - LEVEL) -> tuple[float, float]:
    """Return Wilson's interval, in percent, of a mean of hits that is the same in every cluster.

    Args:
        mean: in percent.
        draws: the clusters, in effect of one size (Kish): however many images a cluster has, it counts once.
        level: of the interval.

    >>> tuple(round(end, 1) for end in unmoved_mean(100.0, 30))
    (88.6, 100.0)
    """
    share = min(max(mean / 100, 0.0), 1.0)
    return wilson_interval(share * draws, draws, level)


def unmoved_difference(
    difference: float, draws: Sequence[tuple[float, float]], level: float = 1 - LEVEL
) -> tuple[float, float]:
    """Return an interval, in points, of a paired difference that is the same in every cluster of a part.

    None of a part's n clusters differs from the rest. Wilson's upper limit w of such clusters among all
    there are leaves 1 - w of the difference, and -100 w to 100 w for those that were not seen.

    Args:
        difference: in points.
        draws: for each part (fold, class) its weight, summing to one, and its clusters in effect of one size.
        level: of the interval.

    >>> tuple(round(end, 2) for end in unmoved_difference(0.0, [(1.0, 159)]))
    (-2.36, 2.36)
    >>> tuple(round(end, 2) for end in unmoved_difference(100.0, [(1.0, 159)]))
    (95.28, 100.0)
    """
    unseen = sum(weight * wilson_interval(0, count, level)[1] for weight, count in draws) / 100
    kept = difference * (1 - unseen)
    return max(kept - 100 * unseen, -100.0), min(kept + 100 * unseen, 100.0)


def sign_p(clusters: float) -> float:
    """Return the two-sided p of the sign test where all clusters differ the same way, 2^(1 - n).

    >>> sign_p(6), sign_p(1)
    (0.03125, 1.0)
    """
    return float(min(1.0, 2.0 ** (1 - clusters)))


def contains_zero(interval: Sequence[float]) -> bool:
    """Return whether an interval [low, high] in points contains zero; an end that is rounding's is zero.

    Bootstrap ends lie on a lattice, where zero is a common end: `paired_cluster_bootstrap` gives exactly zero
    within half a step of it.

    >>> contains_zero([4e-16, 8.02]), contains_zero([0.004, 8.02])
    (True, False)
    """
    return bool(interval[0] <= NO_WIDTH and interval[1] >= -NO_WIDTH)


def alike_words(difference: float) -> str:
    """Return what is said of several seeds that all differ by so many points; less than rounding is nothing.

    >>> alike_words(1e-12), alike_words(0.5)
    ('are equal', 'differ by the same')
    """
    return "are equal" if abs(difference) <= NO_WIDTH else "differ by the same"


def is_shown(interval: Sequence[float] | None, p: float | None, limit: float = LEVEL) -> bool:
    """Return whether a difference may be claimed: its interval excludes zero and its p is below the limit."""
    return interval is not None and p is not None and p < limit and not contains_zero(interval)


def told_method(key: str, method: str) -> dict[str, str]:
    """Return, for a record, how the interval `key` was made: nothing for a bootstrap.

    >>> told_method("exact_interval", "Wilson"), told_method("exact_interval", "bootstrap")
    ({'exact_interval_method': 'Wilson'}, {})
    """
    return {} if method == BOOTSTRAP else {f"{key}{METHOD}": method}
