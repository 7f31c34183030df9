"""Answering only where the model is sure: risk against coverage, its area, and intervals over subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune.metrics.bootstrap import Interval, cluster_weights, effective_clusters
from finetune.metrics.intervals import BOOTSTRAP, NO_WIDTH, WILSON, unmoved_mean

COVERAGES = (1.0, 0.9, 0.8, 0.5)


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The mean loss of the most confident images, for every number of them, and its area.

    `coverage` and `risk` are (N,): entry i is of the i + 1 most confident images. `area` (AURC) is the mean
    of `risk`, `excess` (E-AURC) that area minus the one of the best order there is; both NaN without an
    image.
    """

    coverage: np.ndarray
    risk: np.ndarray
    area: float
    excess: float


def risk_coverage(confidence: np.ndarray, loss: np.ndarray) -> RiskCoverage:
    """Return the curve of risk against coverage; equal confidences are averaged over their orders.

    With the images in order of confidence, risk(i) = (l_1 + ... + l_i) / i. Within a tie every order is as
    likely, so each image has the tie's mean loss.

    Args:
        confidence: (N,), the larger the surer.
        loss: (N,), such as 1 for a wrong class and 0 for the right one.

    Raises ValueError for values that are not finite or differ in number.
    Source: Geifman, Uziel, El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", ICLR
    2019.

    >>> found = risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.0, 1.0, 0.0, 1.0]))
    >>> found.risk.round(4).tolist(), round(found.area, 6), round(found.excess, 6)
    ([0.0, 0.5, 0.3333, 0.5], 0.333333, 0.125)
    """
    confidence, loss = _checked(confidence, loss)
    count = len(loss)
    if not count:
        return RiskCoverage(np.zeros(0), np.zeros(0), float("nan"), float("nan"))
    blocks = _Blocks(confidence)
    ordered = np.repeat(blocks.sums(loss) / blocks.sizes, blocks.sizes)
    places = np.arange(1, count + 1)
    risk = ordered.cumsum() / places
    best = np.sort(loss).cumsum() / places
    return RiskCoverage(places / count, risk, float(risk.mean()), float(risk.mean() - best.mean()))


def risk_at(confidence: np.ndarray, loss: np.ndarray, coverages: Sequence[float] = COVERAGES) -> np.ndarray:
    """Return the mean loss of the most confident part of the images, for each part, (C,); NaN without any.

    A part that ends within an image, or within a tie, takes its share of it.
    """
    confidence, loss = _checked(confidence, loss)
    if not len(loss):
        return np.full(len(coverages), np.nan)
    found = _risks(_Blocks(confidence), np.ones((1, len(loss))), loss, coverages)
    return np.asarray(found[0])


def risk_intervals(
    confidence: np.ndarray,
    loss: np.ndarray,
    clusters: np.ndarray,
    strata: np.ndarray | None = None,
    *,
    coverages: Sequence[float] = COVERAGES,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Interval]:
    """Return the risk at each coverage in percent, with an interval from resampling whole clusters.

    The order by confidence is fixed; who is among the images, and so what the surest part of them is, is
    drawn again. Where that never moves the risk, Wilson's interval over the clusters of that part, in effect
    of one size, takes its place.

    Args:
        confidence, loss: as `risk_coverage`; losses lie in [0, 1].
        clusters: (N,), whatever tells subjects apart.
        strata: (N,), such as folds; clusters are drawn within them.
        coverages: parts of the images, each in (0, 1].
        level, resamples, seed: as `finetune.metrics.bootstrap.cluster_bootstrap_interval`.

    Raises ValueError without an image.
    """
    confidence, loss = _checked(confidence, loss)
    estimates = 100 * risk_at(confidence, loss, coverages)
    blocks = _Blocks(confidence)
    drawn = [
        100 * _risks(blocks, weights, loss, coverages)
        for weights in cluster_weights(clusters, strata, resamples, seed)
    ]
    ends = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2], axis=0)
    order = np.argsort(-confidence, kind="stable")
    found = []
    for estimate, (low, high), part in zip(estimates.tolist(), ends.T.tolist(), coverages, strict=True):
        kept = np.asarray(clusters)[order[: max(1, int(np.ceil(part * len(loss) - 1e-9)))]]
        count, method = len(np.unique(kept)), BOOTSTRAP
        if high - low <= NO_WIDTH:
            (low, high), method = unmoved_mean(estimate, effective_clusters(kept), level), WILSON
        found.append(Interval(estimate, low, high, level, count, method))
    return found


