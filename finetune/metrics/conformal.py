"""Sets of classes that hold the true one for a stated fraction of new people: split conformal prediction.

Numbers in, numbers out, without torch: a served model computes its sets by these very functions. A score
s(x, y) says how odd class y is for image x; the set of x is {y : s(x, y) <= q}, with q a quantile of the
scores of images that the model never saw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from types import MappingProxyType

import numpy as np

LEVEL = 0.9
ROUNDING = 1e-6  # stored probabilities are float32: a score this close to q counts as q
RANK_ROUNDING = 1e-9  # (9 + 1) * 0.9 is rank 9, whatever floats make of it

Score = Callable[[np.ndarray], np.ndarray]


def lac_scores(probs: np.ndarray) -> np.ndarray:
    """Return 1 - p_y for every class, (N, K): the smallest sets on average, which may be empty or have holes.

    Source: Sadinle, Lei, Wasserman, "Least Ambiguous Set-Valued Classifiers With Bounded Error Levels", JASA
    114, 2019.
    """
    return np.asarray(1 - _as_probs(probs))


def aps_scores(probs: np.ndarray, uniform: np.ndarray | None = None) -> np.ndarray:
    """Return the mass of the classes at least as likely as y, for every y, (N, K).

    Equal classes rank by their index. `uniform`, (N,) in [0, 1), takes that part of p_y away again
    (randomised; for tests). Without it, sets hold more than they promise.
    Source: Romano, Sesia, Candes, "Classification with Valid and Adaptive Coverage", NeurIPS 2020.
    """
    probs = _as_probs(probs)
    order = np.argsort(-probs, axis=1, kind="stable")
    mass = np.empty_like(probs)
    np.put_along_axis(mass, order, np.take_along_axis(probs, order, 1).cumsum(axis=1), 1)
    return mass if uniform is None else np.asarray(mass - np.asarray(uniform)[:, None] * probs)


def raps_scores(
    probs: np.ndarray, uniform: np.ndarray | None = None, *, weight: float = 0.01, free: int = 5
) -> np.ndarray:
    """Return the scores of `aps_scores` + weight * max(0, rank(y) - free), ranks counted from 1, (N, K).

    The penalty shortens the sets of many unlikely classes.
    Source: Angelopoulos, Bates, Jordan, Malik, "Uncertainty Sets for Image Classifiers using Conformal
    Prediction", ICLR 2021. Its released code takes the plain quantile, without n + 1; ours is
    `rank_quantile`.
    """
    probs = _as_probs(probs)
    order = np.argsort(-probs, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(1, probs.shape[1] + 1), order.shape), 1)
    return np.asarray(aps_scores(probs, uniform) + weight * np.maximum(0, rank - free))


def ordinal_aps_scores(probs: np.ndarray) -> np.ndarray:
    """Return, for ordered classes, the mass of the interval around the argmax at which y enters, (N, K).

    The interval starts as the most probable class and takes the likelier of its two neighbours, step by step;
    of equal ones the younger. Sets are contiguous and hold the argmax by construction.
    Source: Lu, Angelopoulos, Pomerantz, "Improving Trustworthiness of AI Disease Severity Rating in Medical
    Imaging with Ordinal Conformal Prediction Sets", MICCAI 2022.

    >>> ordinal_aps_scores(np.array([[0.25, 0.5, 0.25]])).tolist()
    [[0.75, 0.5, 1.0]]
    """
    probs = _as_probs(probs)
    count, classes = probs.shape
    rows = np.arange(count)
    low = high = probs.argmax(axis=1) if count else np.zeros(0, dtype=np.int64)
    mass = probs[rows, low]
    scores = np.empty_like(probs)
    scores[rows, low] = mass
    padded = np.pad(probs, ((0, 0), (1, 1)), constant_values=-1.0)
    for _ in range(classes - 1):
        younger, older = padded[rows, low], padded[rows, high + 2]
        down = younger >= older
        low, high = np.where(down, low - 1, low), np.where(down, high, high + 1)
        mass = mass + np.where(down, younger, older)
        scores[rows, np.where(down, low, high)] = mass
    return scores


def rps_scores(probs: np.ndarray) -> np.ndarray:
    """Return, for ordered classes, the mean over k < K-1 of (F_k - [y <= k])^2 for every y, (N, K).

    F is the cumulated probability. The score falls up to the median and rises after it, so sets are
    contiguous around the median.
    """
    cumulated = _as_probs(probs).cumsum(axis=1)[:, :-1]
    classes = cumulated.shape[1] + 1
    below = np.arange(classes)[:, None] <= np.arange(classes - 1)
    return np.asarray(np.square(cumulated[:, None, :] - below).mean(axis=2))


SCORES: Mapping[str, Score] = MappingProxyType(
    {"oaps": ordinal_aps_scores, "rps": rps_scores, "aps": aps_scores, "raps": raps_scores, "lac": lac_scores}
)
FOR_ORDERED = ("oaps", "rps")


def own_scores(scores: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the score of the true class of each image, (N,)."""
    return np.asarray(scores[np.arange(len(target)), target])


