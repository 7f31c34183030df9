"""Fractions of every class, drawn by a seed: test parts where the data name none, and smaller studies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.errors import DataError, listing
from finetune.seeding import numpy_generator


def share_rows(target: np.ndarray, fraction: float, seed: int, name: str) -> np.ndarray:
    """Return the rows of a fraction of each class, rising, int64.

    Of a class with n images max(1, round(fraction n)) are drawn. A greater fraction of the same seed and name
    holds every row of a smaller one.

    Args:
        target: classes, int64 (N,).
        fraction: in (0, 1]; 1 gives all rows.
        seed: decides which rows.
        name: what the fraction is for; other names draw other rows.

    >>> share_rows(np.array([0, 0, 0, 0, 1, 1]), 0.5, 0, "train").size
    3
    """
    if fraction == 1 or not len(target):
        return np.arange(len(target))
    order = _drawn_order(target, seed, name)
    return np.sort(np.concatenate([rows[: max(1, round(fraction * len(rows)))] for rows in order.values()]))


def split_rows(
    target: np.ndarray, share: float, seed: int, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to learn from and the rows to test on, rising, stratified by class.

    Of a class with n images round(share n) are tested, at least one; at least one is learned from.

    Args:
        target: classes, int64 (N,).
        share: the tested fraction, in (0, 1).
        seed: decides which rows.
        class_names: for the message.

    Raises:
        DataError: a class with fewer than two images, or no image at all.
    """
    if not len(target):
        raise DataError("there is no image to split into a training and a test part; add some to every class")
    order = _drawn_order(target, seed, "test part")
    lone = [str(class_names[label]) for label, rows in order.items() if len(rows) < 2]
    if lone:
        raise DataError(
            f"{len(lone)} classes have one image, which cannot be learned from and tested; add images or "
            f"leave the classes out:\n{listing(lone)}"
        )
    tests = {label: min(len(rows) - 1, max(1, round(share * len(rows)))) for label, rows in order.items()}
    test = np.sort(np.concatenate([rows[: tests[label]] for label, rows in order.items()]))
    train = np.sort(np.concatenate([rows[tests[label] :] for label, rows in order.items()]))
    return train, test


def _drawn_order(target: np.ndarray, seed: int, name: str) -> dict[int, np.ndarray]:
    """Return each class's rows in an order that the seed, the name and the class decide."""
    rows = {int(label): np.flatnonzero(target == label) for label in np.unique(target)}
    return {label: numpy_generator(seed, name, label).permutation(found) for label, found in rows.items()}
