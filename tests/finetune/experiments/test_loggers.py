"""Loggers of another package hear of a whole run of every task: its epochs, its scores and its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.training.loggers import logger_names
from tests.agecls.tiny_ages import crl
from tests.finetune import toy_loggers
from tests.finetune.experiments.tiny_tasks import TinyTask, leave_out_pictures
from tests.finetune.toy_loggers import Other, Toy, told


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Toy]:
    """Loggers of another package, installed; no figures are drawn."""
    leave_out_pictures(monkeypatch)
    return toy_loggers.install(monkeypatch)


def test_a_whole_run_is_told_to_its_loggers(tiny: TinyTask, tmp_path: Path, toy: type[Toy], capsys):
    folder = tmp_path / "run"
    words = [tiny.task.name, "train", *tiny.training(folder), "--json"]
    code, out, err = crl(capsys, *words, "--run.track", "toy,crashing")
    assert code == 0, err
    record = json.loads((folder / "run.json").read_text())
    assert json.loads(out)["run"] == str(folder)
    [facts] = told(toy, "begin")
    assert facts.tags == {key: record[key] for key in ("manifest", "pictures", "split")}
    assert facts.config["run"]["track"] == ["toy", "crashing"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert told(toy, "row") == rows
    assert len(rows) == 1
    assert all("checkpoints/last.ckpt" in files for files in toy.lay_there)
    [(scores, files)] = told(toy, "end")
    assert scores == record["scores"]
    assert scores[tiny.task.measures[0].key] is not None
    names = {file.name for file in files}
    assert {"run.json", "model.safetensors", "predictions.parquet", "report.md", "config.yaml"} <= names
    assert "the logger crashing failed" in err


def test_a_finished_run_is_not_told_again_and_another_tracker_is_allowed(
    tiny: TinyTask, tmp_path: Path, toy: type[Toy], capsys
):
    words = [tiny.task.name, "train", *tiny.training(tmp_path / "run"), "--run.resume=auto"]
    assert crl(capsys, *words, "--run.track=toy")[0] == 0
    calls = len(toy.heard)
    code, out, err = crl(capsys, *words, "--run.track=other")
    assert code == 0, err
    assert "is finished: nothing is trained" in out
    assert (len(toy.heard), Other.heard) == (calls, [])


def test_an_unknown_logger_is_refused_before_any_work(tiny: TinyTask, tmp_path: Path, toy: type[Toy], capsys):
    words = [tiny.task.name, "train", *tiny.training(tmp_path / "run")]
    code, _, err = crl(capsys, *words, "--run.track=tensorboard")
    assert code == 2
    assert f"no logger is called 'tensorboard'; there is {', '.join(logger_names())}" in err
    assert not (tmp_path / "run").exists()
