"""What a set of classes promises, in plain sentences, from a file's calibration. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.experiments.exported.lookup import file_task
from finetune.experiments.exported.number_line import MIDDLE, NumberLine, middle

MOST_NAMES = 12  # classes of a set that a sentence lists
# What one unit of a calibration is: of whose pictures a set speaks, what was counted, and where it stands.
_WHOSE = {
    "person": ("pictures of new people", "people", "persons"),
    "user": ("pictures of new albums", "albums", "persons"),
    "image": ("new images", "images", "pictures"),
}


@dataclass(frozen=True, eq=False)
class AnswerWords:
    """By which words answers of some classes are told.

    Args:
        noun: what one class is: class, group, age.
        line: the numbers that the classes stand for; None for other classes.
    """

    noun: str = "class"
    line: NumberLine | None = None

    @classmethod
    def of(cls, kind: str, class_names: Sequence[str]) -> AnswerWords:
        """Return the words for models of this kind with these classes; plain ones for an unknown kind."""
        task = file_task(kind)
        if task is None:
            return cls()
        line = task.number_line(class_names)
        return cls(task.class_unit if line is None else line.name, line)

    def of_answer(
        self, entry: Mapping[str, Any], names: Sequence[str], probs: np.ndarray, inside: np.ndarray | None
    ) -> str:
        """Return what a set says; of numbers without one what probs (K,) say; else nothing."""
        if inside is None and self.line is not None:
            return self.of_probability(names, probs)
        return self.of_set(entry, names, inside)

    def of_set(self, entry: Mapping[str, Any], names: Sequence[str], inside: np.ndarray | None) -> str:
        """Return what the set of one image says; nothing for a file without sets.

        The promise is of a new person's pictures (or of new images, where no people were known), never of
        this very image.

        Args:
            entry: the file's calibration.
            names: the K classes, as they are shown.
            inside: which of them are in the set, bool (K,); None without sets.
        """
        if inside is None:
            return ""
        level = f"{100 * entry['sets']['level']:g}"
        if inside.all():
            return f"It cannot narrow it down: every {self.noun} stays possible, at {level} of 100."
        whose, measured = _whose(entry)[0], _measured(entry)
        what = f"In about {level} of 100 {whose} the right {self.noun} is"
        return f"{what} {self._named(names, inside)}{measured}."

    def of_probability(self, names: Sequence[str], probs: np.ndarray) -> str:
        """Return in which range the middle of an answer's probability, (K,), lies: nobody measured it."""
        low, high = middle(probs)
        unit = "" if self.line is None else f" {self.line.unit}"
        return (
            f"The middle {100 * MIDDLE:g} % of its probability: {names[low]} to {names[high]}{unit}. "
            "How often that holds was not measured."
        )

    def promise(self, entry: Mapping[str, Any]) -> str:
        """Return what the sets of a file promise, in one sentence; nothing for a file without sets."""
        if not entry.get("sets"):
            return ""
        level = f"{100 * entry['sets']['level']:g}"
        return f"sets hold the right {self.noun} in about {level} of 100 {_whose(entry)[0]}{_measured(entry)}"

    def _named(self, names: Sequence[str], inside: np.ndarray) -> str:
        places = np.flatnonzero(inside).tolist()
        if self.line is not None:
            ends = dict.fromkeys((names[places[0]], names[places[-1]]))
            return f"{'from ' * (len(ends) > 1)}{' to '.join(ends)}"
        more = len(places) - MOST_NAMES
        listed = ", ".join(names[place] for place in places[:MOST_NAMES])
        return f"among: {listed}{f' and {more} more' if more > 0 else ''}"


def _whose(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    unit = entry.get("unit")
    return _WHOSE.get(unit if isinstance(unit, str) else "", _WHOSE["image"])


def _measured(entry: Mapping[str, Any]) -> str:
    """Return how often sets held on images that fitted nothing; the facts may be anybody's."""
    try:
        found = entry["measured"]
        held, count = float(found["sets"]["coverage"][_whose(entry)[2]]), int(found["people"])
    except (KeyError, TypeError, ValueError):
        return ""
    if not (0 <= held <= 100 and count > 0):
        return ""
    return f" (measured: {held:.1f} of 100, {count:,} {_whose(entry)[1]})"
