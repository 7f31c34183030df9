"""Loggers of another package hear of general runs and of the cells of studies, once their rows are saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.training.checkpoint import load_checkpoint
from generalcls.commands import main
from generalcls.parallel.engine import Training
from tests.finetune import toy_loggers
from tests.finetune.toy_loggers import Toy, told

TINY = ("--data.train_fraction=0.1", "--network.name=logistic", "--train.epochs=3", "--device=cpu")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Toy]:
    """Loggers of another package, installed."""
    return toy_loggers.install(monkeypatch)


def rows_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("minutes", ["1e-9", "60"])
def test_a_run_is_told_when_a_checkpoint_or_the_cell_holds_its_rows(
    tmp_path: Path, toy: type[Toy], monkeypatch: pytest.MonkeyPatch, minutes: str
):
    folder, row, saved = tmp_path / "run", toy.row, list[int]()

    def look(self: Toy, given) -> None:
        row(self, given)
        if (folder / "cell.json").is_file():
            saved.append(len(json.loads((folder / "cell.json").read_text())["history"]))
        else:
            [file] = (folder / "in_training").iterdir()
            saved.append(len(load_checkpoint(file)["history"][0]))

    monkeypatch.setattr(toy, "row", look)
    words = ["train", *TINY, "--loss=crl", f"--run.dir={folder}", f"--run.checkpoint_minutes={minutes}"]
    assert main([*words, "--run.track=toy,crashing"]) == 0
    assert [kind for kind, _ in toy.heard] == ["begin", "row", "row", "row", "end"]
    assert saved == ([1, 2, 3] if minutes == "1e-9" else [3, 3, 3])
    [facts] = told(toy, "begin")
    assert (facts.tags["arm"], facts.tags["seed"], facts.epochs) == ("crl", 0, 3)
    assert told(toy, "row") == rows_of(folder)
    [(scores, files)] = told(toy, "end")
    assert scores == json.loads((folder / "cell.json").read_text())["scores"]
    assert {"run.json", "model.safetensors", "report.md"} <= {file.name for file in files}


def test_rows_after_a_kill_are_neither_doubled_nor_lost(
    tmp_path: Path, toy: type[Toy], monkeypatch: pytest.MonkeyPatch
):
    def killed(self: Training, after_step, after_epoch) -> None:
        def epoch() -> None:
            after_epoch()
            if self.epoch == 1:
                self.save()
            if self.epoch == 2:
                raise KeyboardInterrupt

        run(self, after_step, epoch)

    run, folder = Training.run, tmp_path / "run"
    words = ["train", *TINY, "--loss=cel", f"--run.dir={folder}", "--run.resume=auto"]
    monkeypatch.setattr(Training, "run", killed)
    assert main([*words, "--run.track=toy"]) == 130
    assert [row["epoch"] for row in told(toy, "row")] == [1]
    assert told(toy, "end") == [({}, ())]
    monkeypatch.setattr(Training, "run", run)
    assert main([*words, "--run.track=toy,other"]) == 0
    _, facts = told(toy, "begin")
    assert (facts.resumed, facts.first_epoch, [row["epoch"] for row in facts.rows]) == (True, 2, [1])
    assert [row["epoch"] for row in told(toy, "row")] == [1, 2, 3]
    assert [row["epoch"] for row in rows_of(folder)] == [1, 2, 3]


def test_every_cell_of_a_study_is_told(tmp_path: Path, toy: type[Toy]):
    words = ["study", *TINY, "--losses=crl", "--seeds=2", "--controls=false"]
    assert main([*words, f"--run.dir={tmp_path / 'study'}", "--run.track=toy"]) == 0
    begun = told(toy, "begin")
    found = {(facts.tags["arm"], facts.tags["seed"]) for facts in begun}
    assert found == {("cel", 0), ("cel", 1), ("crl", 0), ("crl", 1)}
    assert len(begun) == 4
    assert len(told(toy, "row")) == 12
    assert all(scores["accuracy"] is not None and files for scores, files in told(toy, "end"))


def test_an_unknown_logger_is_refused_before_any_work(tmp_path: Path, toy: type[Toy], capsys):
    assert main(["train", *TINY, f"--run.dir={tmp_path / 'run'}", "--run.track=toi"]) == 2
    told = capsys.readouterr().err
    assert "no logger is called 'toi'; there is crashing, other, toy, unmade (did you mean toy?)" in told
    assert not (tmp_path / "run").exists()
