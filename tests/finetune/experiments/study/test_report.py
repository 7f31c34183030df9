"""The report of a study: everything that was measured, what others report beside it, and no more."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.experiments.study.arms import build_arms
from finetune.experiments.study.cells import write_cell
from finetune.experiments.study.report import StudyPage, write_study_report
from finetune.experiments.study.statistics import Measure, summarise_study
from tests.finetune.experiments.study.made_up import cell_of, cells_of, study_of

MEASURES = [Measure("accuracy", "accuracy (%)"), Measure("macro_f1", "macro F1 (%)")]
ARMS = build_arms(["crl"])
PAGE = StudyPage("Digits | a_study", ["data: digits"], {"crl": "15.71 (CRL paper, Table II)"}, ["a note"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    cells = study_of(ARMS, seeds=3, epochs=3)
    write_study_report(folder, summarise_study(cells, ARMS, MEASURES), cells, ARMS, PAGE)
    return folder


def test_the_page_has_its_sections_in_order(folder: Path):
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# Digits \\| a\\_study\n")
    sections = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert sections == [
        *["Conclusion", "Scores", "Differences from cross-entropy", "Figures", "Controls"],
        *["Cost", "What ran", "Notes", "How to read this"],
    ]
    for part in ("15.71 (CRL paper, Table II)", "* data: digits", "* a note", "pictures/error_curves.png"):
        assert part in text
    assert all(arm.title in text for arm in ARMS)


def test_the_json_holds_the_summary_and_the_csv_a_row_per_arm_and_measure(folder: Path):
    record = json.loads((folder / "report.json").read_text())
    assert record["conclusion"]
    assert record["pictures"]["differences"] == "pictures/differences.png"
    with (folder / "table.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["arm"] for row in rows[::2]] == [arm.name for arm in ARMS]
    for row, arm in zip(rows[::2], record["arms"], strict=True):
        found = arm["measures"]["accuracy"]
        assert float(row["mean"]) == found["mean"]
        assert row["reported_by_others"] == PAGE.published.get(row["arm"], "")
        if found["difference"] is not None:
            assert float(row["difference_low"]) == found["difference"]["interval"][0]
            assert float(row["p_t_holm"]) == found["difference"]["p_t_holm"]


def test_the_same_cells_give_the_same_files(folder: Path, tmp_path: Path):
    cells = study_of(ARMS, seeds=3, epochs=3)
    write_study_report(tmp_path, summarise_study(cells, ARMS, MEASURES), cells, ARMS, PAGE)
    for name in ("report.md", "report.json", "table.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_an_unfinished_study_without_publications_or_histories_has_a_page_too(tmp_path: Path):
    cells = cells_of({"crl": [84.0]})
    page = StudyPage("Study", [])
    text = write_study_report(tmp_path, summarise_study(cells, ARMS, MEASURES), cells, ARMS, page).read_text()
    assert "reported by others" not in text
    assert "nothing can be concluded" in text
    assert "## Images" not in text
    assert "## Controls" not in text
    assert not (tmp_path / "pictures").exists()


def test_intervals_of_single_arms_stay_on_the_scale_and_the_files_hold_them_whole(
    folder: Path, tmp_path: Path
):
    cells = cells_of({"cel": [99.0, 100.0], "crl": [1.0, 12.0]})
    summary = summarise_study(cells, ARMS, MEASURES)
    text = write_study_report(tmp_path, summary, cells, ARMS, PAGE).read_text()
    rows = [line for line in text.partition("## Differences")[0].splitlines() if line.startswith("| C")]
    assert "93.15 to 100.00" in rows[0]
    assert "0.00 to 76.38" in rows[1]
    assert "beyond 0 or 100 % are shown up to there" in text
    found = json.loads((tmp_path / "report.json").read_text())["arms"][0]["measures"]["accuracy"]
    assert found["interval"][1] > 105
    assert "beyond 0 or 100 %" not in (folder / "report.md").read_text()


def test_trainings_that_failed_stand_in_the_table(tmp_path: Path):
    cells = [replace(cell, facts={"diverged": True}) for cell in cells_of({"crl": [10.0, None]})]
    cells += cells_of({"cel": [84.0, 85.0]})
    text = write_study_report(tmp_path, summarise_study(cells, ARMS, MEASURES), cells, ARMS, PAGE).read_text()
    assert "| CRL (alpha 1.5, beta 1) | 2 (2 diverged, 1 without a score) |" in text


def test_former_arms_are_told_in_the_notes(folder: Path, tmp_path: Path):
    write_cell(cell_of("cosface", 0, 80.0), tmp_path / "cells/cosface/seed-0")
    cells = cells_of({"cel": [84.0], "crl": [85.0]})
    text = write_study_report(tmp_path, summarise_study(cells, ARMS, MEASURES), cells, ARMS, PAGE).read_text()
    notes = text.partition("## Notes")[2].partition("## How")[0]
    assert "* a note\n* the folder also holds finished cells of cosface: list them in --losses" in notes
    assert any("cosface" in note for note in json.loads((tmp_path / "report.json").read_text())["notes"])
    assert "also holds" not in (folder / "report.md").read_text()


def test_the_page_says_what_a_control_and_a_margin_head_share_with_the_others(folder: Path, tmp_path: Path):
    text = (folder / "report.md").read_text()
    assert "multiplies its weight decay, where there is one, too" in text
    assert "may be one of step size" in text
    assert "classifier of their own" not in text
    arms = build_arms(["crl", "lsoftmax:margin=2"])
    cells = study_of(arms, seeds=3, epochs=2)
    summary = summarise_study(cells, arms, MEASURES, adaptive=True)
    text = write_study_report(tmp_path, summary, cells, arms, PAGE).read_text()
    assert "Heads of age and fine studies start from a classifier of their own" in text
    assert "step size" not in text
    assert "not whether CRL is a longer step" in text


def test_tables_have_no_signed_nought_and_no_interval_of_equal_differences(tmp_path: Path):
    cells = cells_of({"cel": [84.0, 84.2], "crl": [85.0, 85.2], "focal": [84.0, 84.199]})
    text = write_study_report(tmp_path, summarise_study(cells, ARMS, MEASURES), cells, ARMS, PAGE).read_text()
    assert "| +1.00 | no interval: all seeds differ by the same | n/a |" in text
    assert "| 0.00 | -0.01 to +0.01 |" in text
    assert "-0.00" not in text
