"""The report and the files of a result on the benchmark's overlapping splits."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from agecls.evaluation import evaluation_scores
from agecls.report.benchmark import benchmark_scores, benchmark_section, write_benchmark
from agecls.report.report import report_scores, tell
from agecls.report.report_sections import headline
from agecls.task import TASK
from finetune.experiments.compare.compare import compare_results
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.images.manifest import Manifest
from tests.agecls.age_predictions import age_predictions
from tests.agecls.results_by_hand import run_record

YEARS = tuple(str(year) for year in range(10))
PARTS = ("stv", "sts", "tst", "vts")  # images 1 and 3 are tested again


def answers(names: tuple[str, ...] = YEARS, shift: int = 1) -> Predictions:
    """Return four images in three splits; the median of each answer is `shift` classes too old."""
    path = np.array(["0.jpg", "1.jpg", "2.jpg", "1.jpg", "3.jpg", "3.jpg"])
    target = np.array([0, 1, 2, 1, 3, 3])
    probs = np.full((6, len(names)), 0.001)
    probs[np.arange(6), target + shift] = 1
    own = np.array(["a", "b", "c", "b", "d", "d"])
    return age_predictions(
        names,
        path=path,
        subject=own,
        user=own,
        gender=np.full(6, "f"),
        age=target.astype(float),
        fold=np.array([0, 0, 1, 2, 1, 2]),
        target=target,
        probs=probs / probs.sum(1, keepdims=True),
    )


def result_of(folder: Path, shift: int = 1) -> Result:
    """Write a result folder with its table, and read it back."""
    folder.mkdir()
    answers(shift=shift).write(folder / "predictions.parquet")
    columns = {
        "path": np.array([f"{row}.jpg" for row in range(4)]),
        "label": np.arange(4),
        "parts": np.array(PARTS),
    }
    Manifest(folder, YEARS, columns).save(folder / "manifest.parquet")
    counts = {"database": "AgeDB", "faeb": "AgeDB.json"}
    record = run_record(class_names=list(YEARS), protocol="faeb", policy="table", counts=counts, n=6)
    (folder / "run.json").write_text(json.dumps(record))
    return Result.load(folder, TASK.form)


def test_measures_are_the_mean_and_the_spread_over_splits():
    found = benchmark_scores(answers(shift=6))
    assert found["unit"] == "years"
    assert found["per_split"] == {"mae": [6.0] * 3, "error": [1.0] * 3, "cs5": [0.0] * 3}
    own = answers()
    probs = np.where(own.target[:, None] == 3, np.eye(10)[own.target], own.probs)
    mixed = benchmark_scores(Predictions(YEARS, own.path, own.target, probs, own.columns))
    assert mixed["per_split"]["mae"] == [1.0, 0.5, 0.5]
    assert mixed["mean"]["mae"] == pytest.approx(2 / 3)
    assert mixed["sd"]["mae"] == pytest.approx(0.2357, abs=1e-4)  # divided by the number of splits
    groups = tuple(f"{10 * k}-{10 * k + 9}" for k in range(10))
    assert benchmark_scores(answers(groups))["unit"] == "classes"
    assert "cs5" not in benchmark_scores(answers(groups))["mean"]


def test_nothing_is_pooled_where_images_are_tested_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    result = result_of(tmp_path / "run")
    assert result.predictions.tested_again == 2
    scores = report_scores(result, None, resamples=50, seed=0)
    assert scores["exact_pooled"] is scores["one_off_pooled"] is scores["intervals"]["exact_pooled"] is None
    assert scores["baseline"]["exact_pooled"] is None
    assert scores["one_off_mean"] == 100
    record = {**run_record(protocol="faeb"), **scores, "counts": {"database": "AgeDB"}}
    assert "| n/a |" in headline(record)
    tell(record)
    assert "n/a" in capsys.readouterr().out
    told = benchmark_section(record) or ""
    assert "**1.00 ± 0.00**" in told
    assert "7.20 years" in told
    assert "count" in told
    assert "each image is tested once" in (benchmark_section({**record, "protocol": "rotate"}) or "")
    assert benchmark_section({}) is None


def test_two_results_are_compared_split_by_split_alone(tmp_path: Path):
    found = compare_results(TASK, result_of(tmp_path / "a"), result_of(tmp_path / "b", shift=0), resamples=50)
    assert found["mae_years"]["pooled"] is None
    assert found["mae_years"]["difference"] == -1
    assert "Images are tested in several splits" in found["conclusion"]


def test_an_evaluation_takes_the_mean_of_the_splits():
    own = answers().select(np.arange(1, 6))
    right = own.path == "1.jpg"  # all of split 0, none of split 1, one of two of split 2
    probs = np.where(right[:, None], np.eye(10)[own.target], own.probs)
    found = evaluation_scores(Predictions(YEARS, own.path, own.target, probs, own.columns))
    assert found["exact"] == pytest.approx(50)
    assert found["over"] == "folds"


def test_the_files_have_the_benchmarks_form(tmp_path: Path):
    write_benchmark(result_of(tmp_path / "run"))
    folder = tmp_path / "run" / "faeb"
    assert list(csv.reader((folder / "tst.csv").read_text().splitlines())) == [
        ["", "age[mae]", "age[cs5]", "age[0/1]"],
        ["AgeDB", "1.00(0.00)", "1.00(0.00)", "1.00(0.00)"],
    ]
    rows = list(csv.DictReader((folder / "split2" / "evaluation.csv").read_text().splitlines()))
    assert [(row["id"], row["folder"], row["true_label"], row["predicted_label"]) for row in rows] == [
        ("1", "2", "1", "2"),
        ("3", "2", "3", "4"),
    ]
    parts = list(csv.reader((folder / "data_split0.csv").read_text().splitlines()))
    assert parts == [
        ["0", "0.jpg", "2", "0"],
        ["1", "1.jpg", "2", "1"],
        ["2", "2.jpg", "0", "2"],
        ["3", "3.jpg", "1", "3"],
    ]
