"""How far stated probabilities are from what happens: bins of equal count, ordered thresholds, and chance.

Every error lies in [0, 1], and is NaN without an image. `finetune.metrics.classification` has the error over
bins of equal width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from finetune.metrics.classification import expected_calibration_error
from finetune.seeding import numpy_generator

BINS = 15
DRAWS = 100  # of labels from the stated probabilities
UPPER = 0.95  # the quantile over draws that a calibrated model stays below


@dataclass(frozen=True)
class Reference:
    """What a calibration error is where the stated probabilities are the true ones: chance alone.

    `mean` over drawn labels, and `upper`, which 95 % of the draws stay below.
    """

    mean: float
    upper: float


def adaptive_calibration_error(probs: np.ndarray, target: np.ndarray, bins: int = BINS) -> float:
    """Return the calibration error over bins of equal count, which no crowded bin hides anything in.

    The images are put in order of their top probability and cut into `bins` parts of n // bins or one more.
    The error is sum_b (n_b / N) |accuracy(b) - confidence(b)|. Images of equal confidence share their mean
    accuracy, so that their order does not matter.
    Source: Nixon, Dusenberry, Zhang, Jerfel, Tran, "Measuring Calibration in Deep Learning", CVPR workshops
    2019 (the adaptive scheme, on the top class).
    """
    probs, target = _checked(probs, target)
    if not len(target):
        return float("nan")
    confidence = probs.max(axis=1)
    right = (probs.argmax(axis=1) == target).astype(np.float64)
    return float(_adaptive(confidence, right[None], bins)[0])


def threshold_calibration_error(probs: np.ndarray, target: np.ndarray, bins: int = BINS) -> float:
    """Return, for ordered classes, the mean over thresholds of the calibration error of P(y > k).

    For k = 0..K-2 the statement "above class k" has the probability sum_{j > k} p_j, and its error is over
    bins of equal width on [0, 1]. It sees the whole distribution, which the top probability does not. NaN for
    a single class.
    """
    probs, target = _checked(probs, target)
    if not len(target) or probs.shape[1] < 2:
        return float("nan")
    return float(_thresholds(probs, np.asarray(target)[None], bins)[0])


def calibration_references(
    probs: np.ndarray, *, ordered: bool = False, bins: int = BINS, draws: int = DRAWS, seed: int = 0
) -> Mapping[str, Reference]:
    """Return how large each calibration error is when labels are drawn from the probabilities themselves.

    A perfect model does not show zero: with a hundred images in a bin about 0.03. Returns "ece",
    "adaptive_ece" and, for `ordered` classes, "threshold_ece"; empty without an image.
    """
    probs = np.asarray(probs, dtype=np.float64)
    count, classes = probs.shape
    if not count:
        return {}
    drawn = _labels(probs, draws, seed)
    confidence, best = probs.max(axis=1), probs.argmax(axis=1)
    right = (drawn == best).astype(np.float64)
    place = np.digitize(confidence, np.linspace(0.0, 1.0, bins + 1)[1:-1], right=True)
    found = {
        "ece": _gaps(confidence, right, place, bins),
        "adaptive_ece": _adaptive(confidence, right, bins),
    }
    if ordered and classes > 1:
        found["threshold_ece"] = _thresholds(probs, drawn, bins)
    return {
        name: Reference(float(values.mean()), float(np.quantile(values, UPPER)))
        for name, values in found.items()
    }


def calibration_errors(probs: np.ndarray, target: np.ndarray, *, ordered: bool = False) -> dict[str, float]:
    """Return "ece" (15 bins of equal width), "adaptive_ece", and "threshold_ece" of ordered classes."""
    found = {
        "ece": expected_calibration_error(probs, target).error,
        "adaptive_ece": adaptive_calibration_error(probs, target),
    }
    return found | ({"threshold_ece": threshold_calibration_error(probs, target)} if ordered else {})


def _gaps(confidence: np.ndarray, outcome: np.ndarray, place: np.ndarray, bins: int) -> np.ndarray:
    """Return sum_b |sum of outcomes - sum of confidences| / N for each row of outcomes (R, N), (R,)."""
    member = (place[:, None] == np.arange(bins)).astype(np.float64)
    return np.asarray(np.abs((outcome - confidence) @ member).sum(axis=1) / len(confidence))


def _adaptive(confidence: np.ndarray, right: np.ndarray, bins: int) -> np.ndarray:
    """Return the error over bins of equal count for each row of right answers (R, N), (R,)."""
    order = np.argsort(confidence, kind="stable")
    ordered, outcome = confidence[order], right[:, order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(np.r_[starts, len(ordered)])
    if len(starts) < len(ordered):
        outcome = np.repeat(np.add.reduceat(outcome, starts, axis=1) / sizes, sizes, axis=1)
    parts = min(bins, len(ordered))
    sizes = np.full(parts, len(ordered) // parts) + (np.arange(parts) < len(ordered) % parts)
    return _gaps(ordered, outcome, np.repeat(np.arange(parts), sizes), parts)


def _thresholds(probs: np.ndarray, target: np.ndarray, bins: int) -> np.ndarray:
    """Return the mean error of P(y > k) over k for each row of targets (R, N), (R,)."""
    above = probs[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
    edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    found = [
        _gaps(above[:, k], (target > k).astype(np.float64), np.digitize(above[:, k], edges, right=True), bins)
        for k in range(above.shape[1])
    ]
    return np.asarray(np.mean(found, axis=0))


def _labels(probs: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return labels drawn from the probabilities, int64 (draws, N)."""
    count, classes = probs.shape
    cumulated = probs.cumsum(axis=1)
    lifted = (cumulated / cumulated[:, -1:] + np.arange(count)[:, None]).ravel()
    chance = numpy_generator(seed, "calibration").random((draws, count))
    found = np.searchsorted(lifted, chance + np.arange(count), side="right") - classes * np.arange(count)
    return np.asarray(found.clip(0, classes - 1))


def _checked(probs: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    probs, target = np.asarray(probs, dtype=np.float64), np.asarray(target)
    if probs.ndim != 2 or target.shape != probs.shape[:1]:
        raise ValueError(f"probs must be (N, K) and target (N,), got {probs.shape} and {target.shape}")
    return probs, target
