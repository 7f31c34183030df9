"""Run folders: written by the contract, read back exactly, refused with a reason when wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finegrained.task import TASK
from finetune.errors import DataError
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.images.manifest import Manifest

BIRDS = ("001.Auk", "002.Bunting", "003.Crow")


def three_birds() -> Predictions:
    """Four images of three birds; the third one is wrong."""
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])
    path = np.array(["d.jpg", "a.jpg", "c.jpg", "b.jpg"])
    return Predictions(BIRDS, path, np.array([0, 1, 2, 2]), probs)


def write_result(folder: Path, predictions: Predictions, **run: Any) -> Path:
    """Write a run folder by the contract; `run` replaces values of run.json, None removes them."""
    folder.mkdir(parents=True)
    facts: dict[str, Any] = {
        "kind": "fine_run",
        "class_names": list(predictions.class_names),
        "head": "dcl",
        "backbone": "resnet18",
        "loss": {"name": "crl", "alpha": 1.5, "beta": 1.0, "label_smoothing": 0.0, "class_weights": "none"},
        "n": len(predictions),
        "data_root": str(folder),
    }
    facts = {name: value for name, value in (facts | run).items() if value is not None}
    (folder / "run.json").write_text(json.dumps(facts))
    predictions.write(folder / "predictions.parquet")
    return folder


def test_predictions_come_back_sorted_by_path(tmp_path):
    found = three_birds()
    found.write(tmp_path / "p.parquet")
    again = Predictions.read(tmp_path / "p.parquet", BIRDS)
    assert again.path.tolist() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert again.target.tolist() == [1, 2, 2, 0]
    assert np.array_equal(again.probs, found.in_order().probs.astype(np.float32))


def test_right_and_wrong_are_told_by_the_largest_probability():
    found = three_birds()
    assert found.preds.tolist() == [0, 1, 0, 2]
    assert found.correct.tolist() == [True, True, False, True]
    assert found.log_odds[0, 0] == pytest.approx(np.log(0.7 / 0.3))
    assert found.select(np.array([2])).path.tolist() == ["c.jpg"]


def test_a_target_outside_the_classes_is_refused():
    with pytest.raises(DataError, match=r"targets must lie in \[0, 2\]"):
        Predictions(BIRDS, np.array(["a"]), np.array([3]), np.full((1, 3), 1 / 3))


def test_a_result_tells_its_title_history_and_table(tmp_path):
    folder = write_result(tmp_path / "run", three_birds())
    (folder / "metrics.jsonl").write_text('{"epoch": 0}\n{"epoch": 1}\n')
    (folder / "config.yaml").write_text("train: {epochs: 2}\n")
    columns = {"path": np.array(["a.jpg"]), "label": np.array([1])}
    Manifest(folder, BIRDS, columns).save(folder / "manifest.parquet")
    result = Result.load(folder, TASK.form)
    assert result.title == "dcl on resnet18 with crl (alpha 1.5, beta 1.0)"
    assert result.class_names == BIRDS
    assert [row["epoch"] for row in result.history] == [0, 1]
    assert result.config["train"]["epochs"] == 2
    assert result.manifest is not None
    assert result.manifest.file(0) == folder / "a.jpg"


@pytest.mark.parametrize(("top1", "whole"), [(75.0, True), (74.0, False), (100.0, False), (None, True)])
def test_scores_of_other_predictions_are_refused(tmp_path, top1, whole):
    folder = write_result(tmp_path / "run", three_birds(), scores={"top1": top1})
    if whole:
        assert len(Result.load(folder, TASK.form).predictions) == 4
    else:
        with pytest.raises(DataError, match=r"top-1 .*predictions\.parquet gives 75\.0000 %"):
            Result.load(folder, TASK.form)


def test_equally_probable_classes_may_count_either_way(tmp_path):
    probs = np.array([[0.5, 0.5, 0.0], [0.1, 0.8, 0.1]])
    found = Predictions(BIRDS, np.array(["a", "b"]), np.array([1, 1]), probs)
    assert Result.load(write_result(tmp_path / "run", found, scores={"top1": 100.0}), TASK.form).run["n"] == 2


def test_what_may_be_absent_is_empty(tmp_path):
    result = Result.load(write_result(tmp_path / "run", three_birds()), TASK.form)
    assert (result.history, result.manifest, result.config) == ([], None, {})


def test_a_folder_without_a_finished_run_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="it does not exist"):
        Result.load(tmp_path / "nowhere", TASK.form)
    with pytest.raises(DataError, match=r"it lacks run\.json and predictions\.parquet"):
        Result.load(tmp_path, TASK.form)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "age_cv"}, "\"kind\" must be fine_run, got 'age_cv'"),
        ({"kind": None}, "got ''"),
        ({"class_names": None}, "lacks class_names"),
        ({"n": 5}, r"records 5 test images, predictions\.parquet has 4"),
        ({"class_names": ["a", "b"]}, "has prob_2 beyond the 2 class names"),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path, changes, told):
    folder = write_result(tmp_path / "run", three_birds(), **changes)
    with pytest.raises(DataError, match=told):
        Result.load(folder, TASK.form)
