"""Rows shared out in parts: whole groups, the classes of each part in the same proportions as in all."""

from __future__ import annotations

import numpy as np

# Two spreads are equal where they differ by less than this share of the second and this number together.
RELATIVE, ABSOLUTE = 1e-5, 1e-8


def stratified_groups(label: np.ndarray, group: np.ndarray, parts: int, seed: int | None) -> np.ndarray:
    """Return the part 0 ... parts - 1 of each row, int64 (N,): groups stay whole, classes are spread evenly.

    A greedy rule: groups whose classes are least even come first. Each goes to the part with which the
    fractions of the classes, part by part, differ least; of equal ones to the part with the fewest rows.
    They are the parts of scikit-learn's StratifiedGroupKFold, whatever version of it is installed.

    Args:
        label: classes, int64 (N,).
        group: what stays whole, any kind that can be sorted, (N,).
        parts: how many.
        seed: of the order of groups that are even alike; None leaves them in their own order.

    >>> stratified_groups(np.array([0, 0, 1, 1]), np.array(["a", "b", "c", "d"]), 2, None).tolist()
    [0, 1, 0, 1]
    """
    _, label, totals = np.unique(label, return_inverse=True, return_counts=True)
    names, group = np.unique(group, return_inverse=True)
    counts = np.zeros((len(names), len(totals)))
    np.add.at(counts, (group, label), 1)
    order = np.arange(len(names))
    if seed is not None:
        np.random.RandomState(seed).shuffle(order)
    order = order[np.argsort(-np.std(counts[order], axis=1), kind="stable")]
    part_of = np.zeros(len(names), dtype=np.int64)
    held = np.zeros((parts, len(totals)))
    own, tried, rows = np.arange(parts), np.empty((parts, *held.shape)), [0.0] * parts
    for name, more in zip(order.tolist(), counts[order], strict=True):
        tried[:] = held  # (part that takes the group, part, class)
        tried[own, own] += more
        part_of[name] = best = _best(_spread(tried / totals), rows)
        held[best] += more
        rows[best] += float(more.sum())
    return part_of[group]


def _spread(shares: np.ndarray) -> list[float]:
    """Return the standard deviation over parts, the mean over classes, of (candidate, part, class)."""
    parts, classes = shares.shape[1:]
    shares -= np.add.reduce(shares, axis=1, keepdims=True) / parts
    shares *= shares
    found = np.add.reduce(np.sqrt(np.add.reduce(shares, axis=1) / parts), axis=1) / classes
    return list(found.tolist())


def _best(spread: list[float], rows: list[float]) -> int:
    """Return the part with the least spread; of two that are nearly equal, the one with fewer rows."""
    best, least, fewest = 0, np.inf, np.inf
    for part, (value, count) in enumerate(zip(spread, rows, strict=True)):
        alike = abs(value - least) <= ABSOLUTE + RELATIVE * abs(least) if least < np.inf else False
        if value < least or (alike and count < fewest):
            best, least, fewest = part, value, count
    return best
