"""What loggers hear of a run and when: after the checkpoint, once, and without any cost to the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from finetune.errors import InterruptedRunError, UsageError
from finetune.runs.folder import RunFolder
from finetune.training.config import to_dict
from finetune.training.data import TrainingData
from finetune.training.fit import FitRun, fit
from finetune.training.loggers import Loggers, RunFacts, run_files, run_loggers, unknown_loggers
from finetune.training.optimization.distributed import World
from tests.finetune import toy_loggers
from tests.finetune.quick import QUICK, STEPS, last, metrics, quick, train, trained_hash
from tests.finetune.toy_loggers import Crashing, Other, Toy, told

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> type[Toy]:
    """Loggers of another package, installed."""
    return toy_loggers.install(monkeypatch)


def tracked(task: TrainingData, folder: Path, *names: str, writer: bool = True) -> str:
    """Train the quick run with these loggers, or go on with it; return its weights' hash."""
    config = quick(run_track=names)
    with (
        RunFolder.open(folder, to_dict(config), resume="auto", writer=writer) as opened,
        run_loggers(opened, names) as loggers,
    ):
        fitted = fit(task, config, opened, World(), loggers)
        loggers.end({"top1": 50.0}, run_files(folder))
    return trained_hash(fitted)


def test_a_logger_hears_every_epoch_after_its_checkpoint_and_changes_nothing(
    task: TrainingData, tmp_path: Path, toy: type[Toy]
):
    plain = trained_hash(train(task, tmp_path / "plain", QUICK))
    assert tracked(task, tmp_path / "run", "toy") == plain
    assert [kind for kind, _ in toy.heard] == ["begin", "row", "row", "end"]
    [facts] = told(toy, "begin")
    assert (facts.folder, facts.epochs, facts.first_epoch, facts.resumed) == (tmp_path / "run", 2, 1, False)
    assert facts.rows == []
    assert facts.tags == task.identity
    assert facts.config["train"]["batch_size"] == 8
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in told(toy, "row")]
    assert rows == metrics(tmp_path / "run") == metrics(tmp_path / "plain")
    assert all("checkpoints/last.ckpt" in files for files in toy.lay_there)
    [(scores, files)] = told(toy, "end")
    assert scores == {"top1": 50.0}
    assert [file.name for file in files] == ["config.yaml", "metrics.jsonl"]


def test_the_checkpoint_of_a_rows_epoch_is_there_when_the_row_comes(
    task: TrainingData, tmp_path: Path, toy: type[Toy], monkeypatch: pytest.MonkeyPatch
):
    row, seen = toy.row, []

    def look(self: Toy, given) -> None:
        seen.append((given["epoch"], last(tmp_path)["epoch"]))
        row(self, given)

    monkeypatch.setattr(toy, "row", look)
    tracked(task, tmp_path, "toy")
    assert seen == [(1, 1), (2, 2)]


