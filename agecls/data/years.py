"""Classes that are years of age: which age each stands for, and how years are read as groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from agecls.data.groups import AgeGroups
from finetune.errors import UsageError
from finetune.experiments.exported.number_line import NumberLine

MANY = 13  # equal classes wider than a year count as years from so many on: fewer are groups


@dataclass(frozen=True, eq=False)
class Years(NumberLine):
    """The ages that classes stand for.

    Their `values` are years, young to old: the year itself, or the middle of a wider class. An open last
    class stands for its first year.

    Args:
        width: years per class.
    """

    width: int

    @property
    def ages(self) -> np.ndarray:
        """The ages, (K,) float64."""
        return self.values

    def likeliest(self, probs: np.ndarray) -> np.ndarray:
        """Return the age of the most probable class, (N,), of probs (N, K)."""
        return np.asarray(self.ages[probs.argmax(axis=1)])


def years_of(class_names: Sequence[str]) -> Years | None:
    """Return the years that these classes are, or None for groups.

    Years follow one another without a gap and are equally wide, the last one perhaps open: single years, or
    at least 13 wider classes.

    >>> years_of(["0-2", "4-6", "60+"]) is None
    True
    >>> years_of(["7", "8", "9+"]).ages.tolist()
    [7.0, 8.0, 9.0]
    """
    try:
        bounds = AgeGroups.parse(",".join(class_names)).bounds
    except UsageError:
        return None
    closed = [(lower, upper) for lower, upper in bounds if upper is not None]
    widths = {upper - lower + 1 for lower, upper in closed}
    gaps = any(after[0] != before[1] + 1 for before, after in pairwise(closed))
    last = bounds[-1]
    gaps = gaps or (last[1] is None and last[0] != closed[-1][1] + 1)
    if len(widths) != 1 or gaps:
        return None
    (width,) = widths
    if width > 1 and len(bounds) < MANY:
        return None
    ages = [(lower + (lower if upper is None else upper)) / 2 for lower, upper in bounds]
    return Years("age", "years", np.array(ages), width)


def read_as(class_names: Sequence[str], words: str) -> tuple[Sequence[str], np.ndarray]:
    """Return the names of the groups in `words`, and `groups_from_years` of them."""
    groups = AgeGroups.parse(words)
    return groups.names, groups_from_years(class_names, groups)


def groups_from_years(class_names: Sequence[str], groups: AgeGroups) -> np.ndarray:
    """Return which year belongs to which group, (K, G) of 0 and 1; a year in a gap belongs to none.

    Probabilities of groups are `probs @ matrix`, divided by their sum: the years between groups are left out.

    Raises UsageError where the classes are no single years, or where a group has no year.

    >>> groups_from_years(["0", "1", "2", "3+"], AgeGroups.parse("0-1,3+")).tolist()
    [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    """
    found = years_of(class_names)
    if found is None or found.width != 1:
        raise UsageError("only classes of single years can be read as groups")
    matrix = np.zeros((len(class_names), len(groups)))
    for row, age in enumerate(found.ages):
        index = groups.index_of(age)
        if index is not None:
            matrix[row, index] = 1.0
    empty = [name for name, any_year in zip(groups.names, matrix.sum(axis=0), strict=True) if not any_year]
    if empty:
        raise UsageError(
            f"no year of the model lies in {', '.join(empty)}: it knows {class_names[0]} to {class_names[-1]}"
        )
    _refuse_a_cut_class(groups, found.ages)
    return matrix


def _refuse_a_cut_class(groups: AgeGroups, ages: np.ndarray) -> None:
    """Raise UsageError where the open last class of years lies on both sides of a group's end."""
    upper = groups.bounds[-1][1]
    starts = [lower for lower, _ in groups.bounds]
    if upper is not None or max(starts) > ages[-1]:
        raise UsageError(
            f"the model's last class holds all ages from {ages[-1]:g} on, so the last group must be open and "
            f"begin at {ages[-1]:g} or before; got {groups.names[-1]}"
        )
