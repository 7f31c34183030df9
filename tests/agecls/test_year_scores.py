"""Scores in years: hand-worked numbers, limit cases, and intervals over people."""

from __future__ import annotations

import numpy as np
import pytest

from agecls.data.years import Years, years_of
from agecls.evaluation import evaluation_scores, tell_evaluation
from agecls.year_scores import (
    YEAR_DECODERS,
    crps_years,
    decade_rows,
    epsilon_error,
    guessed_years,
    score_years,
    true_years,
    year_errors,
)
from finetune.experiments.records.predictions import Predictions
from tests.agecls.age_predictions import age_predictions

NAMES = (*(str(year) for year in range(100)), "100+")
YEARS = years_of(NAMES)
assert YEARS is not None


def certain(answers: list[int]) -> np.ndarray:
    """Return probabilities (N, 101) with everything on one year."""
    return np.eye(len(NAMES))[answers]


def people(ages: list[float], probs: np.ndarray, names: list[str] | None = None) -> Predictions:
    """Return predictions of these ages; each image is its own person unless names are given."""
    count = len(ages)
    subject = np.array(names or [f"s{row}" for row in range(count)])
    return age_predictions(
        NAMES,
        path=np.array([f"{row:04}.jpg" for row in range(count)]),
        target=np.minimum(np.floor(ages), 100).astype(int),
        probs=probs,
        subject=subject,
        user=subject,
        gender=np.full(count, ""),
        age=np.array(ages, dtype=float),
        fold=np.zeros(count, dtype=int),
    )


def test_a_two_humped_answer_is_read_three_ways():
    probs = np.zeros((1, 101))
    probs[0, [10, 11, 12, 40, 41]] = 0.35, 0.05, 0.05, 0.30, 0.25
    answers = {name: decode(probs, YEARS).item() for name, decode in YEAR_DECODERS.items()}
    assert answers == pytest.approx({"median": 40, "expected": 26.9, "argmax": 10})


def test_the_median_has_the_least_expected_absolute_error():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(101, 0.05), 50)
    costs = probs @ np.abs(np.subtract.outer(YEARS.ages, YEARS.ages))
    chosen = costs[np.arange(50), YEARS.median(probs).astype(int)]
    np.testing.assert_allclose(chosen, costs.min(axis=1), atol=1e-9)


def test_errors_are_answer_minus_completed_years():
    found = people([20.9, 30.0, 105.0], certain([25, 28, 100]))
    assert true_years(found, YEARS).tolist() == [20, 30, 105]
    assert year_errors(found).tolist() == [5, -2, -5]
    scores = score_years(found, resamples=20)
    assert (scores["mae"], scores["bias"], scores["cs3"], scores["cs5"]) == pytest.approx(
        (4, -2 / 3, 100 / 3, 100)
    )
    assert scores["curve"][4] == pytest.approx(100 / 3)


def test_a_class_stands_for_its_age_where_the_table_has_none():
    found = people([7.0], certain([9]))
    without = Predictions(
        found.class_names, found.path, found.target, found.probs, {**found.columns, "age": np.array([np.nan])}
    )
    assert year_errors(without).tolist() == [2]


def test_classes_of_five_years_stand_for_their_middle():
    names = (*(f"{low}-{low + 4}" for low in range(0, 100, 5)), "100+")
    years = years_of(names)
    assert (years.width, years.ages[[0, 1, -1]].tolist()) == (5, [2, 7, 100])


@pytest.mark.parametrize(
    "names",
    [("0-2", "4-6", "60+"), ("0-4", "5-9", "10+"), ("0", "2", "3"), ("cat", "dog"), ("0-1", "2", "3")],
)
def test_groups_are_no_years(names):
    assert years_of(names) is None


def test_crps_is_the_absolute_error_of_a_certain_answer_and_rps_in_years():
    assert crps_years(certain([25]), np.array([20]), YEARS) == pytest.approx(5)
    half = np.zeros((1, 101))
    half[0, [20, 24]] = 0.5
    assert crps_years(half, np.array([20]), YEARS) == pytest.approx(4 * 0.25)
    assert crps_years(half, np.array([20]), Years("age", "years", YEARS.ages, 5)) == pytest.approx(5)


def test_epsilon_error_and_raters_who_agreed():
    error, agreed = epsilon_error(np.array([30.0]), np.array([26.0]), np.array([4.6]))
    assert (error, agreed) == (pytest.approx(0.314819, abs=5e-7), 0)
    assert epsilon_error(np.array([30.4, 31.0]), np.array([30.0, 30.0]), np.zeros(2)) == (0.5, 2)


def test_decades_count_people_and_have_intervals_from_thirty_on():
    ages = [5.0] * 40 + [25.0] * 10
    found = people(ages, certain([8] * 40 + [20] * 10))
    first, second = decade_rows(found, YEARS, resamples=50)
    assert (first["name"], first["images"], first["subjects"], first["mae"], first["bias"]) == (
        "0-9",
        40,
        40,
        3,
        3,
    )
    assert first["mae_interval"] == pytest.approx([3, 3])
    assert (second["bias"], second["mae_interval"]) == (-5, None)
    assert score_years(found, resamples=50)["balanced_mae"] == 4


def test_intervals_resample_people_and_not_pictures():
    rng = np.random.default_rng(1)
    person = np.repeat(np.arange(40), 25)
    shift = rng.normal(0, 6, 40)[person]
    answers = np.clip(np.round(30 + shift), 0, 100).astype(int)
    one_each = score_years(people([30.0] * 1000, certain(answers.tolist())), resamples=300)
    clustered = score_years(
        people([30.0] * 1000, certain(answers.tolist()), [f"p{number}" for number in person]), resamples=300
    )
    widths = [np.ptp(scores["mae_interval"]) for scores in (one_each, clustered)]
    assert widths[1] > 3 * widths[0]


def test_groups_have_no_score_in_years():
    groups = ("0-2", "4-6")
    columns = {name: np.array(["x"]) for name in ("subject", "user", "gender")}
    found = age_predictions(
        groups,
        path=np.array(["x"]),
        target=np.array([0]),
        probs=np.array([[1.0, 0.0]]),
        age=np.array([1.0]),
        fold=np.zeros(1, dtype=int),
        **columns,
    )
    assert score_years(found) is None
    with pytest.raises(ValueError, match="are not years"):
        year_errors(found)


def test_the_mean_is_between_the_ages():
    assert Years("age", "years", np.array([4.0, 8.0]), 4).expected(np.array([[0.25, 0.75]])).tolist() == [7]


def test_answers_no_better_than_the_median_age_are_told():
    found = people([10.0, 30.0, 50.0], certain([10, 30, 50]))
    assert guessed_years(found, np.array([20, 30, 40])) == []
    wrong = people([10.0, 30.0, 50.0], certain([50, 30, 10]))
    (told,) = guessed_years(wrong, np.array([20, 30, 40])) or []
    assert "26.67 years is not below that of always answering 30 (13.33 years)" in told


def test_an_evaluation_of_years_tells_decades_and_no_group_a_year(capsys):
    found = evaluation_scores(people([10.0, 30.0, 35.0], certain([12, 30, 40])))
    assert "group" not in found["slices"]
    assert found["years"]["mae"] == pytest.approx(7 / 3)
    tell_evaluation({**found, "data": "others", "test_crops": "center", "weights": "selected", "n": 3})
    told = capsys.readouterr().out
    assert "mean absolute error 2.33 years, bias +2.33 years, CS@5 100.00 %" in told
    assert "30-39" in told
    assert "one-off" not in told.split("by decade")[0]
