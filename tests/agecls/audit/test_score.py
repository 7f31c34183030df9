from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agecls.audit.answers import read_answers
from agecls.audit.config import AuditConfig
from agecls.audit.notes import check_words, notes_for, what_n_shows
from agecls.audit.rates import Resampling, rate
from agecls.audit.score import score_answers
from agecls.config import AgeDataConfig
from finetune.errors import UsageError
from finetune.images.tables import read_table
from finetune.metrics.bootstrap import cluster_bootstrap_interval
from finetune.runs.csv_file import csv_text
from tests.agecls.audit.made_answers import answers, spread_answers

QUICK = AuditConfig(resamples=50, permutations=10)


def at(scored: dict, challenge: int) -> dict:
    return next(row for row in scored["challenge_ages"] if row["challenge"] == challenge)


def test_rates_by_hand():
    age = [13, 14, 15, 16, 17, 17, 18, 20, 25, 30, 31]
    predicted = [40, 26, 24, 25, 10, 18, 24, 26, 25, 20, 10]
    scored = score_answers(answers(age, predicted), QUICK)
    row = at(scored, 25)
    assert (row["fpr"]["hits"], row["fpr"]["images"]) == (2, 5)  # 14 and 16; 13 is in no band
    assert row["fpr"]["percent"] == 40.0
    assert (row["burden"]["hits"], row["burden"]["images"]) == (2, 4)  # 18 and 30; 31 is in no band
    assert at(scored, 18)["fpr"]["hits"] == 4
    assert row["severity"] == {"images": 3, "mean": pytest.approx((5 + 4 + 2) / 3), "p95": pytest.approx(4.9)}
    passing = {one["true_age"]: one for one in scored["pass_rates"]}
    assert passing[17]["percent"] == 0.0
    assert passing[17]["at"]["18"] == 50.0
    assert passing[20]["percent"] == 100.0


def test_every_challenge_age_has_its_row_and_the_trade_off_is_monotone():
    scored = score_answers(spread_answers(), QUICK)
    assert [row["challenge"] for row in scored["challenge_ages"]] == list(range(18, 36))
    fpr = [row["fpr"]["percent"] for row in scored["challenge_ages"]]
    burden = [row["burden"]["percent"] for row in scored["challenge_ages"]]
    assert fpr == sorted(fpr, reverse=True)
    assert burden == sorted(burden)


def test_the_child_band_by_hand():
    age = [13, 16, 14, 8, 12, 17, 22, 7, 23]
    predicted = [13, 16.9, 17, 13, 12.9, 16, 15, 15, 15]
    found = score_answers(answers(age, predicted), QUICK)["child_band"]
    assert found["tpr"]["percent"] == pytest.approx(200 / 3)
    assert found["fpr_younger"]["percent"] == 50.0
    assert found["fpr_older"]["percent"] == 100.0


def test_an_interval_resamples_people_and_zero_counts_have_the_exact_one():
    hits = np.array([True, True, True, False, False, False, False, False])
    people = np.array(["a", "a", "a", "b", "c", "d", "e", "e"])
    found = rate(hits, people, Resampling(500, 1))
    clustered = cluster_bootstrap_interval(100.0 * hits, people, resamples=500, seed=1, percent=True)
    assert (found.low, found.high) == (clustered.low, clustered.high)
    assert (found.hits, found.hit_units, found.units) == (3, 1, 5)
    none = rate(np.zeros(8, dtype=bool), people, Resampling())
    assert none.method == "Clopper-Pearson"
    assert (none.low, none.high) == (0.0, pytest.approx(100 * (1 - 0.025 ** (1 / 5))))  # five people
    every = rate(np.ones(8, dtype=bool), people, Resampling())
    assert (every.low, every.high) == (pytest.approx(100 * 0.025 ** (1 / 5)), 100.0)
    assert rate(hits[:0], people[:0], Resampling()).percent is None


