"""How one group is read from the probabilities of ordered groups, and which score each way serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

SAME_MASS = 1e-9  # windows whose masses differ by rounding alone


def decode_argmax(probs: np.ndarray) -> np.ndarray:
    """Return the most probable group of probs (N, K), int64 (N,); the youngest of equal ones."""
    return np.asarray(probs.argmax(axis=1))


def decode_expected(probs: np.ndarray) -> np.ndarray:
    """Return the group index nearest to sum_k k p_k, int64 (N,); halves go to the older group."""
    expected = probs @ np.arange(probs.shape[1])
    return np.asarray(np.floor(expected + 0.5).astype(np.int64))


def decode_median(probs: np.ndarray) -> np.ndarray:
    """Return the first group at which the cumulated probability reaches half of all, int64 (N,)."""
    cumulated = probs.cumsum(axis=1)
    return np.asarray((cumulated >= cumulated[:, -1:] / 2).argmax(axis=1))


def decode_window(probs: np.ndarray) -> np.ndarray:
    """Return the middle of the most probable three neighbouring groups, int64 (N,).

    argmax_j (p_{j-1} + p_j + p_{j+1}) is the best answer for one-off accuracy. An end group never beats its
    neighbour, so it is named only where both are equal: among equal windows the most probable middle counts,
    and of equal ones the youngest.

    >>> decode_window(np.array([[0.35, 0.05, 0.05, 0.3, 0.25], [0.7, 0.3, 0, 0, 0]])).tolist()
    [3, 0]
    """
    padded = np.pad(probs, ((0, 0), (1, 1)))
    mass = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    best = mass >= mass.max(axis=1, keepdims=True) - SAME_MASS
    return np.asarray(np.where(best, probs, -1.0).argmax(axis=1))


DECODERS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {
        "argmax": decode_argmax,
        "expected": decode_expected,
        "median": decode_median,
        "window": decode_window,
    }
)
# The score for which each is the best answer, if the probabilities are the true ones.
SERVES: Mapping[str, str] = MappingProxyType(
    {
        "argmax": "exact accuracy, log score",
        "expected": "squared error",
        "median": "mean error in groups",
        "window": "one-off accuracy",
    }
)
