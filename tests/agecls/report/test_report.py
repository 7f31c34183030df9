"""The report says exactly what was scored, in Markdown and JSON, and keeps others' numbers apart."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agecls.scores import score_cross_validation
from agecls.task import TASK
from finetune.experiments.report import report_result, write_report
from tests.agecls.drawing import NAMES
from tests.agecls.results_by_hand import make_result
from tests.finetune.experiments.tiny_tasks import leave_out_pictures

RESAMPLES = 50
PROMISED = (
    *("exact_mean", "exact_sd", "one_off_mean", "one_off_sd", "exact_per_fold", "one_off_per_fold"),
    *("exact_pooled", "one_off_pooled", "n", "subjects", "policy", "manifest", "split"),
)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A reported result folder and what `report_result` returned."""
    folder = tmp_path_factory.mktemp("results") / "run"
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        return folder, report_result(TASK, make_result(folder), resamples=RESAMPLES)


def section(folder: Path, name: str) -> str:
    """Return the section of report.md with this heading."""
    page = (folder / "report.md").read_text(encoding="utf-8")
    return page.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]


def cells(text: str) -> list[list[str]]:
    """Return the rows of the first table in `text`, without its header."""
    rows = re.findall(r"^\| (.*) \|$", text, flags=re.M)
    return [re.split(r" (?<!\\)\| ", row) for row in rows][2:]


def test_json_holds_every_score_and_what_two_results_must_share(reported: tuple[Path, dict[str, Any]]):
    folder, record = reported
    written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert set(PROMISED) <= set(written)
    assert written == record
    scores = score_cross_validation(make_result(folder.parent / "again").predictions, resamples=RESAMPLES)
    assert {key: written[key] for key in scores} == scores


def test_headline_shows_the_numbers_of_the_json(reported: tuple[Path, dict[str, Any]]):
    folder, record = reported
    exact, one_off = cells(section(folder, "Result"))
    for row, key in ((exact, "exact"), (one_off, "one_off")):
        low, high = record["intervals"][f"{key}_mean"]
        assert row[1] == f"**{record[f'{key}_mean']:.2f} ± {record[f'{key}_sd']:.2f}**"
        assert row[2] == f"{record[f'{key}_pooled']:.2f}"
        assert row[3] == f"{low:.1f} to {high:.1f}"
        assert row[4] == f"{record['baseline'][f'{key}_mean']:.2f}"


def test_albums_get_an_interval_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    leave_out_pictures(monkeypatch)
    record = report_result(TASK, make_result(tmp_path / "run", albums=True), resamples=RESAMPLES)
    low, high = record["intervals_by_user"]["exact_mean"]
    assert record["users"] < record["subjects"]
    assert f"({record['users']} users resampled)" in section(tmp_path / "run", "Result")
    assert cells(section(tmp_path / "run", "Result"))[0][4] == f"{low:.1f} to {high:.1f}"


def test_fold_and_group_tables_show_every_row(reported: tuple[Path, dict[str, Any]]):
    folder, record = reported
    folds = cells(section(folder, "Folds"))
    assert [row[2] for row in folds] == [f"{value:.2f}" for value in record["exact_per_fold"]]
    assert [int(row[1]) for row in folds] == record["per_fold_n"]
    groups = cells(section(folder, "Age groups"))
    assert [row[0] for row in groups] == list(NAMES)
    assert [row[3] for row in groups] == [f"{value:.2f}" for value in record["per_group_recall"]]
    assert sum(int(row[1]) for row in groups) == record["n"]


def test_the_data_are_told(reported: tuple[Path, dict[str, Any]]):
    data = section(reported[0], "Data")
    for words in (
        "`core8`",
        "240 test images of 80 subjects",
        "No subject is in both training and test",
    ):
        assert words in data
    assert "Edition older; 117 repeated rows in the lists, 1,041 rows without an age group" in data


def test_published_numbers_stand_apart_and_only_beside_adience(
    reported: tuple[Path, dict[str, Any]], tmp_path: Path
):
    folder, record = reported
    others = section(folder, "Reported by others")
    assert ["ResNet-152", "ImageNet", "CRL", "63.26", "93.25"] in cells(others)
    assert "not measured here" in others
    assert "single run without spread" in others
    assert "63.26" not in section(folder, "Result")
    for counts in ({}, {"edition": "unknown"}):
        page = write_report(TASK, tmp_path, {**record, "counts": counts})
        assert "Reported by others" not in page.read_text(encoding="utf-8")


def test_use_names_the_gaps_and_what_the_model_is_not_for(reported: tuple[Path, dict[str, Any]]):
    use = section(reported[0], "Use")
    assert "(3, 7, 13-14, 21-24, 33-37, 44-47, 54-59)" in use
    assert "*apparent*" in use
    assert "age verification" in use
    assert "was not measured" in use


def test_groups_without_images_are_said_not_scored(tmp_path: Path):
    record = report_result(TASK, make_result(tmp_path / "run", without=(0, 6)), resamples=RESAMPLES)
    groups = cells(section(tmp_path / "run", "Age groups"))
    assert record["per_group_recall"][0] is None
    assert [row[3] for row in (groups[0], groups[6])] == ["no images"] * 2
    assert "nan" not in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


def test_a_spread_that_was_not_measured_is_not_told(reported: tuple[Path, dict[str, Any]], tmp_path: Path):
    _, record = reported
    page = write_report(TASK, tmp_path, record | {"exact_sd": None, "intervals_by_user": None})
    assert f"**{record['exact_mean']:.2f}** (one fold)" in page.read_text(encoding="utf-8")


def test_people_in_several_folds_are_a_warning(reported: tuple[Path, dict[str, Any]], tmp_path: Path):
    page = write_report(TASK, tmp_path, reported[1] | {"shared_people": 7})
    assert "**7 subjects are in both training and test" in page.read_text(encoding="utf-8")


def test_the_baseline_is_of_the_labels_that_each_fold_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    leave_out_pictures(monkeypatch)
    made = make_result(tmp_path / "run")
    counts = [[1, 0, 0, 0, 0, 0, 0, 2], [3, 0, 0, 0, 2, 0, 0, 0]]
    for fold in made.folds:
        record = {**made.run, "train_counts": counts[fold % 2]}
        (made.folder / f"fold{fold}" / "run.json").write_text(json.dumps(record))
    labels = made.train_labels()
    assert labels is not None
    assert [labels[fold].tolist() for fold in (0, 1)] == [[0, 7, 7], [0, 0, 0, 4, 4]]
    report = report_result(TASK, made, resamples=RESAMPLES)
    assert report["baseline"]["group_per_fold"] == [7, 0, 7, 0, 7]
    (made.folder / "fold1" / "run.json").unlink()
    assert made.train_labels() is None


def test_where_subjects_are_not_known_no_table_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    leave_out_pictures(monkeypatch)
    report = report_result(TASK, make_result(tmp_path / "run", unknown=True), resamples=RESAMPLES)
    assert {report[name] for name in ("subjects", "users", "effective_subjects")} == {None}
    groups = section(tmp_path / "run", "Age groups")
    assert "| true group | images | exact |" in groups
    assert "for a group of fewer than 30 images." in groups
    assert "| gender | images | exact |" in section(tmp_path / "run", "Gender")
