"""What a set of classes is said to promise: the right people, the right numbers, and nothing more."""

from __future__ import annotations

import numpy as np
import pytest

from apps.runtime.answer_words import AnswerWords
from tests.apps.runtime.test_calibration import ENTRY, SETS
from tests.apps.tiny_onnx import GROUPS

MEASURED = {"people": 412, "sets": {"coverage": {"persons": 91.23, "pictures": 88.0}}}
CALIBRATED = ENTRY | {"measured": MEASURED}
GROUP = AnswerWords.of("age", GROUPS)
YEAR_NAMES = (*map(str, range(100)), "100+")
YEARS = AnswerWords.of("age", YEAR_NAMES)


def inside(*places: int, classes: int = len(GROUPS)) -> np.ndarray:
    return np.isin(np.arange(classes), places)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            CALIBRATED,
            "In about 90 of 100 pictures of new people the right group is among: 25-32, 38-43 "
            "(measured: 91.2 of 100, 412 people).",
        ),
        (ENTRY, "In about 90 of 100 pictures of new people the right group is among: 25-32, 38-43."),
        (
            CALIBRATED | {"unit": "image"},
            "In about 90 of 100 new images the right group is among: 25-32, 38-43 "
            "(measured: 88.0 of 100, 412 images).",
        ),
        (
            CALIBRATED | {"unit": "user"},
            "In about 90 of 100 pictures of new albums the right group is among: 25-32, 38-43 "
            "(measured: 91.2 of 100, 412 albums).",
        ),
        (
            CALIBRATED | {"sets": SETS | {"level": 0.95}, "unit": ["?"], "measured": {"people": "many"}},
            "In about 95 of 100 new images the right group is among: 25-32, 38-43.",
        ),
    ],
)
def test_a_set_is_told_for_whom_it_was_calibrated(entry: dict, told: str):
    assert GROUP.of_set(entry, GROUPS, inside(4, 5)) == told


def test_a_whole_set_cannot_narrow_it_down_and_no_set_says_nothing():
    assert GROUP.of_set(CALIBRATED, GROUPS, inside(*range(8))) == (
        "It cannot narrow it down: every group stays possible, at 90 of 100."
    )
    assert GROUP.of_set({}, GROUPS, None) == ""
    assert GROUP.promise({}) == GROUP.promise(ENTRY | {"sets": None}) == ""


def test_years_are_told_as_a_range():
    told = YEARS.of_set(ENTRY, YEAR_NAMES, inside(*range(23, 32), classes=101))
    assert told == "In about 90 of 100 pictures of new people the right age is from 23 to 31."
    assert YEARS.of_set(ENTRY, YEAR_NAMES, inside(7, classes=101)).endswith("the right age is 7.")
    probs = np.zeros(101)
    probs[[20, 30, 40]] = 0.05, 0.9, 0.05
    probs[[29, 31]] = 0.0, 0.0
    assert YEARS.of_probability(YEAR_NAMES, probs) == (
        "The middle 80 % of its probability: 30 to 30 years. How often that holds was not measured."
    )


def test_other_tasks_and_many_classes_have_plain_words():
    names = [f"bird {number}" for number in range(30)]
    told = AnswerWords.of("weather", names).of_set(ENTRY, names, inside(*range(14), classes=30))
    assert told.endswith("the right class is among: " + ", ".join(names[:12]) + " and 2 more.")