def area_difference(
    first: tuple[np.ndarray, np.ndarray],
    second: tuple[np.ndarray, np.ndarray],
    clusters: np.ndarray,
    strata: np.ndarray | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Return how much larger the second's area (AURC) is on the same images, with its clustered interval.

    `first` and `second` are (confidence, loss) of the same N images; see `risk_intervals`.
    """
    sides = [_checked(*side) for side in (first, second)]
    own = [risk_coverage(*side).area for side in sides]
    blocks = [_Blocks(confidence) for confidence, _ in sides]
    drawn = []
    for weights in cluster_weights(clusters, strata, resamples, seed):
        left, right = (_areas(block, weights, loss) for block, (_, loss) in zip(blocks, sides, strict=True))
        drawn.append(right - left)
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(own[1] - own[0], low, high, level, len(np.unique(clusters)))


class _Blocks:
    """The images in order of confidence, equal ones together."""

    def __init__(self, confidence: np.ndarray) -> None:
        self.order = np.argsort(-confidence, kind="stable")
        ordered = confidence[self.order]
        self.starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        self.sizes = np.diff(np.r_[self.starts, len(ordered)])

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sums (..., B) of values (..., N) over each block."""
        return np.asarray(np.add.reduceat(values[..., self.order], self.starts, axis=-1))


def _risks(blocks: _Blocks, weights: np.ndarray, loss: np.ndarray, coverages: Sequence[float]) -> np.ndarray:
    """Return the weighted risk at each coverage, (R, C), for weights (R, N)."""
    mass, lost = (blocks.sums(values).cumsum(axis=1) for values in (weights, weights * loss))
    mass, lost = (np.concatenate([np.zeros((len(values), 1)), values], axis=1) for values in (mass, lost))
    return np.stack(
        [
            np.interp(np.multiply(coverages, m[-1]), m, c) / (np.multiply(coverages, m[-1]))
            for m, c in zip(mass, lost, strict=True)
        ]
    )


def _areas(blocks: _Blocks, weights: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Return the weighted mean of the weighted risk, (R,), tied images taking the mean over their orders.

    An image of weight w stands for w images of its loss. Over a block of mean loss m after M images with
    losses L, the risks sum to sum_{i=1..w} (L + i m) / (M + i), which is
    m w + (L - m M) (psi(M + w + 1) - psi(M + 1)).
    """
    from scipy.special import digamma

    block, lost = blocks.sums(weights), blocks.sums(weights * loss)
    before, lost_before = block.cumsum(axis=1) - block, lost.cumsum(axis=1) - lost
    mean = np.divide(lost, block, out=np.zeros_like(lost), where=block > 0)
    steps = digamma(before + block + 1) - digamma(before + 1)
    risks = lost + (lost_before - mean * before) * steps
    return np.asarray(risks.sum(axis=1) / block.sum(axis=1))


def _checked(confidence: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence, loss = np.asarray(confidence, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if confidence.ndim != 1 or confidence.shape != loss.shape:
        raise ValueError(f"confidence and loss must be (N,) alike, got {confidence.shape} and {loss.shape}")
    if not (np.isfinite(confidence).all() and np.isfinite(loss).all()):
        raise ValueError("confidence and loss must be finite numbers")
    return confidence, loss
