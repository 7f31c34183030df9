"""What a mean over images is worth when images of one subject err together: intervals and paired tests.

Images of one subject are not independent, so subjects (clusters) are resampled, never single images;
where the data come in fixed folds (strata), subjects are resampled within their fold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from finetune.metrics.intervals import (
    BOOTSTRAP,
    NO_WIDTH,
    WILSON,
    sign_p,
    unmoved_difference,
    unmoved_mean,
)
from finetune.seeding import numpy_generator

Statistic = Literal["pooled", "mean_of_strata"]
STATISTICS: tuple[Statistic, ...] = ("pooled", "mean_of_strata")

# Cluster counts held at once while resampling (float64: 32 MiB), however many images there are.
CELLS_AT_ONCE = 2**22


class Summary(NamedTuple):
    """Mean, sample standard deviation (divisor n - 1; NaN for a single value) and number of values."""

    mean: float
    sd: float
    n: int


class Interval(NamedTuple):
    """An estimate and its interval at `level` by `method` (bootstrap or Wilson), from this many clusters."""

    estimate: float
    low: float
    high: float
    level: float
    clusters: int
    method: str = BOOTSTRAP


class PairedDifference(NamedTuple):
    """A difference, its interval at `level` by `method` and the two-sided p, from this many clusters.

    `p` is NaN where resampling never moves a difference that is not the same in all parts.
    """

    difference: float
    low: float
    high: float
    p: float
    level: float
    clusters: int
    method: str = BOOTSTRAP


class McNemar(NamedTuple):
    """Images only the first predicts correctly (`b`), only the second (`c`), and the exact two-sided p."""

    b: int
    c: int
    p: float


def summarise(values: Sequence[float] | np.ndarray) -> Summary:
    """Return mean, sample standard deviation (ddof = 1) and number of the values; ValueError without any.

    >>> summarise([1.0, 2.0, 3.0])
    Summary(mean=2.0, sd=1.0, n=3)
    """
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise ValueError("summarise needs at least one value")
    sd = float(array.std(ddof=1)) if array.size > 1 else float("nan")
    return Summary(float(array.mean()), sd, array.size)


def student_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean, mean -+ t_{n-1} sd / sqrt(n); NaN for a single value.

    Meant for a handful of independent repeats (training seeds), which are too few to resample.

    >>> tuple(round(end, 2) for end in student_interval([1.0, 2.0, 3.0]))
    (-0.48, 4.48)
    """
    from scipy.stats import t

    mean, sd, n = summarise(values)
    half = float(t.ppf((1 + level) / 2, n - 1)) * sd / n**0.5 if n > 1 else float("nan")
    return mean - half, mean + half


def effective_clusters(clusters: np.ndarray) -> float:
    """Return Kish's effective number of clusters, (sum n_g)^2 / sum n_g^2, for clusters of n_g images.

    It equals the number of clusters when all are of one size, and shows how few remain when some own most
    images.
    Source: Kish, "Survey Sampling", 1965, section 11.7.

    >>> effective_clusters(np.array(["a", "a", "b", "b"])), effective_clusters(np.array(["a", "a", "a", "b"]))
    (2.0, 1.6)
    """
    return _kish(np.unique(clusters, return_counts=True)[1])


def _kish(sizes: np.ndarray) -> float:
    return float(sizes.sum() ** 2 / np.square(sizes).sum())


def cluster_bootstrap_interval(
    values: np.ndarray,
    clusters: np.ndarray,
    strata: np.ndarray | None = None,
    *,
    statistic: Statistic = "pooled",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    percent: bool = False,
) -> Interval:
    """Return the mean of `values` with a percentile interval from resampling whole clusters within strata.

    With S_h and n_h a stratum's sum and number of values, the statistic is sum_h S_h / sum_h n_h ("pooled")
    or the mean over strata of S_h / n_h ("mean_of_strata"). A resample draws G_h - 1 of a stratum's G_h
    clusters with replacement and weighs them by G_h / (G_h - 1): so few clusters do not narrow the interval
    (Rao and Wu). A stratum with one cluster adds no spread. Clusters that lie in several strata are resampled
    as wholes from one common pool.

    Args:
        values: float (N,), one per image: 0/1 for correctness, any number else.
        clusters: (N,) whatever tells subjects apart.
        strata: (N,) the fold of each image; None is a single stratum.
        statistic: "pooled" or "mean_of_strata".
        level: of the interval, in (0, 1).
        resamples, seed: of the bootstrap.
        percent: the values are hits in percent, 0 to 100: where resampling never moves their mean (all
            correct, none correct), Wilson's interval over the effective clusters takes the bootstrap's place.

    Returns the interval. In simulations with heavy-tailed cluster sizes a 95 % interval covered 0.93 (five
    folds of 84 clusters) and 0.89 (30 clusters in all); one that takes images as independent covered 0.2 to
    0.3.
    Raises ValueError for no values, values that are not finite, or lengths that differ.
    Sources: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; Davison and Hinkley,
    "Bootstrap Methods and their Application", 1997, section 3.8; Rao and Wu, "Resampling Inference with
    Complex Survey Data", JASA 83, 1988.
    """
    table = _ClusterTable(values, clusters, strata)
    low, high = _quantiles(table.resample(statistic, resamples, seed), level)
    mean, method = table.observed(statistic), BOOTSTRAP
    if percent and high - low <= NO_WIDTH:
        (low, high), method = unmoved_mean(mean, table.effective(), level), WILSON
    return Interval(mean, low, high, level, len(table.sums), method)


