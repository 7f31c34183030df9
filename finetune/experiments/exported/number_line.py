"""Classes that stand for numbers, such as years: one number for an answer, and a range. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

MIDDLE = 0.8


@dataclass(frozen=True, eq=False)
class NumberLine:
    """What ordered classes stand for, as numbers.

    Args:
        name: what the number is, such as "age".
        unit: of the values, in the plural.
        values: (K,) float64, in the order of the classes, rising.
    """

    name: str
    unit: str
    values: np.ndarray

    def median(self, probs: np.ndarray) -> np.ndarray:
        """Return the first value at which half of the probability is reached, (N,), of probs (N, K).

        It has the least expected absolute error.
        """
        return np.asarray(self.values[_reached(probs, 0.5)])

    def expected(self, probs: np.ndarray) -> np.ndarray:
        """Return sum_k p_k value_k, (N,), of probs (N, K): the least expected squared error."""
        return np.asarray(probs @ self.values / probs.sum(axis=1))

    def columns(self) -> Mapping[str, Callable[[np.ndarray], float]]:
        """Return the columns of a table of answers, median and mean: name -> its value of probs (K,)."""
        return {
            self.name: lambda probs: float(self.median(probs[None])[0]),
            f"{self.name} expected": lambda probs: round(float(self.expected(probs[None])[0]), 2),
        }


def middle(probs: np.ndarray, part: float = MIDDLE) -> tuple[int, int]:
    """Return the first and the last class of the middle `part` of the probability, probs (K,).

    As much of the rest may lie below the first class as above the last.

    >>> middle(np.array([0.05, 0.1, 0.7, 0.1, 0.05]))
    (1, 3)
    """
    ends = [_reached(probs[None], (1 + side * part) / 2)[0] for side in (-1, 1)]
    return int(ends[0]), int(ends[1])


def _reached(probs: np.ndarray, part: float) -> np.ndarray:
    """Return the first class at which this part of the probability is reached, (N,)."""
    cumulated = np.asarray(probs, dtype=np.float64).cumsum(axis=1)
    return np.asarray((cumulated >= cumulated[:, -1:] * part).argmax(axis=1))
