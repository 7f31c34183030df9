"""The configurations of a study's cells, and cells trained one after another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agecls.config import AgeStudyConfig
from finetune.errors import DataError, DivergedError, UsageError
from finetune.experiments.config import arms_of
from finetune.experiments.study.arms import build_arms
from finetune.experiments.study.cells import CellPlan
from finetune.experiments.study.runs import CellTrainer, cell_config, study_config
from finetune.training.config import FitConfig, HeadConfig, LossConfig, RunConfig, TrainConfig


def plan(word: str, folder: Path, *, seed: int = 3, factor: float = 1.0) -> CellPlan:
    """Return the plan of a listed loss."""
    return CellPlan(build_arms([word], controls=False)[-1], seed, factor, folder)


def test_a_cell_differs_from_the_study_in_loss_seed_rates_and_folder_alone(tmp_path):
    train = TrainConfig(lr=0.02, frozen_epochs=1, frozen_lr=0.5)
    loss = LossConfig(class_weights="inverse")
    config = FitConfig(train=train, loss=loss, run=RunConfig(dir=str(tmp_path)))
    own = cell_config(config, plan("crl:alpha=1", tmp_path / "cell", factor=1.25))
    assert (own.train.seed, own.train.lr, own.train.frozen_lr) == (3, 0.025, 0.625)
    assert (own.loss.name, own.loss.options["alpha"], own.loss.class_weights) == ("crl", 1.0, "inverse")
    assert (own.run.dir, own.run.resume, own.head) == (str(tmp_path / "cell"), "auto", config.head)
    assert cell_config(FitConfig(), plan("cel", tmp_path, factor=2.0)).train.frozen_lr is None


def test_a_margin_head_takes_the_place_of_the_linear_one(tmp_path):
    own = cell_config(FitConfig(head=HeadConfig(taps=("last",))), plan("cosface:margin=0.2", tmp_path))
    assert (own.head.name, own.head.taps, own.loss.name) == ("cosface", ("last",), "cel")
    assert own.head.options["margin"] == 0.2
    assert "scale" in own.head.options  # every option is told


def test_cells_are_numbered_over_the_whole_study_and_the_time_left_is_told(tmp_path, capsys, monkeypatch):
    arms, seeds = build_arms(["crl"], smoothing=0.0), range(2)
    plans = [
        CellPlan(arm, seed, 1.0, tmp_path / arm.name / f"seed-{seed}")
        for seed in seeds
        for arm in arms
        if not arm.matches
    ]
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr("finetune.experiments.study.runs.time.monotonic", lambda: next(clock))
    trained: list[Any] = []
    trainer = CellTrainer(arms, seeds, trained.append, finished=lambda one: one.arm.name == "focal")
    trainer(plans[2:])
    assert [(one.arm.name, one.seed) for one in trained] == [("cel", 1), ("crl", 1)]
    told = capsys.readouterr().out.splitlines()
    assert told == ["cell 4 of 8: cel, seed 1", "cell 5 of 8: crl, seed 1 (about 2 min left)"]  # 4 of 30 s


def test_a_diverged_cell_stays_unfinished_and_the_others_go_on(tmp_path, capsys):
    arms = build_arms(["crl", "focal"], controls=False)
    plans = [CellPlan(arm, 0, 1.0, tmp_path / arm.name / "seed-0") for arm in arms]
    trained: list[str] = []

    def train(one: CellPlan) -> None:
        if one.arm.name == "crl":
            (one.folder / "checkpoints").mkdir(parents=True)
            raise DivergedError("the loss is nan")
        trained.append(one.arm.name)

    CellTrainer(arms, [0], train, lambda one: one.arm.name in trained)(plans)
    assert trained == ["cel", "focal"]
    assert (tmp_path / "crl" / "seed-0" / "checkpoints").exists()
    told = capsys.readouterr().out
    assert "cell 2 of 3: crl, seed 0 diverged and stays unfinished" in told
    assert "the loss is nan" in told


def test_other_errors_end_a_study_and_so_does_one_in_which_all_diverged(tmp_path):
    arms = build_arms(["crl"], controls=False)
    plans = [CellPlan(arm, 0, 1.0, tmp_path / arm.name / "seed-0") for arm in arms]

    def fail_with(error: Exception) -> CellTrainer:
        def train(_: CellPlan) -> None:
            raise error

        return CellTrainer(arms, [0], train, lambda _: False)

    with pytest.raises(DataError, match="no image"):
        fail_with(DataError("no image"))(plans)
    with pytest.raises(DivergedError, match="every cell diverged"):
        fail_with(DivergedError("the loss is nan"))(plans)


def test_checkpoints_go_when_a_cell_is_finished_and_not_before(tmp_path):
    arms = build_arms(["cel"], controls=False)
    one = CellPlan(arms[0], 0, 1.0, tmp_path / "cel" / "seed-0")
    state = {"finished": False}

    def train(_: CellPlan) -> None:
        (one.folder / "fold0" / "checkpoints").mkdir(parents=True, exist_ok=True)
        (one.folder / "fold0" / "checkpoints" / "last.ckpt").touch()

    def train_to_the_end(_: CellPlan) -> None:
        train(one)
        state["finished"] = True

    CellTrainer(arms, [0], train, lambda _: state["finished"])([one])
    assert (one.folder / "fold0" / "checkpoints" / "last.ckpt").exists()
    CellTrainer(arms, [0], train_to_the_end, lambda _: state["finished"])([one])
    assert not (one.folder / "fold0" / "checkpoints").exists()


def test_a_study_does_not_run_under_torchrun(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        study_config(FitConfig(run=RunConfig(dir=str(tmp_path / "study"))))


def test_an_arm_may_have_own_rates_and_others_keep_the_studys(tmp_path):
    options = {"losses": ("crl",), "controls": False, "rates": {"crl": {"lr": 0.5, "epochs": 3}}}
    study = AgeStudyConfig(run=RunConfig(dir=str(tmp_path)), **options)
    cel, crl = (cell_config(study, CellPlan(arm, 1, 1.0, tmp_path)).train for arm in arms_of(study))
    assert (crl.lr, crl.epochs, crl.seed) == (0.5, 3, 1)
    assert replace(crl, lr=cel.lr, epochs=cel.epochs) == cel
    assert (cel.lr, cel.epochs) == (study.train.lr, study.train.epochs)
    half = cell_config(study, CellPlan(arms_of(study)[1], 1, 0.5, tmp_path))
    assert half.train.lr == 0.25
    refused = (({"crrl": {"lr": 1.0}}, "no arm is called 'crrl'"), ({"crl": {"seed": 1}}, "crl has seed"))
    for rates, told in refused:
        with pytest.raises(UsageError, match=told):
            AgeStudyConfig(**{**options, "rates": rates})