def rank_quantile(scores: np.ndarray, level: float = LEVEL) -> float:
    """Return the ceil((n + 1) level)-th smallest score; infinity where that rank exceeds n.

    Never the largest score instead: with n = 5 and level 0.9 that would cover 0.83. n >= 9 is needed for 0.9,
    19 for 0.95.

    >>> rank_quantile(np.arange(9.0)), rank_quantile(np.arange(8.0))
    (8.0, inf)
    """
    rank = rank_of(len(scores), level)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else float("inf")


def rank_of(count: int, level: float = LEVEL) -> int:
    """Return the rank ceil((n + 1) level) of the quantile among n scores; it may exceed n.

    Raises ValueError for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    return ceil((count + 1) * level - RANK_ROUNDING)


def fewest_people(level: float = LEVEL) -> int:
    """Return how many people a quantile of this level needs to be finite.

    >>> fewest_people(0.9), fewest_people(0.95)
    (9, 19)
    """
    count = 1
    while rank_of(count, level) > count:
        count += 1
    return count


def person_quantile(scores: np.ndarray, people: np.ndarray, level: float = LEVEL) -> float:
    """Return the quantile for a picture of a new person, drawn at random: people count alike, not pictures.

    With S people and N_j pictures of person j, each picture weighs 1 / ((S + 1) N_j), and infinity has the
    rest, 1 / (S + 1). The smallest score at which the weights reach `level` is returned; infinity where they
    never do. With one picture per person it is `rank_quantile`.
    Source: Lee, Barber, Willett, "Distribution-free inference with hierarchical data", 2023.
    """
    scores = np.asarray(scores, dtype=np.float64)
    _, person, counts = np.unique(people, return_inverse=True, return_counts=True)
    if rank_of(len(counts), level) > len(counts):
        return float("inf")
    order = np.argsort(scores, kind="stable")
    reached = (1 / (counts[person] * (len(counts) + 1)))[order].cumsum()
    place = int(np.searchsorted(reached, level - RANK_ROUNDING))
    return float(scores[order[place]]) if place < len(scores) else float("inf")


def group_quantiles(
    scores: np.ndarray, target: np.ndarray, people: np.ndarray, classes: int, level: float = LEVEL
) -> np.ndarray:
    """Return a quantile per true class, (K,), each from the people of that class alone (Mondrian).

    The set {y : s(x, y) <= q_y} then holds the true class at `level` within every class. A class of fewer
    than nine people (at 0.9) has infinity: it is in every set.
    """
    own = own_scores(scores, target)
    rows = [target == k for k in range(classes)]
    return np.array([person_quantile(own[row], np.asarray(people)[row], level) for row in rows])


def prediction_sets(
    scores: np.ndarray, quantile: float | np.ndarray, probs: np.ndarray, *, ordered: bool
) -> np.ndarray:
    """Return which classes are in the set of each image, bool (N, K); never none.

    The most probable class is always in. Sets of `ordered` classes have their holes filled. Both only add
    classes, so a promise stays kept.

    Args:
        scores: (N, K), of every class.
        quantile: one for all, or one per class (K,).
        probs: (N, K), which the scores are of.
        ordered: whether the classes have an order.
    """
    sets = np.asarray(scores) <= np.asarray(quantile) + ROUNDING
    if len(sets):
        sets[np.arange(len(sets)), np.asarray(probs).argmax(axis=1)] = True
    return filled(sets) if ordered else sets


def filled(sets: np.ndarray) -> np.ndarray:
    """Return the sets, bool (N, K), with every class between their first and their last."""
    from_left = np.logical_or.accumulate(sets, axis=1)
    from_right = np.logical_or.accumulate(sets[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(from_left & from_right)


def coverage(sets: np.ndarray, target: np.ndarray, people: np.ndarray) -> tuple[float, float]:
    """Return the fraction of sets that hold the true class: for a person drawn at random, and over pictures.

    The first is the mean over people of their own fraction. NaN without an image.
    """
    if not len(target):
        return float("nan"), float("nan")
    held = sets[np.arange(len(target)), target].astype(np.float64)
    _, person, counts = np.unique(people, return_inverse=True, return_counts=True)
    return float((np.bincount(person, held) / counts).mean()), float(held.mean())


def coverage_range(count: int, level: float = LEVEL, inside: float = 0.9) -> tuple[float, float]:
    """Return between which values the coverage lies for `inside` of all draws of `count` calibration scores.

    Given the draw the coverage is Beta(k, n + 1 - k), k the rank of the quantile. (1, 1) where the rank
    exceeds n: sets are then whole.

    >>> tuple(round(end, 3) for end in coverage_range(100))
    (0.848, 0.945)
    """
    from scipy.special import betaincinv

    rank = rank_of(count, level)
    if rank > count:
        return 1.0, 1.0
    ends = betaincinv(rank, count + 1 - rank, [(1 - inside) / 2, (1 + inside) / 2])
    return float(ends[0]), float(ends[1])


def _as_probs(probs: np.ndarray) -> np.ndarray:
    probs = np.asarray(probs, dtype=np.float64)
    if probs.ndim != 2:
        raise ValueError(f"probs must have shape (N, K), got {probs.shape}")
    return probs
