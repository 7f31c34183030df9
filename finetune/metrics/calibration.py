"""Probabilities made honest after training: a temperature or a scale per class, fitted on images held out.

Logits enter as they are or as the logarithm of stored probabilities: softmax sees no difference. No torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from finetune.errors import DataError
from finetune.metrics.classification import SMALLEST_PROBABILITY

LOWEST, HIGHEST = 0.05, 20.0  # temperatures that are searched
AT_END = 1.001  # a temperature within this factor of an end was stopped by it
FEWEST_A_CLASS = 51  # people of each class for a scale and a shift per class


@dataclass(frozen=True, eq=False)
class Scaling:
    """What turns logits z into calibrated probabilities: softmax(scale * log_softmax(z) + shift).

    A temperature T is the scale 1 / T for every class without a shift, and `temperature` names it. `before`
    and `after` are the mean cross-entropies, in nats, on the images that it was fitted on.
    """

    scale: np.ndarray
    shift: np.ndarray
    before: float = float("nan")
    after: float = float("nan")
    temperature: float | None = None

    @property
    def at_end(self) -> bool:
        """Whether the search for the temperature ended where it may not go further."""
        t = self.temperature
        return t is not None and not LOWEST * AT_END < t < HIGHEST / AT_END

    def apply(self, probs: np.ndarray) -> np.ndarray:
        """Return the calibrated probabilities of stated ones, float64 (N, K).

        Of several models' (M, N, K) each is calibrated, and their mean is returned.
        """
        logs = log_probs(probs) * self.scale + self.shift
        found = softmax(logs)
        return found if found.ndim == 2 else np.asarray(found.mean(axis=0))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return exp(z_k) / sum_j exp(z_j) over the last axis, float64."""
    logits = np.asarray(logits, dtype=np.float64)
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def log_probs(probs: np.ndarray) -> np.ndarray:
    """Return log p, float64; a probability below 1.2e-38 counts as 1.2e-38."""
    return np.log(np.maximum(np.asarray(probs, dtype=np.float64), SMALLEST_PROBABILITY))


def fit_temperature(logits: np.ndarray, target: np.ndarray, weights: np.ndarray | None = None) -> Scaling:
    """Return the temperature T in [0.05, 20] of the least mean cross-entropy of softmax(z / T).

    The search is bounded and over log T. For one model the mean is convex in 1 / T. The most probable class
    of a model never changes. Images that are all right have no best temperature: the lower end is returned.

    Args:
        logits: (N, K); or (M, N, K) of M models whose probabilities are averaged after softmax(z / T).
        target: int (N,).
        weights: (N,) at least 0, such as 1 / (images of the subject); None counts all images alike.

    Raises DataError without an image.
    Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    >>> fitted = fit_temperature(np.array([[2.0, 0], [2, 0], [2, 0], [0, 2]]), np.array([0, 0, 1, 1]))
    >>> round(fitted.temperature, 6), round(fitted.before, 6), round(fitted.after, 6)
    (1.820478, 0.626928, 0.562335)
    """
    from scipy.optimize import minimize_scalar

    logits, target, weights = _checked(logits, target, weights)

    def loss(log_t: float) -> float:
        return _cross_entropy(logits / np.exp(log_t), target, weights)

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    best = min((float(found.x), *bounds, 0.0), key=loss)  # nothing is gained where no T beats 1
    t = float(np.exp(best))
    classes = logits.shape[-1]
    return Scaling(np.full(classes, 1 / t), np.zeros(classes), loss(0.0), loss(best), t)


def fit_vector(
    logits: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    people: np.ndarray | None = None,
) -> Scaling:
    """Return a scale a_k and a shift b_k per class: softmax(a * log_softmax(z) + b), fitted with a penalty.

    The mean cross-entropy + (|a - 1|^2 + |b|^2) / N is minimised. It may change the most probable class, so
    accuracies must be computed again.

    Args:
        logits, target, weights: as `fit_temperature`, of one model.
        people: (N,), the subject of each image; None counts images.

    Raises DataError where a class has 50 people or fewer.
    Source: Guo et al., as above, section 4.2 ("vector scaling"); the penalty is ours.
    """
    from scipy.optimize import minimize

    logits, target, weights = _checked(logits, target, weights)
    refuse_few_people(target, logits.shape[1], people)
    count, classes = logits.shape
    logs, share = np.log(softmax(logits)), weights / weights.sum()
    hot = np.eye(classes)[target]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        a, b = values[:classes], values[classes:]
        probs = softmax(a * logs + b)
        gap = (probs - hot) * share[:, None]
        own = -(share * np.log(np.maximum(probs[np.arange(count), target], SMALLEST_PROBABILITY))).sum()
        penalty = (np.square(a - 1).sum() + np.square(b).sum()) / count
        slope = np.r_[(gap * logs).sum(axis=0) + 2 * (a - 1) / count, gap.sum(axis=0) + 2 * b / count]
        return float(own + penalty), slope

    found = minimize(loss, np.r_[np.ones(classes), np.zeros(classes)], jac=True, method="L-BFGS-B")
    a, b = found.x[:classes], found.x[classes:]
    before, after = (_cross_entropy(z, target, weights) for z in (logs, a * logs + b))
    return Scaling(a, b, before, after)


def refuse_few_people(target: np.ndarray, classes: int, people: np.ndarray | None = None) -> None:
    """Raise DataError where a class has too few people for a scale and a shift of its own."""
    units = np.arange(len(target)) if people is None else np.asarray(people)
    counts = [len(np.unique(units[target == k])) for k in range(classes)]
    if min(counts) < FEWEST_A_CLASS:
        what = "images" if people is None else "people"
        raise DataError(
            f"vector scaling needs more than {FEWEST_A_CLASS - 1} {what} of each class, class "
            f"{counts.index(min(counts))} (counted from 0) has {min(counts)}: use the temperature"
        )


Fit = Callable[[np.ndarray], Scaling]


def cross_fitted(probs: np.ndarray, parts: np.ndarray, fit: Fit) -> np.ndarray:
    """Return probabilities (N, K), each part's calibrated by what was fitted on the other parts.

    Args:
        probs: stated, (N, K).
        parts: (N,), two or more; people must lie within one part each.
        fit: rows (bool (N,)) -> the scaling that was fitted on them.
    """
    found = np.array(probs, dtype=np.float64)
    for part in np.unique(parts):
        found[parts == part] = fit(parts != part).apply(probs[parts == part])
    return found


def _cross_entropy(logits: np.ndarray, target: np.ndarray, weights: np.ndarray) -> float:
    logs = logits - logits.max(axis=-1, keepdims=True)
    logs = logs - np.log(np.exp(logs).sum(axis=-1, keepdims=True))
    own = logs[..., np.arange(len(target)), target]
    if own.ndim == 2:  # of several models: the log of the mean of their probabilities
        peak = own.max(axis=0)
        own = peak + np.log(np.exp(own - peak).mean(axis=0))
    return float(-(own * weights).sum() / weights.sum())


def _checked(
    logits: np.ndarray, target: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    logits, target = np.asarray(logits, dtype=np.float64), np.asarray(target)
    if logits.ndim not in (2, 3) or target.shape != logits.shape[-2:-1]:
        raise ValueError(
            f"logits must be (N, K) or (M, N, K) of targets (N,), got {logits.shape}, {target.shape}"
        )
    if not len(target):
        raise DataError("there is no image to calibrate on")
    return logits, target, np.ones(len(target)) if weights is None else np.asarray(weights, dtype=np.float64)
