"""Runs that are stopped, damaged, starved or changed, and resumed, end where an unbroken one does."""

from __future__ import annotations

import errno
import os
import threading
import time
from copy import copy
from dataclasses import replace
from pathlib import Path
from signal import SIGTERM
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import finetune.training.fit
from finetune.errors import DataError, InterruptedRunError, ModelFileError, ResourceError, UsageError
from finetune.images.manifest import Manifest
from finetune.models.heads.base import Hooks
from finetune.models.heads.linear import LinearHead
from finetune.runs.config_file import FREE_KEYS
from finetune.runs.folder import RunFolder
from finetune.training.checkpoint import CheckpointFolder
from finetune.training.config import to_dict
from finetune.training.data import TrainingData
from tests.finetune.quick import (
    QUICK,
    STEPS,
    break_off,
    disturb_loss,
    last,
    metrics,
    quick,
    task_of,
    train,
    trained_hash,
)

pytestmark = pytest.mark.usefixtures("one_thread")

# Everything that could make a resumed run differ: averages, soft targets, dropout, stages, warm-up.
RICH = quick(train_ema=0.9, train_mixup=0.2, train_frozen_epochs=1, train_epochs=3, model_drop_rate=0.2)


@pytest.fixture(scope="module")
def unbroken(
    task: TrainingData, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[dict[str, Any]]]:
    """The hash and the metrics of the rich run that nothing happens to."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("unbroken")
    return trained_hash(train(task, folder, RICH)), metrics(folder)


@pytest.mark.parametrize(
    ("call", "place"),
    [
        (STEPS + 3, "step 3 of epoch 2"),
        (1, "step 1 of epoch 1"),
        (STEPS, "epoch 1 is saved"),
        (3 * STEPS, "epoch 3 is saved"),
    ],
)
def test_a_run_stopped_anywhere_resumes_to_the_same_weights_and_metrics(
    task: TrainingData, tmp_path: Path, unbroken: tuple[str, list[dict[str, Any]]], call: int, place: str
):
    told = break_off(task, tmp_path, RICH, call)
    assert place in told
    assert "--run.resume auto" in told
    assert (trained_hash(train(task, tmp_path, RICH)), metrics(tmp_path)) == unbroken


def test_a_run_stopped_between_accumulated_batches_saves_after_the_optimiser_step(
    task: TrainingData, tmp_path: Path
):
    config = quick(train_accumulate=2, train_epochs=1)
    whole = trained_hash(train(task, tmp_path / "whole", config))
    assert "step 4 of epoch 1" in break_off(task, tmp_path / "cut", config, call=3)
    assert trained_hash(train(task, tmp_path / "cut", config)) == whole
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def test_a_finished_run_is_not_trained_again(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = trained_hash(train(task, tmp_path, QUICK))

    def never(call: int, loss: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        raise AssertionError("a finished run trained on")

    disturb_loss(monkeypatch, never)
    assert trained_hash(train(task, tmp_path, QUICK)) == first
    assert len(metrics(tmp_path)) == 2


def test_keys_called_free_change_no_weight(task: TrainingData, tmp_path: Path):
    config = quick(train_augment="standard")
    whole = trained_hash(train(task, tmp_path / "whole", config))
    break_off(task, tmp_path / "cut", config, call=3)
    other = replace(
        config, run=replace(config.run, workers=1, checkpoint_minutes=0.0001, cache="none", dir="x")
    )
    other = replace(other, device="auto" if not torch.cuda.is_available() else "cpu")
    old, new = to_dict(config), to_dict(other)
    changed = {f"run.{key}" for key in old["run"] if old["run"][key] != new["run"][key]}
    assert changed < set(FREE_KEYS)
    assert trained_hash(train(task, tmp_path / "cut", other)) == whole


def test_a_changed_configuration_is_shown_and_refused_until_it_is_allowed(task: TrainingData, tmp_path: Path):
    break_off(task, tmp_path, QUICK, call=STEPS)
    changed = quick(train_weight_decay=0.5, train_momentum=0.5)
    with pytest.raises(UsageError) as told:
        train(task, tmp_path, changed)
    assert "train.weight_decay: 0.0001 -> 0.5" in str(told.value)
    assert "--run.allow_change" in str(told.value)
    with pytest.raises(UsageError, match=r"train\.momentum"):
        train(task, tmp_path, changed, allow_change=["train.weight_decay"])
    fitted = train(task, tmp_path, changed, allow_change=["train.*"])
    groups = fitted.learner.optimizer.param_groups
    assert {group["weight_decay"] for group in groups} == {0.0, 0.5}, "the allowed change must take effect"
    assert {group["momentum"] for group in groups} == {0.5}


def test_a_changed_backbone_does_not_fit_the_checkpoint(task: TrainingData, tmp_path: Path):
    break_off(task, tmp_path, QUICK, call=STEPS)
    other = quick(model_backbone="test_vit")
    with pytest.raises(ModelFileError, match="does not fit this configuration"):
        train(task, tmp_path, other, allow_change=["model.backbone"])
    with pytest.raises(ModelFileError, match="another optimiser"):
        train(task, tmp_path, quick(train_optimizer="adamw"), allow_change=["*"])


def test_an_average_begun_at_a_resumption_starts_from_the_trained_weights(task: TrainingData, tmp_path: Path):
    break_off(task, tmp_path, QUICK, call=2 * STEPS)
    trained = last(tmp_path)["learner"]["model"]
    fitted = train(task, tmp_path, quick(train_ema=0.99), allow_change=["train.ema"])
    for name, value in fitted.model.state_dict().items():
        assert torch.equal(value, trained[name])


@pytest.mark.parametrize("damage", ["bit", "cut"])
def test_a_damaged_last_checkpoint_falls_back_to_the_previous_one(
    task: TrainingData,
    tmp_path: Path,
    unbroken: tuple[str, list[dict[str, Any]]],
    damage: str,
    capsys: pytest.CaptureFixture[str],
):
    break_off(task, tmp_path, RICH, call=2 * STEPS + 2)
    file = tmp_path / "checkpoints" / "last.ckpt"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data if damage == "bit" else data[: len(data) // 2])
    assert (trained_hash(train(task, tmp_path, RICH)), metrics(tmp_path)) == unbroken
    told = capsys.readouterr().out
    assert f"{file} is damaged" in told
    assert "previous.ckpt instead" in told


def test_without_any_whole_checkpoint_the_run_refuses_to_begin_again(task: TrainingData, tmp_path: Path):
    break_off(task, tmp_path, QUICK, call=STEPS + 2)
    for file in (tmp_path / "checkpoints").glob("*.ckpt"):
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match=r"last\.ckpt(.|\n)*previous\.ckpt"):
        train(task, tmp_path, QUICK)


@pytest.mark.parametrize(("full_at", "beside"), [(1, False), (2, False), (2, True)])
def test_a_full_disk_at_a_checkpoint_leaves_the_former_one_and_the_run_resumes(
    task: TrainingData, tmp_path: Path, unbroken: tuple[str, list[dict[str, Any]]], full_at: int, beside: bool
):
    calls, write = 0, torch.save

    def save(*given: Any) -> None:
        nonlocal calls
        calls += 1
        write(*given)
        if calls == 2 * full_at:  # each epoch here saves the best weights and then the state
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", save)
        patch.setattr("finetune.training.saver.writes_beside", lambda device: beside)
        with pytest.raises(ResourceError, match="disk full: need"):
            train(task, tmp_path, RICH)
    saved = CheckpointFolder(tmp_path / "checkpoints").load_latest()
    assert (saved is None) if full_at == 1 else (saved is not None and saved[0]["epoch"] == 1)
    told = metrics(tmp_path) if full_at > 1 else []
    assert len(told) == full_at - 1, "a row follows its checkpoint"
    assert (trained_hash(train(task, tmp_path, RICH)), metrics(tmp_path)) == unbroken
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_what_is_written_beside_the_training_is_its_state_of_then_and_whole_before_it_leaves(
    task: TrainingData,
    tmp_path: Path,
    unbroken: tuple[str, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
):
    write, threads = torch.save, set[str]()

    def slowly(*given: Any) -> None:
        time.sleep(0.05)  # some steps
        threads.add(threading.current_thread().name)
        write(*given)

    monkeypatch.setattr(torch, "save", slowly)
    monkeypatch.setattr("finetune.training.saver.writes_beside", lambda device: True)
    told = break_off(task, tmp_path, RICH, call=STEPS + 2)
    assert "everything up to step 2 of epoch 2 is saved" in told
    assert (last(tmp_path)["epoch"], last(tmp_path)["step"]) == (1, 2)
    assert (trained_hash(train(task, tmp_path, RICH)), metrics(tmp_path)) == unbroken
    assert threads == {"crl-save_0"}


def test_a_checkpoint_of_other_classes_or_another_split_is_refused(task: TrainingData, tmp_path: Path):
    break_off(task, tmp_path, QUICK, call=STEPS)
    manifest = task.manifest
    more = Manifest(manifest.root, (*manifest.class_names, "white"), manifest.columns)
    with pytest.raises(
        ModelFileError, match=r"last\.ckpt knows 3 classes, the data has 4:\n  only in the data: white"
    ):
        train(replace(task, manifest=more), tmp_path, QUICK)
    with pytest.raises(DataError, match=r"the data changed since .*last\.ckpt was written \(split:"):
        train(replace(task, split_hash="another"), tmp_path, QUICK)


def test_changed_labels_or_pictures_are_refused_when_a_run_goes_on(task: TrainingData, tmp_path: Path):
    break_off(task, tmp_path, QUICK, call=STEPS)
    relabelled = task.manifest.with_column("label", (task.manifest.label + 1) % 3)
    with pytest.raises(DataError, match=r"\(manifest:"):
        train(replace(task, manifest=relabelled), tmp_path, QUICK)
    other_bytes = copy(task.source)
    other_bytes.content = "other bytes"
    with pytest.raises(DataError, match=r"\(pictures:"):
        train(replace(task, source=other_bytes), tmp_path, QUICK)
    train(task, tmp_path, QUICK)


def test_damaged_best_weights_cost_the_choice_and_not_the_run(
    task: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = replace(QUICK, train=replace(QUICK.train, select="best"))
    train(task, tmp_path, config)
    best = tmp_path / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:1000])
    fitted = train(task, tmp_path, config)
    assert "best.ckpt is damaged" in capsys.readouterr().out
    assert fitted.facts["selected"] == "last, for the best were damaged"


def test_a_disk_too_small_for_the_checkpoints_is_told_before_the_first_epoch(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("finetune.runs.files.free_bytes", lambda folder: 10**6)
    with pytest.raises(ResourceError, match="disk full: need"):
        train(task, tmp_path, QUICK)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_new_run_that_is_refused_leaves_no_claim_on_its_folder(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("finetune.training.fit.build_learner", refuse)
    with pytest.raises(ModelFileError, match="no such weights"):
        train(task, tmp_path / "run", QUICK)
    assert {entry.name for entry in (tmp_path / "run").iterdir()} <= {".lock"}
    monkeypatch.undo()
    train(task, tmp_path / "run", replace(QUICK, train=replace(QUICK.train, lr=0.02)))


def refuse(*_: object, **__: object) -> None:
    raise ModelFileError("no such weights")


def test_resuming_with_other_versions_or_processes_says_that_exactness_is_lost(
    task: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    break_off(task, tmp_path, QUICK, call=STEPS)
    assert "bit-exact" not in capsys.readouterr().out
    monkeypatch.setattr("finetune.training.failures.versions", lambda: {"torch": "9.9"})
    train(task, tmp_path, QUICK)
    told = capsys.readouterr().out
    assert "-> 9.9" in told
    assert "no longer bit-exact" in told


def test_two_runs_of_one_folder_exclude_each_other(task: TrainingData, tmp_path: Path):
    with (
        RunFolder.open(tmp_path, to_dict(QUICK), resume="auto"),
        pytest.raises(UsageError, match=f"being written by process {os.getpid()}"),
    ):
        train(task, tmp_path, QUICK)
    train(task, tmp_path, quick(train_epochs=2))


def test_a_clock_that_jumps_changes_neither_rates_nor_weights(
    task: TrainingData,
    tmp_path: Path,
    unbroken: tuple[str, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
):
    dice = np.random.default_rng(0)
    monkeypatch.setattr(time, "time", lambda: float(dice.uniform(-1e9, 4e9)))
    monkeypatch.setattr(time, "monotonic", lambda: float(dice.uniform(0, 1e6)))
    fitted = train(task, tmp_path, RICH)
    monkeypatch.undo()
    assert (trained_hash(fitted), metrics(tmp_path)) == unbroken


def test_a_frozen_stage_with_values_of_its_own_resumes_bit_for_bit(task: TrainingData, tmp_path: Path):
    config = quick(
        train_epochs=4,
        train_frozen_epochs=2,
        train_frozen_lr=0.5,
        train_frozen_weight_decay=0.2,
        train_frozen_schedule="step",
        train_schedule="step",
        train_milestones=(1, 3),
        train_weight_decay=0.01,
    )
    whole = train(task, tmp_path / "whole", config)
    assert {group["weight_decay"] for group in whole.learner.optimizer.param_groups} == {0.0, 0.01}
    rows = metrics(tmp_path / "whole")
    assert [row["lr_head"] for row in rows] == pytest.approx([0.5, 0.05, 0.02, 0.002])
    for number, call in enumerate((STEPS + 2, 2 * STEPS)):
        folder = tmp_path / str(number)
        break_off(task, folder, config, call)
        assert trained_hash(train(task, folder, config)) == trained_hash(whole)
    other = train(
        task, tmp_path / "other", replace(config, train=replace(config.train, frozen_weight_decay=None))
    )
    assert trained_hash(other) != trained_hash(whole)


def test_a_head_prepares_once_and_never_at_a_resumption(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    prepared = []
    hooks = Hooks(prepare=lambda model, pictures: prepared.append(sum(len(target) for _, target in pictures)))
    monkeypatch.setattr(LinearHead, "hooks", lambda self: hooks)
    break_off(task, tmp_path, QUICK, call=2)
    train(task, tmp_path, QUICK)
    assert prepared == [len(task.train)]


@pytest.mark.usefixtures("as_in_a_terminal")
def test_a_signal_is_heard_where_no_epoch_is_left(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    task = task_of(pictures)
    weights = trained_hash(train(task, tmp_path, QUICK))
    with monkeypatch.context() as patch:
        patch.setattr(finetune.training.fit, "check_free_space", lambda *_: os.kill(os.getpid(), SIGTERM))
        with pytest.raises(InterruptedRunError, match="all that was trained is saved"):
            train(task, tmp_path, QUICK)
    assert trained_hash(train(task, tmp_path, QUICK)) == weights
