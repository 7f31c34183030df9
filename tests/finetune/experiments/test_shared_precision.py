"""All runs of a study or a cross-validation compute in one number format, chosen once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agecls import cross_validation
from agecls.config import CrossValidationConfig
from agecls.synthetic.adience import write_lookalike_adience
from agecls.task import TASK as AGE
from finetune.errors import InterruptedRunError, ResourceError
from finetune.experiments import shared_precision
from finetune.experiments.run import prepare_experiment
from finetune.experiments.shared_precision import kept_choice, with_shared_precision
from finetune.experiments.study import runs
from finetune.experiments.study.runs import study_losses
from finetune.training.checkpoint import CheckpointFolder
from finetune.training.optimization.measuring import Workload, planned_steps
from finetune.training.optimization.precision import Choice
from tests.agecls.tiny_ages import tiny as tiny_ages
from tests.finetune.experiments.tiny_tasks import TinyTask, again

CHOICE = Choice("bfloat16", "measured: so and so", {"float32": 2.0, "bfloat16": 1.0}, 8)


def measured(patch: pytest.MonkeyPatch) -> list[tuple[str, Workload]]:
    """Return a list of what is measured, which always is `CHOICE`."""
    found: list[tuple[str, Workload]] = []

    def choose(device: str, work: Workload) -> Choice:
        found.append((device, work))
        return CHOICE

    patch.setattr(shared_precision, "choose_format", choose)
    return found


def auto(config: Any) -> Any:
    return replace(config, run=replace(config.run, precision="auto"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_all_cells_of_a_study_get_what_was_chosen_once(tiny: TinyTask, monkeypatch, folder: Path):
    asked, seen = measured(monkeypatch), []

    def train_cell(experiment: Any, plan: Any) -> None:
        seen.append(experiment.choice)
        plan.folder.mkdir(parents=True, exist_ok=True)
        (plan.folder / "config.yaml").touch()  # something was done
        if len(seen) % 2 == 0:
            raise InterruptedRunError("stopped")

    monkeypatch.setattr(runs, "train_cell", train_cell)
    config = auto(tiny.study(folder))
    with pytest.raises(InterruptedRunError):
        study_losses(tiny.task, config)
    with pytest.raises(InterruptedRunError):  # another process, or another day
        study_losses(tiny.task, again(config))
    assert seen == [CHOICE] * 4
    (device, work), *others = asked
    assert (device, others, work.threads) == ("cpu", [], 0)
    assert work.steps == 4 * work.config.train.epochs * (len_of_training(tiny, config) // work.batch)
    assert json.loads((folder / "precision.json").read_text(encoding="utf-8"))["name"] == "bfloat16"


def len_of_training(tiny: TinyTask, config: Any) -> int:
    experiment = prepare_experiment(tiny.task, config, [tiny.task.chosen_fold(config)])
    return len(experiment.split(tiny.task.chosen_fold(config)).train)


def test_a_study_that_fails_before_it_did_anything_leaves_no_choice(
    tiny: TinyTask, monkeypatch, folder: Path
):
    measured(monkeypatch)

    def refuse(*_: Any) -> None:
        raise ResourceError("no weights")

    monkeypatch.setattr(runs, "train_cell", refuse)
    with pytest.raises(ResourceError):
        study_losses(tiny.task, auto(tiny.study(folder)))
    assert {file.name for file in folder.iterdir() if file.is_file()} <= {".lock"}


def test_the_folds_of_a_cross_validation_get_what_was_chosen_once(tmp_path: Path, monkeypatch):
    root = tmp_path / "faces"
    write_lookalike_adience(root, users=10, images_per_subject=2, image_size=32)
    asked, seen = measured(monkeypatch), []
    monkeypatch.setattr(
        cross_validation, "run_split", lambda experiment, *_, **__: seen.append(experiment.choice)
    )
    monkeypatch.setattr(cross_validation, "run_on_devices", lambda *_: None)
    config: CrossValidationConfig = auto(tiny_ages(root, tmp_path / "cv"))
    cross_validation.cross_validate(AGE, replace(config, devices=("cpu", "cpu"), folds=(0, 3)))
    splits = list(prepare_experiment(AGE, config).splits)
    whole = sum(planned_steps(config, len(split.train)) for split in splits)
    assert (asked[0][1].steps, len(splits)) == (whole, 5)  # whichever folds come first
    assert (asked[0][0], asked[0][1].threads > 0) == ("cpu", True)  # as many as each process has
    for fold in (1, 2):  # each in a process of its own
        cross_validation.cross_validate(AGE, again(config, folds=(fold,), report=False))
    assert (seen, len(asked)) == ([CHOICE] * 2, 1)
    other: CrossValidationConfig = replace(
        auto(tiny_ages(root, tmp_path / "other")), folds=(1,), report=False
    )
    cross_validation.cross_validate(AGE, other, choice=kept_choice(tmp_path / "cv"))  # to be compared with it
    assert (seen, len(asked)) == ([CHOICE] * 3, 1)


def experiment_of(tiny: TinyTask, folder: Path) -> Any:
    return prepare_experiment(tiny.task, auto(tiny.run(folder)))


def test_runs_of_an_earlier_version_say_what_auto_was(tiny: TinyTask, monkeypatch, folder: Path):
    experiment, asked = experiment_of(tiny, folder), measured(monkeypatch)
    split = experiment.split(tiny.task.chosen_fold(experiment.config))
    old = folder / "cells" / "cel" / "seed-0"
    old.mkdir(parents=True)
    told = "device: asked auto, using cpu (AMD EPYC); bfloat16, channels last: the CPU multiplies bfloat16"
    (old / "run.json").write_text(json.dumps({"precision": told}), encoding="utf-8")
    assert with_shared_precision(experiment, folder, [split]).choice == Choice(
        "bfloat16", "as the runs that are here already"
    )
    assert not asked


def test_a_run_that_an_earlier_version_began_says_it_too(tiny: TinyTask, monkeypatch, folder: Path):
    experiment, asked = experiment_of(tiny, folder), measured(monkeypatch)
    state = {"device": "AMD EPYC, float16", "versions": {}}
    CheckpointFolder(folder / "fold0" / "checkpoints").save(state, epoch=0, step=1)
    found = with_shared_precision(experiment, folder, []).choice
    assert (found, asked) == (Choice("float16", "as this training began"), [])


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_whether_steps_are_compiled_is_decided_once_too(
    tiny: TinyTask, monkeypatch, folder: Path, precision: str
):
    measured(monkeypatch)
    asked: list[tuple[str, str, int]] = []

    def decide(device: str, _work: Workload, choice: Choice, steps: int) -> bool:
        asked.append((device, choice.name, steps))
        return True

    monkeypatch.setattr(shared_precision, "compiled_for_all", decide)
    monkeypatch.setattr(
        shared_precision, "_may_compile", lambda config: config.run.compile == "auto"
    )  # on a GPU
    config = tiny.run(folder)
    config = replace(config, run=replace(config.run, precision=precision, compile="auto"))
    experiment = prepare_experiment(tiny.task, config)
    split = experiment.split(tiny.task.chosen_fold(config))
    for _ in range(2):  # another run of the same folder asks nothing
        choice = with_shared_precision(experiment, folder, [split, split]).choice
        assert (choice.name, choice.compiled) == ("bfloat16" if precision == "auto" else "float32", True)
    assert asked == [("cpu", choice.name, planned_steps(config, len(split.train)))]


def test_a_format_by_name_needs_no_choice(tiny: TinyTask, monkeypatch, folder: Path):
    asked = measured(monkeypatch)
    config = tiny.run(folder)
    named = replace(config, run=replace(config.run, precision="float32"))
    experiment = prepare_experiment(tiny.task, named)
    assert with_shared_precision(experiment, folder, []) is experiment
    assert (asked, list(folder.iterdir())) == ([], [])
