"""Which images a report shows: chosen by a stated rule, never by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.figures.canvas import count_text

COLUMNS = 8  # of the gallery


@dataclass(frozen=True)
class GalleryRow:
    """One row of the gallery: images on which the first, the second or both of two results are correct.

    `picks` holds a row number of the prediction table per column, None where a group has no such image;
    `total` counts all images of that kind.
    """

    right: tuple[bool, bool]
    picks: tuple[int | None, ...]
    total: int

    def title(self, names: tuple[str, str]) -> str:
        """Return what the row shows, in words."""
        who = "both" if all(self.right) else f"only {names[self.right.index(True)]}"
        return f"{who} correct: {count_text(self.total, 'image')}"


def choose_disagreements(
    target: np.ndarray, probs_a: np.ndarray, probs_b: np.ndarray
) -> tuple[GalleryRow, GalleryRow, GalleryRow]:
    """Choose the images that tell two results apart: both correct, only the first, only the second correct.

    Of each row and true group it takes the image with the largest |p_a - p_b|, the difference of the two
    probabilities of the true group (ties: the first in the table). Nothing is chosen by hand, and every image
    counts.

    Args:
        target: (N,) int true groups.
        probs_a, probs_b: (N, K) probabilities of the two results on the same rows.

    Returns:
        The three rows, a column per group (at most 8: those with the largest differences).
    """
    gap, right_a, right_b = _compare(target, probs_a, probs_b)
    kinds = {
        (True, True): right_a & right_b,
        (True, False): right_a & ~right_b,
        (False, True): right_b & ~right_a,
    }
    groups = probs_a.shape[1]
    first, second, third = (
        GalleryRow(right, _best_per_group(gap, target, mask, groups), int(mask.sum()))
        for right, mask in kinds.items()
    )
    return first, second, third


def choose_typical(target: np.ndarray, probs: np.ndarray) -> list[int]:
    """Return one row per true group that has images, young to old: the one of median true-group probability.

    With an even number of images the lower of the two middle ones is taken.
    """
    truth = probs[np.arange(len(target)), target]
    chosen = []
    for group in np.unique(target):
        rows = np.flatnonzero(target == group)
        order = rows[np.argsort(truth[rows], kind="stable")]
        chosen.append(int(order[(len(order) - 1) // 2]))
    return chosen


def choose_telling(target: np.ndarray, probs_a: np.ndarray, probs_b: np.ndarray) -> list[int]:
    """Return up to one row per true group, young to old: the one on which two results differ most.

    Of a group it takes the largest |p_a - p_b| of the true group among the images that only one of the two
    predicts correctly; where there are none, among those that both do; where there are none, it has no row.
    """
    groups = probs_a.shape[1]
    gap, right_a, right_b = _compare(target, probs_a, probs_b)
    one = _best_per_group(gap, target, right_a ^ right_b, groups)
    both = _best_per_group(gap, target, right_a & right_b, groups)
    if len(one) < groups:
        return [row for row in one if row is not None]
    pairs = zip(one, both, strict=True)
    return [pick for first, second in pairs if (pick := second if first is None else first) is not None]


def _compare(
    target: np.ndarray, probs_a: np.ndarray, probs_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, per row, |p_a - p_b| of the true group, and whether each of the two results is correct."""
    if probs_a.shape != probs_b.shape or len(target) != len(probs_a):
        raise ValueError(
            f"two results on the same rows need equal shapes, got probabilities {probs_a.shape} and "
            f"{probs_b.shape} for {len(target)} targets"
        )
    rows = np.arange(len(target))
    gap = np.abs(probs_a[rows, target].astype(float) - probs_b[rows, target])
    return gap, probs_a.argmax(axis=1) == target, probs_b.argmax(axis=1) == target


def _best_per_group(
    gap: np.ndarray, target: np.ndarray, kind: np.ndarray, groups: int
) -> tuple[int | None, ...]:
    best: list[int | None] = []
    for group in range(groups):
        rows = np.flatnonzero(kind & (target == group))
        best.append(int(rows[gap[rows].argmax()]) if len(rows) else None)
    if groups <= COLUMNS:
        return tuple(best)
    found = sorted((row for row in best if row is not None), key=lambda row: -gap[row])[:COLUMNS]
    return tuple(sorted(found, key=lambda row: int(target[row])))
