"""The report says exactly what was scored, in Markdown and JSON, and keeps others' numbers apart."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finegrained.published import TEST_LISTS, list_hash
from finegrained.report import write_tables
from finegrained.report_sections import data_line, per_class, reported_by_others
from finegrained.scores import fine_scores
from finegrained.task import TASK
from finetune.experiments.report import report_result, write_report
from tests.finegrained.made_results import make_result
from tests.finetune.experiments.tiny_tasks import leave_out_pictures

CLASSES = 30
BASELINE = {"class": "002.Odd_Bunting_2", "top1": 3.33}
Reported = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """A reported run folder and what `report_result` returned."""
    folder = tmp_path_factory.mktemp("results") / "run"
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        return folder, report_result(TASK, make_result(folder, CLASSES, scores={"baseline": BASELINE}))


def section(folder: Path, name: str) -> str:
    """Return the section of report.md with this heading."""
    page = (folder / "report.md").read_text(encoding="utf-8")
    return page.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]


def cells(text: str) -> list[list[str]]:
    """Return the rows of the first table in `text`, without its header."""
    rows = re.findall(r"^\| (.*) \|$", text, flags=re.M)
    return [re.split(r" (?<!\\)\| ", row) for row in rows][2:]


def test_json_holds_every_score_and_the_run(reported: Reported, tmp_path: Path):
    folder, record = reported
    written = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert written == record
    found = make_result(tmp_path / "again", CLASSES).predictions
    scores = fine_scores(found.probs, found.target, found.class_names)
    assert {key: written[key] for key in scores} == scores
    assert (written["manifest"], written["split"], written["head"]) == ("ab" * 32, "cd" * 32, "dfl")


def test_headline_shows_the_numbers_of_the_json(reported: Reported):
    folder, record = reported
    top1, top5, mean, f1, baseline = cells(section(folder, "Result"))
    ends = record["top1_interval"]
    assert top1[1:] == [f"**{record['top1']:.2f}**", f"{ends['low']:.1f} to {ends['high']:.1f}"]
    assert [row[1] for row in (top5, mean, f1)] == [
        f"{record[key]:.2f}" for key in ("top5", "balanced_accuracy", "macro_f1")
    ]
    assert baseline[:2] == ["top-1 of always predicting Odd Bunting 2", "3.33"]
    assert "with the last weights" in section(folder, "Result")


def test_few_classes_have_no_top_5_and_all_have_a_row(tmp_path: Path):
    record = report_result(TASK, make_result(tmp_path / "run", 5))
    assert record["top5"] is None
    assert "top-5" not in section(tmp_path / "run", "Result")
    rows = cells(section(tmp_path / "run", "Classes"))
    assert len(rows) == 5
    assert [float(row[4]) for row in rows] == sorted(float(row[4]) for row in rows)


def test_many_classes_show_both_ends_and_the_csv_has_them_all(reported: Reported):
    folder, record = reported
    rows = cells(section(folder, "Classes"))
    values = sorted(row["accuracy"] for row in record["per_class"])
    assert [row[4] for row in rows] == [f"{value:.1f}" for value in (*values[:12], *values[-5:])]
    with (folder / "per_class.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [row["name"] for row in table] == record["class_names"]
    assert [int(row["right"]) for row in table] == [row["right"] for row in record["per_class"]]


def test_confused_pairs_are_those_of_the_predictions(reported: Reported, tmp_path: Path):
    folder, record = reported
    found = make_result(tmp_path / "again", CLASSES).predictions
    pair = record["confused_pairs"][0]
    first, second = (found.class_names.index(pair[key]) for key in ("first", "second"))
    assert pair["first_as_second"] == int(((found.target == first) & (found.preds == second)).sum())
    assert pair["second_as_first"] == int(((found.target == second) & (found.preds == first)).sum())
    totals = [row["first_as_second"] + row["second_as_first"] for row in record["confused_pairs"]]
    assert totals == sorted(totals, reverse=True)
    row = cells(section(folder, "Most confused pairs"))[0]
    assert row[2:] == [f"{pair['first_as_second']} of 6", f"{pair['second_as_first']} of 6"]


def test_the_table_of_mistakes_counts_each_once(tmp_path: Path):
    confusion = np.array([[3, 2, 0], [5, 1, 0], [0, 1, 9]])
    write_tables(tmp_path, [{"name": name, "n": 1} for name in "abc"], confusion, ("a", "b,x", "c"))
    with (tmp_path / "confusions.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))[1:]
    assert rows == [["b,x", "a", "5", "6"], ["a", "b,x", "2", "5"], ["c", "b,x", "1", "10"]]


def test_no_class_name_is_a_formula_in_the_tables(tmp_path: Path):
    name = '=HYPERLINK("http://x")'
    write_tables(tmp_path, [{"name": name, "accuracy": -0.5}], np.array([[0, 2], [1, 0]]), (name, "cat"))
    for file, row in (("per_class", [f"'{name}", "-0.5"]), ("confusions", [f"'{name}", "cat", "2", "2"])):
        with (tmp_path / f"{file}.csv").open(newline="", encoding="utf-8") as stream:
            assert list(csv.reader(stream))[1] == row


def test_a_run_without_mistakes_has_no_confusion_and_says_so(tmp_path: Path):
    made = make_result(tmp_path / "run", 6)
    sure = 0.97 * np.eye(6)[made.predictions.target] + 0.005
    record = report_result(TASK, replace(made, predictions=replace(made.predictions, probs=sure)))
    assert record["top1"] == 100
    assert record["confused_pairs"] == []
    assert "No test image was taken for another class" in section(tmp_path / "run", "Most confused pairs")
    assert "pictures/confused_pairs.png" not in record["pictures"]


def test_head_and_data_are_told(reported: Reported):
    folder, _ = reported
    assert "dfl (detectors 10)" in section(folder, "What was run")
    for words in ("`cub`", "10 training, 2 validation and 180 test images"):
        assert words in section(folder, "Data")


@pytest.mark.parametrize(
    ("data_set", "n", "classes", "reported_score", "rerun"),
    [("cub", 5794, 200, "87.80", "87.69"), ("cars", 8041, 196, "94.50", "94.39")],
)
def test_published_numbers_stand_beside_the_full_test_part_alone(
    data_set: str, n: int, classes: int, reported_score: str, rerun: str
):
    layouts = {"cub": "cub", "cars": "cars-K"}
    record = {
        "policy": layouts[data_set],
        "n": n,
        "classes": classes,
        "subset": False,
        "crop": {"kind": "image"},
        "counts": {"official": True},
        "test_list": TEST_LISTS["cub"],
    }
    told = reported_by_others(record)
    assert told is not None
    assert ["DCL", "ResNet-50", "CE", reported_score, rerun] in cells(told)
    assert "not measured here" in told
    assert "single run without spread" in told
    for change in (
        {"policy": "folders", "data_set": data_set},
        {"policy": "table", "data_set": data_set},
        {"counts": {}},
        {"counts": {"official": False}},
        {"n": n - 1},
        {"classes": classes - 1},
        {"subset": True},
        {"crop": {"kind": "box", "margin": 0.0}},
    ):
        assert reported_by_others({**record, **change}) is None


def test_the_official_list_is_checked_where_there_is_one_and_the_page_says_which():
    record = {"policy": "cub", "n": 5794, "classes": 200, "counts": {"official": True}}
    assert reported_by_others({**record, "test_list": list_hash(["images/a.jpg"])}) is None
    assert reported_by_others(record) is None
    told = reported_by_others({**record, "test_list": TEST_LISTS["cub"]})
    assert told is not None
    assert "are those of the official list" in told
    assert "90.6" not in told
    assert ["B-CNN", "VGG", "CRL", "", "84.27"] in cells(told)
    cars = reported_by_others({**record, "policy": "cars-S", "n": 8041, "classes": 196})
    assert cars is not None
    assert "the list itself was not checked" in cars
    assert "91.3 is the two-network model; one VGG-16 is reported at 90.6" in cars
    assert "| reported by Zhang et al. |" in cars


def test_left_out_and_equal_images_are_told(reported: Reported):
    counts = {
        "missing_images": 5,
        "missing_first": ["a.jpg", "b.jpg"],
        "bad_images": {"/x/c_1.jpg": "torn"},
        "same_content": [[f"t{i}.jpg", f"u{i}.jpg"] for i in range(4)],
    }
    text = data_line({**reported[1], "counts": counts}).replace("\\", "")
    assert "- 5 listed images are not there and were left out: a.jpg, b.jpg, ..." in text
    assert "- 1 images cannot be read and were left out: c_1.jpg" in text
    assert "- 4 pairs of images learned from and tested, which flatters the scores," in text
    assert "t0.jpg = u0.jpg, t1.jpg = u1.jpg, t2.jpg = u2.jpg, ..." in text
    assert "t3.jpg" not in text


def test_classes_with_nothing_right_are_not_among_the_most_accurate(reported: Reported):
    rows = [{**row, "right": 0, "accuracy": 0.0} for row in reported[1]["per_class"]]
    text = per_class({"per_class": rows})
    assert "The 12 least accurate of 30 classes. No class has a correct prediction." in text
    assert len(cells(text)) == 12
    rows[3] = {**rows[3], "right": 1, "accuracy": 20.0}
    assert "The 12 least and the 1 most accurate of 30 classes. No other" in per_class({"per_class": rows})


def test_no_published_number_in_the_report_of_a_subset(reported: Reported):
    assert "Reported by others" not in (reported[0] / "report.md").read_text(encoding="utf-8")


def test_parts_that_were_not_counted_read_not_measured(reported: Reported, tmp_path: Path):
    page = write_report(TASK, tmp_path, reported[1] | {"n_train": None})
    assert "n/a training" in page.read_text(encoding="utf-8")


def test_an_odd_class_name_cannot_become_markup(reported: Reported, tmp_path: Path):
    rows = [{**reported[1]["per_class"][0], "name": "<b>|*x*</b>"}, *reported[1]["per_class"][1:]]
    page = write_report(TASK, tmp_path, reported[1] | {"per_class": rows})
    assert "<b>" not in page.read_text(encoding="utf-8")
