"""Lines of a long training: epoch, test accuracy and time left, without a terminal too."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest

from finetune.cli.console import progress
from finetune.experiments.study.cells import CellPlan
from finetune.runs.folder import RunFolder
from finetune.training.loggers import MetricsFile, RunFacts
from generalcls.parallel import progress as own
from generalcls.parallel.progress import CellLog, Diary, accuracy_text, curve_rows
from tests.generalcls.small_study import arms, training


class Clock:
    """A clock that every look at moves on by so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def monotonic(self) -> float:
        self.now += self.seconds
        return self.now


def lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float, cells=1, **options
):
    """Return what a training of 5 steps an epoch says where each look at the clock finds it later."""
    monkeypatch.setattr(own, "time", Clock(seconds))
    found = training(
        "logistic", [(arms("cel")[0], seed) for seed in range(cells)], side_by_side=True, **options
    )
    with progress(100, "CE") as bar:
        diary = Diary("CE", found, bar)
        found.run(diary.after_step, diary.after_epoch)
    return capsys.readouterr().out.splitlines(), found


def test_epoch_accuracy_and_time_left_without_a_terminal(monkeypatch, capsys):
    said, found = lines(monkeypatch, capsys, 20.0, epochs=4, evaluate_every=2)
    tested = f"{100 - found.history[0][1]['test_error']:.2f} % (epoch 2)"
    assert said[0] == "CE: epoch 0.6 of 4, about 6 min left"
    assert f"CE: epoch 2 of 4, test accuracy {tested}, about 4 min left" in said
    assert f"test accuracy {tested}" in said[-1]
    assert not any("epoch 4 of 4" in line for line in said)  # the result is told then


def test_short_trainings_say_nothing(monkeypatch, capsys):
    assert lines(monkeypatch, capsys, 0.1, epochs=4)[0] == []


def test_tests_are_told_sooner_than_a_minute(monkeypatch, capsys):
    said, _ = lines(monkeypatch, capsys, 3.0, epochs=4)
    assert [line.partition(",")[0] for line in said] == [f"CE: epoch {n} of 4" for n in (1, 2, 3)]


def test_several_models_have_a_span_of_accuracies(monkeypatch, capsys):
    said, found = lines(monkeypatch, capsys, 10.0, cells=3, epochs=3, lr=1e-3)
    accuracies = sorted(100 - rows[0]["test_error"] for rows in found.history)
    assert accuracies[0] < accuracies[-1]
    assert any(
        f"test accuracy {accuracies[0]:.2f} to {accuracies[-1]:.2f} % (epoch 1)" in line for line in said
    )


def test_a_resumed_training_knows_its_last_test_and_its_own_speed(monkeypatch, capsys):
    monkeypatch.setattr(own, "time", Clock(70.0))
    found = training("logistic", [(arms("cel")[0], 0)], side_by_side=True, epochs=10)
    found.epoch, found.step = 8, 1
    found.history = [[{"epoch": 7, "test_error": 40.0}, {"epoch": 8}]]
    with progress(100, "CE") as bar:
        diary = Diary("CE", found, bar)
        diary.after_step(8)
        assert capsys.readouterr().out == ""  # no step yet whose time it knows
        found.step = 2
        diary.after_step(8)
    assert (
        capsys.readouterr().out == "CE: epoch 8.4 of 10, test accuracy 60.00 % (epoch 7), about 19 min left\n"
    )


def test_a_terminals_bar_shows_epoch_and_accuracy(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    found = training("logistic", [(arms("cel")[0], 0)], side_by_side=True)
    with progress(80, "CE") as bar:
        diary = Diary("CE", found, bar)
        found.run(diary.after_step, diary.after_epoch)
    assert "epoch 2/2, test " + accuracy_text([found.history[0][1]]) in terminal.getvalue()


def test_a_curve_begins_with_the_epochs_of_the_checkpoint(tmp_path):
    [arm] = arms("crl")
    with RunFolder.open(tmp_path / "run", {}, resume="never") as opened:
        plan, file = CellPlan(arm, 0, 1.0, tmp_path / "run"), tmp_path / "run" / "metrics.jsonl"
        facts, log = RunFacts(plan.folder, {}, {}, {}, "cpu", 3), CellLog(plan, MetricsFile(opened))
        log.begin(facts)
        assert not file.exists()  # a run that never began leaves no claim on its folder
        for epoch in range(1, 4):
            log.add({"epoch": epoch, "gradient_factor": 1.5})
            assert [row["epoch"] for row in opened.read_metrics()] == list(range(1, epoch + 1))
        log.begin(replace(facts, rows=[{"epoch": 1, "gradient_factor": 1.5}]))
        assert opened.read_metrics() == [{"epoch": 1, "gradient_factor": 1.5}]
        log.begin(facts)
        assert opened.read_metrics() == []


def test_a_margin_heads_rows_have_no_factor():
    row = {"epoch": 1, "train_loss": 1.0, "gradient_factor": 1.5, "gradient_ratio": 1.2}
    assert curve_rows(arms("cel")[0], [row]) == [row]
    assert curve_rows(arms("lsoftmax")[0], [row]) == [
        {**row, "gradient_factor": None, "gradient_ratio": None}
    ]