def test_what_n_can_show():
    told = what_n_shows(0, 68, "people")
    assert "bounds the rate at 4.3 %" in told
    assert "it takes 299 people" in told
    assert "That is 1 % or less" in what_n_shows(0, 299, "people")
    assert "does not show" in what_n_shows(0, 298, "people")
    assert "There are no images" in what_n_shows(0, 0, "images")


@pytest.mark.parametrize("name", ["passes at 25", "Certified system", "it passed"])
def test_words_that_an_audit_cannot_show_are_refused(name: str):
    with pytest.raises(UsageError, match="refused as a word"):
        AuditConfig(name=name)
    check_words("pass rate of our bypass")


def test_what_is_shown_counts_people_who_failed_once_or_more():
    found = answers([15, 16, 17, 17, 14], [30, 30, 10, 10, 10], ["a", "a", "b", "b", "c"])
    assert at(score_answers(found, QUICK), 25)["shows"].startswith("1 of 3 people failed")


def test_the_notes_are_dated_and_utkface_has_its_own():
    assert "November 2026" in notes_for(["faces.csv"])[0]
    assert "agreement with its labels" in notes_for(["a.csv", "UTKFace.csv"])[-1]


def test_mean_errors_and_their_cells():
    scored = score_answers(spread_answers(), QUICK)
    found = spread_answers()
    error = np.abs(found.predicted - found.age)
    assert scored["errors"]["mae"]["mean"] == pytest.approx(error.mean())
    inside = (found.age >= 18) & (found.age <= 30)
    cells = {(s, a): error[(found.sex == s) & (found.age == a)].mean() for s in "fm" for a in range(18, 31)}
    kept = {key: value for key, value in cells.items() if np.isfinite(value)}
    assert scored["errors"]["mae_cells"]["mean"] == pytest.approx(np.mean(list(kept.values())))
    assert scored["errors"]["mae_cells"]["cells"] == len(kept)
    low, high = scored["errors"]["mae_cells"]["interval"]
    assert low < scored["errors"]["mae_cells"]["mean"] < high
    share = 100 * (error <= 3)[inside].mean()
    assert scored["errors"]["within_3_adults"]["percent"] == pytest.approx(share)


def test_another_legal_age_moves_the_bands():
    scored = score_answers(spread_answers(), AuditConfig(legal=16, resamples=20, permutations=5))
    assert (scored["minor_band"], scored["adult_band"]) == ([12, 15], [16, 28])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"challenge": "25"}, "must be"),
        ({"challenge": "30-20"}, "must be"),
        ({"headline": 40}, "not among"),
        ({"legal": 4}, "5 or more"),
        ({"resamples": 0}, "1 or more"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict, told: str):
    with pytest.raises(UsageError, match=told):
        AuditConfig(**options)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "minors", "people", "adults", "cells"),
    [("fgnet", 127, 68, None, 13), ("utk4k", 137, 137, 1426, 26)],
)
def test_real_tables_have_the_counts_that_were_counted(
    real_data: Path, tmp_path: Path, name: str, minors: int, people: int, adults: int | None, cells: int
):
    table = read_table(real_data / name / f"{name}.csv")
    error = np.random.default_rng(0).normal(0, 3, len(table.rows))
    place = table.header.index("age")
    rows = [
        [*cells, max(0.0, float(cells[place]) + noise)]  # made answers: true age and noise
        for (_, cells), noise in zip(table.rows, error, strict=True)
    ]
    file = tmp_path / f"{name}.csv"
    file.write_text(csv_text([*table.header, "predicted_age"], rows), encoding="utf-8")
    config = AuditConfig(resamples=2, permutations=1, data=AgeDataConfig())
    scored = score_answers(read_answers(file, config), config)
    assert scored["minors"] == {"images": minors, "units": people}
    assert adults in (None, scored["adults"]["images"])
    assert len(scored["errors"]["cells"]) == cells