def paired_cluster_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    clusters: np.ndarray,
    strata: np.ndarray | None = None,
    *,
    statistic: Statistic = "pooled",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    percent: bool = False,
) -> PairedDifference:
    """Return the mean of b - a over the same images, its clustered bootstrap interval and two-sided p.

    The interval is `cluster_bootstrap_interval` of b - a. With R resampled differences d*,
    p = min(1, 2 (1 + min(#{d* <= 0}, #{d* >= 0})) / (R + 1)): the level at which the interval begins to hold
    zero, never below 2 / (R + 1), and 1 when the two never differ. Arguments and errors as there.

    Means of hits lie on a lattice, where zero is a common value of d*. Floats miss it by rounding, so a d* no
    further from zero than rounding is zero. An end that excludes zero by less than half a step is zero too;
    a step is what the least difference of one image moves.

    With `percent`, where resampling never moves the difference, the interval is `unmoved_difference`, and p
    the sign test's over effective clusters where all parts differ by the same, else NaN.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"paired values must have one shape, got {a.shape} and {b.shape}")
    table = _ClusterTable(b - a, clusters, strata)
    half = table.half_step(b - a, statistic)
    draws = table.resample(statistic, resamples, seed)
    draws[np.abs(draws) <= NO_WIDTH] = 0.0
    low, high = _quantiles(draws, level)
    low, high = (0.0 if 0 < low <= half else low), (0.0 if -half <= high < 0 else high)
    difference, count = table.observed(statistic), len(table.sums)
    if percent and high - low <= NO_WIDTH:
        low, high = unmoved_difference(difference, table.parts(statistic), level)
        alike = np.ptp(b - a) <= NO_WIDTH
        p = (1.0 if abs(difference) <= NO_WIDTH else sign_p(table.effective())) if alike else float("nan")
        return PairedDifference(difference, low, high, p, level, count, WILSON)
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * (1 + int(tail)) / (resamples + 1))
    return PairedDifference(difference, low, high, p, level, count)


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """Return the discordant counts and exact two-sided p of McNemar's test on paired predictions.

    Under equal accuracy b ~ Binomial(b + c, 1/2); p is the exact binomial (not the mid-p) and 1 without
    discord. The test takes images as independent: with several images of a subject its p is too small. It is
    here because papers print it; conclusions belong to `paired_cluster_bootstrap`.
    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", 1947.

    >>> mcnemar(np.array([1, 1, 1, 1, 1, 0]), np.array([0, 0, 0, 0, 0, 1]))
    McNemar(b=5, c=1, p=0.21875)
    """
    from scipy.stats import binomtest

    right_a, right_b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if right_a.shape != right_b.shape:
        raise ValueError(f"paired predictions must have one shape, got {right_a.shape} and {right_b.shape}")
    b, c = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return McNemar(b, c, float(binomtest(b, b + c).pvalue) if b + c else 1.0)


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p-values in the order given.

    The j-th smallest of m is multiplied by m - j + 1, made monotone and cut at 1.
    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statistics 6, 1979.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def cluster_weights(
    clusters: np.ndarray, strata: np.ndarray | None, n: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield the images' weights in `n` resamples of whole clusters, float64 (rows, N) each."""
    table = _ClusterTable(np.zeros(len(clusters)), clusters, strata)
    for counts in table._counts(n, seed):
        for part in np.array_split(counts, 1 + counts.shape[0] * len(clusters) // CELLS_AT_ONCE):
            yield part[:, np.unique(clusters, return_inverse=True)[1]]


class _ClusterTable:
    """Sums and sizes per (cluster, stratum): all that resampling needs, so its cost does not grow with N."""

    def __init__(self, values: np.ndarray, clusters: np.ndarray, strata: np.ndarray | None) -> None:
        values = np.asarray(values, dtype=np.float64)
        strata = np.zeros(values.shape, dtype=np.int64) if strata is None else np.asarray(strata)
        shapes = (values.shape, np.shape(clusters), strata.shape)
        if values.ndim != 1 or not values.size or len(set(shapes)) > 1:
            raise ValueError(f"values, clusters and strata must be (N,) with one N >= 1, got {shapes}")
        if not np.isfinite(values).all():
            raise ValueError(f"values must be finite, got {values[~np.isfinite(values)][0]}")
        names, cluster = np.unique(clusters, return_inverse=True)
        levels, stratum = np.unique(strata, return_inverse=True)
        shape = (len(names), len(levels))
        cell = np.ravel_multi_index((cluster, stratum), shape)
        self.sums = np.bincount(cell, values, np.prod(shape)).reshape(shape)
        self.sizes = np.bincount(cell, minlength=np.prod(shape)).reshape(shape).astype(np.float64)

    def observed(self, statistic: Statistic) -> float:
        return float(_mean_of(statistic, self.sums.sum(axis=0)[None], self.sizes.sum(axis=0)[None])[0])

    def effective(self) -> float:
        """Return Kish's number of clusters, as `effective_clusters`."""
        return _kish(self.sizes.sum(axis=1))

    def parts(self, statistic: Statistic) -> list[tuple[float, float]]:
        """Return each part's weight and Kish's number of its clusters; one part where all are alike."""
        means = (self.sums / np.where(self.sizes > 0, self.sizes, 1))[self.sizes > 0]
        if np.ptp(means) <= NO_WIDTH:
            return [(1.0, self.effective())]
        own = self.sizes.sum(axis=0) if statistic == "pooled" else np.ones(self.sizes.shape[1])
        return [
            (float(weight), _kish(column[column > 0]))
            for weight, column in zip(own / own.sum(), self.sizes.T, strict=True)
        ]

    def half_step(self, differences: np.ndarray, statistic: Statistic) -> float:
        """Return half of what the least difference of one image moves the statistic; 0 where none differs."""
        sizes = np.abs(differences)
        sizes = sizes[sizes > NO_WIDTH]
        if not sizes.size:
            return NO_WIDTH
        images = self.sizes.sum(axis=0)
        count = images.sum() if statistic == "pooled" else len(images) * images.max()
        return float(max(sizes.min() / count / 2, NO_WIDTH))

    def resample(self, statistic: Statistic, resamples: int, seed: int) -> np.ndarray:
        if statistic not in STATISTICS:
            raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}; got {statistic!r}")
        if resamples < 1:
            raise ValueError(f"resamples must be at least 1, got {resamples}")
        parts = [
            _mean_of(statistic, counts @ self.sums, counts @ self.sizes)
            for counts in self._counts(resamples, seed)
        ]
        return np.concatenate(parts)

    def _pools(self) -> list[np.ndarray]:
        """Return the clusters (rows) that are resampled together: one pool per stratum if they nest."""
        occupied = self.sizes > 0
        if (occupied.sum(axis=1) > 1).any():
            return [np.arange(len(occupied))]
        return [np.flatnonzero(column) for column in occupied.T]

    def _counts(self, resamples: int, seed: int) -> Iterator[np.ndarray]:
        """Yield the clusters' weights, float64 (rows, G), until there are `resamples` rows."""
        generators = [(pool, numpy_generator(seed, "bootstrap", i)) for i, pool in enumerate(self._pools())]
        at_once = max(1, CELLS_AT_ONCE // len(self.sums))
        for start in range(0, resamples, at_once):
            rows = min(at_once, resamples - start)
            counts = np.empty((rows, len(self.sums)))
            for pool, generator in generators:
                counts[:, pool] = _drawn(generator, rows, len(pool))
            yield counts


def _drawn(generator: np.random.Generator, rows: int, size: int) -> np.ndarray:
    """Return the weights of `size` clusters after size - 1 draws, rescaled to sum to `size`."""
    draws = max(size - 1, 1)
    picked = generator.integers(0, size, (rows, draws)) + size * np.arange(rows)[:, None]
    return np.bincount(picked.ravel(), minlength=rows * size).reshape(rows, size) * (size / draws)


def _mean_of(statistic: Statistic, sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the statistic (R,) of stratum sums and sizes (R, H)."""
    if statistic == "pooled":
        return np.asarray(sums.sum(axis=1) / sizes.sum(axis=1))
    filled = sizes > 0
    means = np.divide(sums, sizes, out=np.zeros_like(sums), where=filled)
    return np.asarray(means.sum(axis=1) / filled.sum(axis=1))


def _quantiles(draws: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
