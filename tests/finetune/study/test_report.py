"""The report of a study: everything that was measured, what others report beside it, and no more."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from finetune.study.arms import build_arms
from finetune.study.report import StudyPage, write_study_report
from finetune.study.table import Measure, summarise_study
from tests.finetune.study.made_up import cells_of, study_of

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
        *["Conclusion", "Scores", "Differences from cross-entropy", "Pictures", "Controls"],
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
    assert "## Pictures" not in text
    assert "## Controls" not in text
    assert not (tmp_path / "pictures").exists()
