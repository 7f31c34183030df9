"""Finished runs as the cells of a study."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.errors import DataError
from finetune.experiments.study.arms import build_arms
from finetune.experiments.study.cells import CellPlan
from finetune.experiments.study.finished_runs import (
    cell_of,
    end_study,
    gradient_ratio,
    mean_history,
    read_run,
    tell_study,
)
from finetune.experiments.study.report import StudyPage
from finetune.experiments.study.statistics import Measure, summarise_study

CONFIG = {"train": {"lr": 0.02, "frozen_lr": None, "epochs": 2}, "run": {"dir": "here"}, "device": "cpu"}
RECORD = {
    "minutes": 0.5,
    "device": {"used": "cpu", "name": "a CPU"},
    "precision": "float32",
    "train": {"lr": 0.02},
    "n": 40,
    "manifest": "m",
}


def written(folder: Path, config: dict[str, Any] = CONFIG, **record: Any) -> CellPlan:
    """Write a run as it is left behind and return the plan of its cell."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run.json").write_text(json.dumps(RECORD | record))
    rows = [{"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.5, "train_gradient_factor": 1.2}]
    rows += [{"epoch": 2, "train_loss": 1.0, "train_accuracy": 0.75, "train_gradient_factor": 1.4}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CellPlan(build_arms(["cel"])[0], 0, 1.0, folder)


def test_a_finished_run_is_a_cell(tmp_path):
    plan = written(tmp_path / "cell")
    run = read_run(plan, ("run.json",), CONFIG, {"manifest": "m"})
    assert run is not None
    cell = cell_of(plan, run, {"accuracy": 61.0, "top5": None})
    assert (cell.arm, cell.seed, cell.lr_factor, cell.seconds) == ("cel", 0, 1.0, 30.0)
    assert (cell.device, cell.scores) == ("cpu (a CPU)", {"accuracy": 61.0, "top5": None})
    assert cell.gradient_factor == pytest.approx(1.3)
    assert cell.gradient_ratio is None
    assert [row["train_loss"] for row in cell.history] == [2.0, 1.0]
    assert all("test_error" not in row for row in cell.history)


def epochs_of(*pushes: tuple[float, float], batches: int = 4) -> list[dict[str, Any]]:
    """Return the epochs of a training with these mean gradient magnitudes and cross-entropy's."""
    return [
        {
            "epoch": epoch + 1,
            "step": (epoch + 1) * batches,
            "train_grad": push,
            "train_grad_ce": q,
            "train_gradient_ratio": push / q,
        }
        for epoch, (push, q) in enumerate(pushes)
    ]


def test_the_ratio_is_of_the_sums_over_all_epochs_and_folds(tmp_path):
    plan = written(tmp_path / "cell")
    run = read_run(plan, ("run.json",), CONFIG, {})
    assert run is not None
    first, longer = epochs_of((1.0, 0.8), (0.16, 0.1)), epochs_of((0.9, 0.7), batches=8)
    run = replace(run, epochs=[first, longer])
    found = cell_of(plan, run, {}).gradient_ratio
    assert found == pytest.approx((1.0 + 0.16 + 2 * 0.9) / (0.8 + 0.1 + 2 * 0.7))
    assert found != pytest.approx((1.25 + 1.6 + 2 * 9 / 7) / 4, rel=0.01)  # the mean of the epochs' ratios
    older = [{name: value for name, value in row.items() if name != "train_grad"} for row in first]
    assert gradient_ratio([older, longer]) is None
    assert gradient_ratio([]) is None


def test_epochs_written_under_the_old_keys_count_like_the_new_ones():
    names = {"train_grad": "train_push", "train_grad_ce": "train_q"}
    new = epochs_of((1.0, 0.8), (0.16, 0.1))
    old = [{names.get(name, name): value for name, value in row.items()} for row in new]
    assert {"train_push", "train_q"} <= set(old[0])
    assert {"train_grad", "train_grad_ce"}.isdisjoint(old[0])
    resumed = [old[0], new[1]]  # written by two versions
    assert gradient_ratio([old]) == gradient_ratio([resumed]) == gradient_ratio([new]) is not None


def test_a_run_without_all_of_its_files_is_not_finished(tmp_path):
    plan = written(tmp_path / "cell")
    assert read_run(plan, ("run.json", "report.md"), CONFIG, {}) is None


def test_a_run_of_other_settings_or_data_is_refused_and_places_do_not_count(tmp_path):
    plan = written(tmp_path / "cell")
    elsewhere = CONFIG | {"run": {"dir": "there"}, "device": "cuda"}
    assert read_run(plan, ("run.json",), elsewhere, {"manifest": "m"}) is not None
    longer = CONFIG | {"train": CONFIG["train"] | {"epochs": 3}}
    with pytest.raises(DataError, match=r"train\.epochs: 2 -> 3"):
        read_run(plan, ("run.json",), longer, {"manifest": "m"})
    with pytest.raises(DataError, match="manifest: m -> other"):
        read_run(plan, ("run.json",), CONFIG, {"manifest": "other"})


def test_another_rate_is_told_as_its_factor(tmp_path):
    plan = written(tmp_path / "cell", CONFIG | {"train": CONFIG["train"] | {"lr": 0.025}})
    run = read_run(plan, ("run.json",), CONFIG, {})
    assert run is not None
    assert run.lr_factor == pytest.approx(1.25)


def test_epochs_are_means_of_the_trainings_that_all_have_them():
    first = [{"train_loss": 1.0, "train_accuracy": 0.5, "val_accuracy": 0.2}, {"train_loss": 9.0}]
    second = [{"train_loss": 3.0, "train_accuracy": 0.7, "val_accuracy": 0.4, "train_gradient_factor": 1.1}]
    (row,) = mean_history([first, second])
    assert row == {
        "epoch": 1,
        "train_loss": 2.0,
        "train_accuracy": pytest.approx(0.6),
        "validation_error": pytest.approx(70.0),
    }
    assert mean_history([]) == []


def test_a_study_tells_its_table_and_its_conclusion(tmp_path, capsys):
    arms = build_arms(["crl"], controls=False)
    cells = []
    for arm in arms:
        for seed, score in enumerate((60.0, 61.0, 62.5)):
            plan = written(tmp_path / arm.name / str(seed))
            run = read_run(plan, ("run.json",), CONFIG, {})
            assert run is not None
            better = score + (arm.name == "crl") * (1 + 0.01 * seed)
            cells.append(cell_of(CellPlan(arm, seed, 1.0, plan.folder), run, {"accuracy": better}))
    tell_study(summarise_study(cells, arms, (Measure("accuracy", "accuracy (%)"),)))
    told = capsys.readouterr().out
    assert "CRL (alpha 1.5, beta 1)      3  62.18  1.27  +1.01     +0.99 to +1.03" in told
    assert "CRL (alpha 1.5, beta 1) is higher than CE in accuracy" in told

    measures = (Measure("accuracy", "accuracy (%)"),)
    end_study(tmp_path, cells, arms, measures, StudyPage("T", ["w"], caution="Nothing was learned."))
    assert (
        "* Nothing was learned.\n* No arm is called higher or lower" in (tmp_path / "report.md").read_text()
    )
    told = capsys.readouterr().out
    assert "Nothing was learned.\nNo arm is called higher or lower" in told
    assert "CE in accuracy" not in told