def test_a_kill_between_checkpoint_and_row_costs_neither_file_nor_logger_the_row(
    task: TrainingData, tmp_path: Path, toy: type[Toy], monkeypatch: pytest.MonkeyPatch
):
    train(task, tmp_path / "whole", QUICK)
    append = RunFolder.append_metrics
    monkeypatch.setattr(RunFolder, "append_metrics", lambda *_: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        tracked(task, tmp_path / "run", "toy")
    assert told(toy, "row") == []
    assert told(toy, "end") == [({}, ())]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    monkeypatch.setattr(RunFolder, "append_metrics", append)
    tracked(task, tmp_path / "run", "toy")
    _, facts = told(toy, "begin")
    assert (facts.resumed, facts.first_epoch) == (True, 2)
    assert [row["epoch"] for row in facts.rows] == [1]
    assert [row["epoch"] for row in told(toy, "row")] == [2]
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_a_stopped_run_ends_with_nothing_and_another_logger_may_go_on(
    task: TrainingData, tmp_path: Path, toy: type[Toy], monkeypatch: pytest.MonkeyPatch
):
    nothing_improves = FitRun._nothing_improves

    def stop(self: FitRun) -> bool:
        if self.progress.epoch == 1:
            raise InterruptedRunError("stopped")
        return nothing_improves(self)

    monkeypatch.setattr(FitRun, "_nothing_improves", stop)
    with pytest.raises(InterruptedRunError):
        tracked(task, tmp_path, "toy")
    assert [kind for kind, _ in toy.heard] == ["begin", "row", "end"]
    assert told(toy, "end") == [({}, ())]
    monkeypatch.setattr(FitRun, "_nothing_improves", nothing_improves)
    tracked(task, tmp_path, "other")
    assert len(toy.heard) == 3
    [facts] = told(Other, "begin")
    assert [row["epoch"] for row in facts.rows] == [1]
    assert [row["epoch"] for row in told(Other, "row")] == [2]
    assert len(metrics(tmp_path)) == 2


@pytest.mark.parametrize("name", ["crashing", "unmade"])
def test_a_logger_that_fails_is_told_once_and_left_out(
    task: TrainingData, tmp_path: Path, toy: type[Toy], capsys: pytest.CaptureFixture[str], name: str
):
    whole = tracked(task, tmp_path / "whole", "toy")
    heard = [kind for kind, _ in toy.heard]
    toy.heard.clear()
    capsys.readouterr()
    assert tracked(task, tmp_path / "run", name, "toy") == whole
    out = capsys.readouterr().out
    assert out.count("notice:") == out.count(f"notice: the logger {name} failed (") == 1
    assert Crashing.calls == (["begin", "row"] if name == "crashing" else [])
    assert [kind for kind, _ in toy.heard] == heard
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_metrics_jsonl_is_ours_and_its_failure_is_the_runs(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(RunFolder, "append_metrics", lambda *_: exec("raise OSError('full')"))
    with pytest.raises(OSError, match="full"):
        train(task, tmp_path, QUICK)


def test_a_logger_gets_a_row_of_its_own(toy: type[Toy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Other, "row", lambda _, row: row.clear())
    loggers = Loggers(track=["other", "toy", "toy"])
    loggers.end({}, ())  # before the begin there is nobody to tell
    loggers.begin(RunFacts(tmp_path, {}, {}, {}, "cpu", 1))
    row = {"epoch": 1}
    loggers.row(row)
    assert told(toy, "row") == [row] == [{"epoch": 1}]


def test_a_process_that_does_not_write_tells_nobody(toy: type[Toy], task: TrainingData, tmp_path: Path):
    tmp_path.joinpath("run").mkdir()
    tracked(task, tmp_path / "run", "toy", writer=False)
    assert toy.heard == []
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_unknown_names_are_refused_with_those_there_are(toy: type[Toy]):
    with pytest.raises(UsageError, match=r"no logger is called 'tow'; there is crashing, other, toy, unmade"):
        quick(run_track=("toy", "tow"))
    [refusal] = unknown_loggers(["toys"])
    assert refusal.endswith("(did you mean toy?)")
    assert unknown_loggers(["toy", "other"]) == []


def test_without_any_installed_the_refusal_says_so():
    assert unknown_loggers(["x"]) == ["run.track: no logger is called 'x'; none is installed"]
    assert unknown_loggers([]) == []


def test_the_tracked_names_may_change_when_a_run_goes_on(task: TrainingData, tmp_path: Path, toy: type[Toy]):
    train(task, tmp_path, quick(run_track=("toy",)))
    train(task, tmp_path, replace(QUICK, run=replace(QUICK.run, track=("other", "toy"))))


def test_the_files_of_a_run_are_those_a_person_looks_at(tmp_path: Path):
    for name in ("run.json", "pictures/a.png", "checkpoints/last.ckpt", ".lock", ".crl-1.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert run_files(tmp_path) == [tmp_path / "pictures" / "a.png", tmp_path / "run.json"]


def test_steps_are_what_the_rows_count(task: TrainingData, tmp_path: Path, toy: type[Toy]):
    tracked(task, tmp_path, "toy")
    assert [row["step"] for row in told(toy, "row")] == [STEPS, 2 * STEPS]
