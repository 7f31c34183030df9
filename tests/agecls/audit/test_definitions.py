from __future__ import annotations

import numpy as np
import pytest

from agecls.audit.definitions import (
    appears,
    error_cells,
    in_band,
    in_child_band,
    mean_over_cells,
    severity,
    within,
)

BAND = (18, 30)


def test_the_mean_over_cells_weighs_cells_alike_and_lists_small_ones():
    age = np.array([18.0] * 10 + [19.0] * 30 + [20.0] * 9)
    predicted = age + np.array([2.0] * 10 + [-4.0] * 30 + [50.0] * 9)
    sex = np.full(len(age), "")
    cells = error_cells(age.astype(int), age, predicted, sex, BAND)
    assert [(cell.age, cell.images, cell.mae, cell.bias, cell.averaged) for cell in cells] == [
        (18, 10, 2.0, 2.0, True),
        (19, 30, 4.0, -4.0, True),
        (20, 9, 50.0, 50.0, False),
    ]
    assert mean_over_cells(cells) == 3.0  # (2 + 4) / 2; over images it would be 3.5


def test_cells_are_sex_by_age_and_images_without_a_sex_are_in_none():
    age = np.full(30, 18.5)
    predicted = age + np.array([1.0] * 10 + [3.0] * 10 + [9.0] * 10)
    cells = error_cells(np.full(30, 18), age, predicted, np.repeat(["f", "m", ""], 10), BAND)
    assert [(cell.sex, cell.mae) for cell in cells] == [("f", 1.0), ("m", 3.0)]
    assert mean_over_cells(cells) == 2.0


def test_ages_outside_the_band_are_in_no_cell():
    age = np.array([17.0, 31.0])
    assert error_cells(age.astype(int), age, age, np.array(["", ""]), BAND) == []
    assert mean_over_cells([]) is None


def test_the_cumulative_score_counts_an_error_of_exactly_k():
    age, predicted = np.full(4, 20.0), np.array([23.0, 17.0, 23.1, 20.0])
    assert within(age, predicted, 3).tolist() == [True, True, False, True]


def test_severity_by_hand():
    age = np.array([17.9, 16.0, 10.0, 5.0, 18.0])
    predicted = np.array([25.0, 30.0, 26.0, 24.9, 40.0])
    found = severity(age, predicted, 18, 25)  # short by 1, 2 and 8 completed years
    assert found["images"] == 3
    assert found["mean"] == pytest.approx(11 / 3)
    assert found["p95"] == pytest.approx(np.percentile([1, 2, 8], 95))
    assert severity(age, predicted, 18, 41) == {"images": 0, "mean": None, "p95": None}


def test_who_appears_the_challenge_age_and_who_a_child():
    assert appears(np.array([24.99, 25.0]), 25).tolist() == [False, True]
    assert in_child_band(np.array([12.9, 13.0, 16.99, 17.0])).tolist() == [False, True, True, False]
    assert in_band(np.array([13, 14, 17, 18]), (14, 17)).tolist() == [False, True, True, False]
