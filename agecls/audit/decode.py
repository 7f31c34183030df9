"""Probabilities of years or of age groups -> one age in years."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from agecls.data.groups import AgeGroups
from agecls.data.years import years_of as classes_of_years
from finetune.errors import UsageError
from finetune.experiments.exported.number_line import NumberLine

_YEAR = re.compile(r"(\d{1,3})(?:-\1|\+)?")  # "17", "17-17" or, for the last class, "100+"


def years_of(class_names: Sequence[str]) -> np.ndarray | None:
    """Return the year that each class stands for, float64 (K,); None where classes are age groups.

    >>> years_of(["16", "17", "18+"]).tolist(), years_of(["0-2", "4-6"]) is None
    ([16.0, 17.0, 18.0], True)
    """
    found = [_YEAR.fullmatch(name.strip()) for name in class_names]
    open_ends = [name for name in class_names[:-1] if name.strip().endswith("+")]
    if open_ends or not all(found):
        wider = classes_of_years(class_names)
        return None if wider is None else wider.ages
    years = np.array([float(match[1]) for match in found if match])
    return years if (np.diff(years) > 0).all() else None


def group_midpoints(class_names: Sequence[str], open_age: float) -> np.ndarray:
    """Return the middle of each age group in years, float64 (K,); `open_age` stands for an open last one.

    >>> group_midpoints(["0-2", "25-32", "60+"], 70).tolist()
    [1.0, 28.5, 70.0]
    """
    bounds = AgeGroups.parse(",".join(class_names)).bounds
    return np.array([open_age if upper is None else (lower + upper) / 2 for lower, upper in bounds])


def decode_ages(
    probs: np.ndarray, class_names: Sequence[str], decode: str, open_age: float
) -> tuple[dict[str, np.ndarray], str]:
    """Return ages (N,) by the decoders that the classes allow, `decode` among them, and a note.

    Raises UsageError for a decoder that does not fit: age groups give an age only where their midpoint is
    asked for.
    """
    years = years_of(class_names)
    if years is not None:
        if decode == "midpoint":
            raise UsageError("--decode midpoint is for age groups, these classes are years: leave it out")
        line = NumberLine("age", "years", years)
        return {"expected": line.expected(probs), "median": line.median(probs)}, ""
    if decode != "midpoint":
        raise UsageError(
            f"the classes are age groups ({', '.join(class_names[:3])}, ...), which say no age in years: an "
            "audit at a legal age needs a model of years. --decode midpoint takes the expected middle of the "
            "groups all the same, which is coarse"
        )
    middles = group_midpoints(class_names, open_age)
    last = f" ({class_names[-1]} counts as {open_age:g})" if class_names[-1].endswith("+") else ""
    note = f"ages are the expected middle of age groups{last}: coarse around a legal age"
    return {"midpoint": NumberLine("age", "years", middles).expected(probs)}, note
