"""Class probabilities or predictions against targets -> scores: fractions in [0, 1], NaN without a sample.

Every function takes numpy arrays; `scores` is either probs (N, K) or preds (N,), zero-based. A class without
a sample has no recall (NaN), and is left out of means over classes: it is never counted as 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

# Smallest probability that a logarithm sees: the smallest normal float32, so a surprise costs at most 87.3
# nats.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)


class ConfusionCounts:
    """Counts of (target, prediction) pairs, added up on the device and without waiting for it.

    `counts` is an int64 tensor (K, K): rows are targets, columns predictions. Processes may add theirs up.
    Targets are not checked here: the manifest did, and a check would stall an accelerator at every batch.

    >>> import torch
    >>> counts = ConfusionCounts(3)
    >>> counts.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]))
    >>> counts.matrix().tolist()
    [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    >>> round(counts.accuracy(), 3), counts.accuracy(within=1)
    (0.667, 1.0)
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu") -> None:
        import torch

        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch: `preds` and `target` int64 (B,), each in [0, K)."""
        import torch

        cell = target.to(self.counts.device) * self.num_classes + preds.to(self.counts.device)
        self.counts.view(-1).scatter_add_(0, cell, torch.ones_like(cell))

    def matrix(self) -> np.ndarray:
        """Return the counts as numpy int64 (K, K), rows targets, columns predictions."""
        return self.counts.cpu().numpy().copy()

    def accuracy(self, within: int = 0) -> float:
        """Return the fraction of samples with |prediction - target| <= `within`; NaN without any."""
        matrix = self.matrix()
        row, column = np.indices(matrix.shape)
        total = matrix.sum()
        return float(matrix[np.abs(row - column) <= within].sum() / total) if total else float("nan")

    def balanced_accuracy(self) -> float:
        """Return the mean recall over the classes that have samples; NaN without any."""
        return _mean(_present(recall_of(self.matrix())))


@dataclass(frozen=True, eq=False)
class Calibration:
    """The expected calibration error and the bins of its reliability diagram (arrays of length B).

    `low` and `high` are a bin's edges (low < confidence <= high), `count` its samples, `confidence` their
    mean top probability and `accuracy` the fraction that is correct; both are NaN in an empty bin.
    """

    error: float
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def predicted_classes(scores: np.ndarray) -> np.ndarray:
    """Return the argmax of probs (N, K), the first of equal ones; preds (N,) come back as they are."""
    scores = np.asarray(scores)
    if scores.ndim == 1:
        return scores
    if scores.ndim == 2:
        return np.asarray(scores.argmax(axis=1))
    raise ValueError(f"scores must be probs (N, K) or preds (N,), got shape {scores.shape}")


def confusion_matrix(scores: np.ndarray, target: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the counts int64 (K, K): rows are targets, columns predictions.

    Raises ValueError when lengths differ or a class index lies outside [0, K).

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 1, 0]), num_classes=2).tolist()
    [[1, 1], [0, 1]]
    """
    preds, target = _matched(predicted_classes(scores), target)
    for name, values in (("predictions", preds), ("targets", target)):
        if len(values) and not 0 <= values.min() <= values.max() < num_classes:
            raise ValueError(
                f"{name} must lie in [0, {num_classes - 1}], got {values.min()} to {values.max()}"
            )
    cells = target.astype(np.int64) * num_classes + preds.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def accuracy(scores: np.ndarray, target: np.ndarray) -> float:
    """Return the fraction of samples whose predicted class is the target; NaN without a sample."""
    preds, target = _matched(predicted_classes(scores), target)
    return _mean(preds == target)


def top_k_accuracy(probs: np.ndarray, target: np.ndarray, k: int) -> float:
    """Return the fraction of samples whose target is among the k largest of probs (N, K).

    Equal probabilities rank by class index, so `top_k_accuracy(probs, target, 1)` equals `accuracy`. On
    ordered classes this is not the fraction within one class of the target. Raises ValueError unless 1 <= k
    <= K.
    """
    probs, target = _matched(_as_probs(probs), target)
    if not 1 <= k <= probs.shape[1]:
        raise ValueError(f"k must lie in [1, {probs.shape[1]}], got {k}")
    of_target = probs[np.arange(len(target)), target][:, None]
    earlier = np.arange(probs.shape[1]) < target[:, None]
    rank = (probs > of_target).sum(axis=1) + ((probs == of_target) & earlier).sum(axis=1)
    return _mean(rank < k)


def recall_of(confusion: np.ndarray) -> np.ndarray:
    """Return each class's recall (K,) from a confusion matrix (rows targets); NaN without a sample."""
    samples = confusion.sum(axis=1)
    nothing = np.full(len(samples), np.nan)
    return np.asarray(np.divide(np.diag(confusion), samples, out=nothing, where=samples > 0))


def per_class_recall(scores: np.ndarray, target: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the fraction of each class's samples predicted correctly, float64 (K,); NaN without one.

    >>> per_class_recall(np.array([0, 0, 1]), np.array([0, 1, 1]), num_classes=3).tolist()
    [1.0, 0.5, nan]
    """
    return recall_of(confusion_matrix(scores, target, num_classes))


def balanced_accuracy(scores: np.ndarray, target: np.ndarray, num_classes: int) -> float:
    """Return the mean recall over the classes that have samples; NaN without any."""
    return _mean(_present(per_class_recall(scores, target, num_classes)))


def macro_f1(scores: np.ndarray, target: np.ndarray, num_classes: int) -> float:
    """Return the mean over the classes with samples of F1 = 2 TP / (2 TP + FP + FN).

    A class that is predicted but has no sample enters through the others' misses only.
    """
    confusion = confusion_matrix(scores, target, num_classes)
    samples, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    present = samples > 0
    return _mean(2 * np.diag(confusion)[present] / (samples + predicted)[present])


def expected_calibration_error(probs: np.ndarray, target: np.ndarray, bins: int = 15) -> Calibration:
    """Return the mean over samples of |accuracy - confidence| per bin of top probability, with the bins.

    ECE = sum_b (n_b / N) |acc(b) - conf(b)| over `bins` bins of equal width on (0, 1].
    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, eqs. 2, 3 and
    5.
    """
    probs, target = _matched(_as_probs(probs), target)
    edges = np.linspace(0.0, 1.0, bins + 1)
    confidence = probs.max(axis=1, initial=0.0)
    place = np.digitize(confidence, edges[1:-1], right=True)
    count = np.bincount(place, minlength=bins)
    empty = np.full(bins, np.nan)
    sure = np.divide(np.bincount(place, confidence, bins), count, out=empty.copy(), where=count > 0)
    right = np.bincount(place, probs.argmax(axis=1) == target, bins)
    right = np.divide(right, count, out=empty.copy(), where=count > 0)
    error = float(np.nansum(count * np.abs(right - sure)) / len(target)) if len(target) else float("nan")
    return Calibration(error, edges[:-1], edges[1:], count, sure, right)


def negative_log_likelihood(probs: np.ndarray, target: np.ndarray) -> float:
    """Return the mean of -log p_target in nats; a probability below 1.2e-38 counts as 1.2e-38."""
    probs, target = _matched(_as_probs(probs), target)
    return _mean(-np.log(np.maximum(probs[np.arange(len(target)), target], SMALLEST_PROBABILITY)))


def brier_score(probs: np.ndarray, target: np.ndarray) -> float:
    """Return the mean over samples of sum_k (p_k - [k = target])^2, in [0, 2].

    Source: Brier, "Verification of Forecasts Expressed in Terms of Probability", Monthly Weather Review 78,
    1950.
    """
    probs, target = _matched(_as_probs(probs), target)
    return _mean(np.square(probs - np.eye(probs.shape[1])[target]).sum(axis=1))


def _as_probs(probs: np.ndarray) -> np.ndarray:
    probs = np.asarray(probs, dtype=np.float64)
    if probs.ndim != 2:
        raise ValueError(f"probs must have shape (N, K), got {probs.shape}")
    return probs


def _matched(first: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    target = np.asarray(target)
    if target.shape != first.shape[:1]:
        raise ValueError(
            f"expected one target for each of {first.shape[0]} samples, got shape {target.shape}"
        )
    return first, target


def _present(values: np.ndarray) -> np.ndarray:
    return np.asarray(values[~np.isnan(values)])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
