"""What a model card tells of a fine-grained run: its own scores, its data, and nothing nobody measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finegrained.card import fine_card
from finegrained.scores import fine_scores
from finegrained.task import TASK
from finetune.errors import DataError
from finetune.experiments.records.record import UNTESTED
from finetune.experiments.result import Result
from tests.finegrained.tiny_birds import birds, run_whole, tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    config = tiny(birds(folder / "birds", classes=6, per_class=6), folder / "run")
    run_whole(config)
    return folder / "run"


def test_the_scores_are_those_of_the_run_s_predictions(run: Path):
    found, result = fine_card(run), Result.load(run, TASK.form)
    own = result.predictions
    wanted = fine_scores(own.probs, own.target, own.class_names)
    for name in ("n", "top1", "top5", "balanced_accuracy", "nll", "ece"):
        assert found["metrics"][name] == pytest.approx(wanted[name]), name
    interval = wanted["top1_interval"]
    assert found["metrics"]["top1_interval"] == [interval["low"], interval["high"]]
    assert found["metrics"]["baseline"] == result.run["scores"]["baseline"]
    assert found["card"]["classes"] == wanted["per_class"]
    assert [row["name"] for row in found["card"]["classes"]] == list(own.class_names)


def test_data_and_training_are_told(run: Path):
    found, record = fine_card(run), json.loads((run / "run.json").read_text())
    data = found["card"]["data"]
    assert data["name"] == "a part of CUB-200-2011"
    assert (data["images"], data["classes"]) == (record["counts"]["images"], 6)
    assert (data["train"], data["test"]) == (record["n_train"], record["n"])
    assert data["left_out"] == {}
    assert "Flickr" in data["about"]
    assert found["card"]["training"]["n_train"] == record["n_train"]
    assert (found["card"]["training"]["head"], found["card"]["training"]["loss"]) == ("linear", "cel")
    assert found["data"] == {"fold": None, "folds": [], "picture_crop": "image", "box_margin": 0.0}
    assert str(run) not in json.dumps(found)


def test_weights_that_nobody_tested_have_no_scores(run: Path):
    found = fine_card(run, tested=False)
    assert found["metrics"] == {}
    assert found["card"]["classes"] == []
    assert found["card"]["not_measured"][0] == UNTESTED


def test_a_folder_without_a_run(tmp_path: Path):
    with pytest.raises(DataError, match="not the result of a fine-grained run"):
        fine_card(tmp_path)
