"""Whole runs: what they refuse, what they learn, which weights they return and what they tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import finetune.training.loop
from finetune.errors import DataError, DivergedError, ResourceError, UsageError
from finetune.training.checkpoint import CheckpointFolder, weights_hash
from finetune.training.data import TrainingData, plain_scores
from finetune.training.fit import Fitted
from finetune.training.learner import build_learner
from finetune.training.optimization.distributed import World
from finetune.training.optimization.optim import Ema
from finetune.training.predict import predict
from tests.finetune.quick import (
    QUICK,
    STEPS,
    all_finite,
    at_call,
    break_off,
    disturb_loss,
    last,
    metrics,
    quick,
    train,
    trained_hash,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_loss_that_becomes_nan_names_step_rate_and_files_and_spoils_no_checkpoint(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    disturb_loss(monkeypatch, lambda call, loss, *_: loss * float("nan") if call == STEPS + 3 else loss)
    with pytest.raises(
        DataError, match=r"the loss is nan at step 3 of epoch 2 \(learning rate 0.0\d+\)"
    ) as told:
        train(task, tmp_path, quick(run_checkpoint_minutes=1e-9))
    named = [name for name in task.manifest["path"] if f" {name}" in str(told.value)]
    assert len(named) == 8
    assert "--train.lr" in str(told.value)
    checkpoints = CheckpointFolder(tmp_path / "checkpoints")
    assert (last(tmp_path)["epoch"], last(tmp_path)["step"]) == (1, 2)
    assert all_finite(last(tmp_path)["learner"]["model"])
    assert all_finite(checkpoints.load_best()["model"])


def test_a_loss_seen_late_on_an_accelerator_spoils_no_checkpoint_either(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    watch = finetune.training.loop.LossWatch
    monkeypatch.setattr(finetune.training.loop, "LossWatch", lambda every, epoch: watch(20, epoch))
    disturb_loss(monkeypatch, lambda call, loss, *_: loss * float("inf") if call == STEPS + 2 else loss)
    with pytest.raises(DataError, match="the loss is inf at step 2 of epoch 2"):
        train(task, tmp_path, quick(run_checkpoint_minutes=1e-9))
    assert (last(tmp_path)["epoch"], last(tmp_path)["step"]) == (1, 1)
    assert all_finite(last(tmp_path)["learner"]["model"])


@pytest.mark.parametrize("call", [2 * STEPS, 2 * STEPS - 2])
def test_a_gradient_that_overflows_behind_a_finite_loss_spoils_no_checkpoint(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
):
    def overflow(number: int, loss: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        return loss + (logits.sum() * 0).sqrt() if number == call else loss

    disturb_loss(monkeypatch, overflow)
    with pytest.raises(DivergedError, match=f"no longer finite after step {call - STEPS} of epoch 2"):
        train(task, tmp_path, quick(run_checkpoint_minutes=1e-9))
    assert all_finite(last(tmp_path)["learner"]["model"])
    assert last(tmp_path)["epoch"] == 1


def test_out_of_memory_names_the_batch_size_and_two_remedies(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def exhaust() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    disturb_loss(monkeypatch, at_call(2, exhaust))
    with pytest.raises(ResourceError) as told:
        train(task, tmp_path, QUICK)
    assert told.value.exit_code == 5
    for part in ("--train.batch_size 8", "halve the batch size", "--model.image_size", "32 px"):
        assert part in str(told.value)
    assert "--run.workers" not in str(told.value), "no images stay on a GPU with workers by number"
    disturb_loss(monkeypatch, at_call(2, exhaust))
    with pytest.raises(ResourceError, match=r"--run\.workers 0: then no images stay on the GPU"):
        train(task, tmp_path / "kept", quick(run_workers=-1))


def test_a_fault_of_our_own_keeps_its_traceback(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail() -> None:
        raise RuntimeError("shapes cannot be multiplied")

    disturb_loss(monkeypatch, at_call(2, fail))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(task, tmp_path, QUICK)


def few(task: TrainingData, rows: int) -> TrainingData:
    """Return the task with its first training rows alone."""
    return replace(task, train=task.train[:rows])


def test_one_picture_at_a_time_is_refused_with_batch_norm_and_fine_without(
    task: TrainingData, tmp_path: Path
):
    with pytest.raises(UsageError, match="batch_size 2 or more"):
        train(task, tmp_path / "norm", quick(train_batch_size=1))
    train(
        few(task, 3), tmp_path / "none", quick(train_batch_size=1, model_backbone="test_vit", train_epochs=1)
    )
    assert metrics(tmp_path / "none")[0]["step"] == 3


def test_a_last_batch_of_one_is_left_out_and_a_small_set_is_one_batch(task: TrainingData, tmp_path: Path):
    train(few(task, 9), tmp_path / "nine", quick(train_epochs=1))
    assert metrics(tmp_path / "nine")[0]["step"] == 1
    train(few(task, 5), tmp_path / "five", quick(train_epochs=2, train_batch_size=64))
    assert [row["step"] for row in metrics(tmp_path / "five")] == [1, 2]


def test_gradients_left_at_the_end_of_an_epoch_are_spent(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    spent, spend = [], finetune.training.loop.spend_gradients
    monkeypatch.setattr(
        finetune.training.loop, "spend_gradients", lambda learner: (spent.append(1), spend(learner))
    )
    train(task, tmp_path, quick(train_accumulate=2, train_epochs=1))
    assert len(spent) == 3


@pytest.mark.parametrize(
    ("rows", "large", "accumulate"),
    [(48, 16, 2), (40, 40, 8)],  # in the second the epoch ends before the eight batches are there
)
def test_accumulated_batches_equal_one_large_batch_without_batch_norm(
    task: TrainingData, tmp_path: Path, rows: int, large: int, accumulate: int
):
    task = replace(task, train=np.arange(rows), val=np.arange(48, 60))
    options = {"model_backbone": "test_vit", "train_schedule": "constant", "train_epochs": 1}
    config = quick(train_lr=0.005, **options)
    one = replace(config, train=replace(config.train, batch_size=large))
    many = replace(config, train=replace(config.train, batch_size=8, accumulate=accumulate))
    whole = train(task, tmp_path / "one", one).model.state_dict()
    parts = train(task, tmp_path / "many", many).model.state_dict()
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 1e-6
    first, second = metrics(tmp_path / "one")[0], metrics(tmp_path / "many")[0]
    assert first["train_loss"] == pytest.approx(second["train_loss"], abs=1e-5)


def test_one_class_alone_is_refused_with_the_counts(task: TrainingData, tmp_path: Path):
    single = replace(task, train=task.train[task.manifest.label[task.train] == 1])
    with pytest.raises(DataError, match=r"two classes with images.*'r': 0, 'g': 15, 'b': 0"):
        train(single, tmp_path, QUICK)
    with pytest.raises(DataError, match="two classes"):
        train(few(task, 0), tmp_path, QUICK)


def test_a_class_missing_in_validation_keeps_its_index_and_counts_for_nothing(
    task: TrainingData, tmp_path: Path
):
    part = task.val[task.manifest.label[task.val] != 1]
    found = []

    def scorer(probs: np.ndarray, target: np.ndarray) -> dict[str, float]:
        found.append((probs, target))
        return plain_scores(probs, target)

    train(replace(task, val=part, scorer=scorer), tmp_path, quick(train_epochs=1))
    probs, target = found[0]
    assert probs.shape == (len(part), 3)
    assert set(target.tolist()) == {0, 2}
    recalls = [float((probs[target == c].argmax(1) == c).mean()) for c in (0, 2)]
    assert metrics(tmp_path)[0]["val_balanced_accuracy"] == pytest.approx(sum(recalls) / 2)


def test_a_frozen_backbone_changes_in_no_bit_and_the_head_learns(task: TrainingData, tmp_path: Path):
    config = quick(train_frozen_epochs=1, train_epochs=1, model_drop_rate=0.5)
    before = build_learner(task, config, World()).core.state_dict()
    after = train(task, tmp_path, config).model.state_dict()
    backbone = [name for name in before if name.startswith("backbone.")]
    assert any("running_mean" in name for name in backbone)
    assert all(torch.equal(before[name], after[name]) for name in backbone)
    assert not torch.equal(before["head.classifier.weight"], after["head.classifier.weight"])
    assert metrics(tmp_path)[0]["stage"] == "head"


def test_the_average_is_what_is_validated_and_returned(task: TrainingData, tmp_path: Path):
    found: list[np.ndarray] = []

    def scorer(probs: np.ndarray, target: np.ndarray) -> dict[str, float]:
        found.append(probs)
        return plain_scores(probs, target)

    config = quick(train_ema=0.9)
    watched = replace(task, scorer=scorer)
    fitted = train(watched, tmp_path, config)
    assert isinstance(fitted.learner.ema, Ema)
    state, raw = fitted.model.state_dict(), last(tmp_path)["learner"]["model"]
    assert all(torch.equal(state[name], value) for name, value in fitted.learner.ema.values.items())
    assert any(not torch.equal(state[name], raw[name]) for name in state)
    np.testing.assert_array_equal(predict(fitted.learner, task, task.val, config)["probs"], found[-1])


def scripted(task: TrainingData, accuracies: list[float]) -> TrainingData:
    """Return the task whose validation gives these accuracies, epoch by epoch."""
    remaining = iter(accuracies)
    return replace(
        task,
        scorer=lambda probs, target: {"accuracy": next(remaining)} if len(target) > 1 else {"accuracy": 0},
    )


PATIENT = quick(train_epochs=9, train_patience=2, train_select="best")
COURSE = [0.3, 0.6, 0.6, 0.5, 0.9]


def state_of(fitted: Fitted) -> dict[str, Tensor]:
    return fitted.model.state_dict()


def test_training_stops_when_nothing_improves_and_the_best_weights_come_back(
    task: TrainingData, tmp_path: Path
):
    fitted = train(scripted(task, COURSE), tmp_path, PATIENT)
    facts = fitted.facts
    assert (facts["best_epoch"], facts["best_validation"], facts["epochs_run"]) == (2, 0.6, 4)
    assert len(metrics(tmp_path)) == 4
    best = CheckpointFolder(tmp_path / "checkpoints").load_best()
    assert best["epoch"] == 1
    assert all(torch.equal(best["model"][name], value) for name, value in state_of(fitted).items())
    assert any(not torch.equal(last(tmp_path)["learner"]["model"][n], v) for n, v in state_of(fitted).items())


def test_the_weights_that_are_not_selected_are_given_beside_those_that_are(
    task: TrainingData, tmp_path: Path
):
    config = quick(train_epochs=3, train_ema=0.9)
    chosen = train(scripted(task, [0.3, 0.6, 0.5]), tmp_path / "last", config)
    assert chosen.facts["selected"] == "last"
    assert list(chosen.others) == ["best"]
    config = replace(config, train=replace(config.train, select="best"))
    other = train(scripted(task, [0.3, 0.6, 0.5]), tmp_path / "best", config)
    assert other.facts["selected"] == "best"
    assert list(other.others) == ["last"]
    assert weights_hash(other.others["last"]) == trained_hash(chosen)
    assert weights_hash(chosen.others["best"]) == trained_hash(other) != trained_hash(chosen)
    blind = train(replace(task, val=task.val[:0]), tmp_path / "blind", quick(train_epochs=1))
    assert blind.others == {}


def test_damaged_best_weights_are_told_and_not_given(
    task: TrainingData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    train(task, tmp_path, QUICK)
    best = tmp_path / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:1000])
    fitted = train(task, tmp_path, QUICK)
    assert (fitted.facts["selected"], fitted.others) == ("last", {})
    assert "weights are kept without the best ones" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("accuracies", "run", "best"),
    [
        ([0.9, 0.8, 0.7, 0.1, 0.2, 0.3, 0.4], 7, 0),  # below the frozen best, and better all the same
        ([0.9, 0.8, 0.7, 0.1, 0.1, 0.1, 0.4], 6, 0),
        ([0.9, 0.8, 0.7, 0.1, 0.95, 0.2, 0.3], 7, 4),
    ],
)
def test_patience_begins_with_the_last_stage(
    task: TrainingData, tmp_path: Path, accuracies: list[float], run: int, best: int
):
    config = quick(train_epochs=7, train_frozen_epochs=3, train_patience=2, train_select="best")
    facts = train(scripted(task, accuracies), tmp_path, config).facts
    assert (facts["epochs_run"], facts["best_epoch"]) == (run, best + 1)
    assert facts["best_validation"] == accuracies[best]


def test_frozen_epochs_alone_have_patience_too(task: TrainingData, tmp_path: Path):
    config = replace(PATIENT, train=replace(PATIENT.train, frozen_epochs=9))
    assert train(scripted(task, COURSE), tmp_path, config).facts["epochs_run"] == 4


def test_a_run_that_stopped_early_stays_stopped_when_it_is_resumed(task: TrainingData, tmp_path: Path):
    first = trained_hash(train(scripted(task, COURSE), tmp_path, PATIENT))
    again = train(scripted(task, COURSE[4:]), tmp_path, PATIENT)
    assert (trained_hash(again), again.facts["epochs_run"]) == (first, 4)
    assert len(metrics(tmp_path)) == 4


def test_choosing_by_validation_without_validation_images_is_refused_before_training(
    task: TrainingData, tmp_path: Path
):
    blind = replace(task, val=task.val[:0])
    for number, config in enumerate((quick(train_select="best"), quick(train_patience=1))):
        with pytest.raises(UsageError, match="need validation images"):
            train(blind, tmp_path / str(number), config)
    with pytest.raises(UsageError, match="one_off: this task is scored by accuracy, balanced_accuracy"):
        train(task, tmp_path / "monitor", quick(train_select="best", train_monitor="one_off"))
    train(blind, tmp_path / "blind", quick(train_epochs=1))
    assert not [name for name in metrics(tmp_path / "blind")[0] if name.startswith("val_")]


def test_an_untrained_network_can_be_tested(task: TrainingData, tmp_path: Path):
    config = quick(train_epochs=0)
    before = build_learner(task, config, World()).core.state_dict()
    fitted = train(task, tmp_path, config)
    assert all(torch.equal(before[name], value) for name, value in state_of(fitted).items())
    assert fitted.facts["epochs_run"] == 0


def test_metrics_tell_epoch_step_stage_rate_and_scores(task: TrainingData, tmp_path: Path):
    train(task, tmp_path, quick(train_schedule="step", train_milestones=(1,), train_head_lr_multiplier=5.0))
    rows = metrics(tmp_path)
    assert [(row["epoch"], row["step"], row["stage"]) for row in rows] == [(1, 5, "all"), (2, 10, "all")]
    assert [row["lr_backbone"] for row in rows] == pytest.approx([0.02, 0.002])
    assert [row["lr_head"] for row in rows] == pytest.approx([0.1, 0.01])
    assert set(rows[0]) == {
        *(
            "epoch",
            "step",
            "stage",
            "lr_backbone",
            "lr_head",
            "train_loss",
            "train_accuracy",
            "train_gradient_factor",
            "train_gradient_ratio",
            "train_grad",
            "train_grad_ce",
            "val_accuracy",
            "val_balanced_accuracy",
        )
    }


def test_a_compiled_model_learns_the_same(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compiled, compile_module = [], torch.nn.Module.compile

    def trace_only(module: torch.nn.Module) -> None:
        compiled.append(module)
        compile_module(module, backend="eager")  # the graph alone: generating C++ takes most of a minute

    monkeypatch.setattr(torch.nn.Module, "compile", trace_only)
    config = quick(train_epochs=2, train_frozen_epochs=1)
    plain = train(task, tmp_path / "plain", config).model.state_dict()
    fitted = train(task, tmp_path / "compiled", replace(config, run=replace(config.run, compile=True)))
    assert compiled == [fitted.model] * 2, "once for each stage"
    assert plain.keys() == fitted.model.state_dict().keys()
    for name, value in plain.items():
        torch.testing.assert_close(fitted.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("asked", ["auto", True])
def test_a_step_that_cannot_be_compiled_is_trained_as_it_is_unless_asked_for(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, asked: bool | str
):
    tried: list[torch.nn.Module] = []

    def compile_in_vain(module: torch.nn.Module) -> None:
        def broken(*_: Any) -> None:
            tried.append(module)
            raise FileNotFoundError("gcc: not found")

        module._compiled_call_impl = broken

    monkeypatch.setattr(torch.nn.Module, "compile", compile_in_vain)
    monkeypatch.setattr("finetune.training.fit.compiles", lambda wish, *_: wish is not False)  # as on a GPU
    config = quick(train_epochs=2, train_frozen_epochs=1, train_augment="flip", run_compile=asked)
    if asked is True:
        with pytest.raises(ResourceError, match=r"cannot be compiled: .*gcc: not found.*--run.compile auto"):
            train(task, tmp_path / "compiled", config)
        return
    plain = trained_hash(
        train(task, tmp_path / "plain", replace(config, run=replace(config.run, compile=False)))
    )
    capsys.readouterr()
    fitted = train(task, tmp_path / "compiled", config)
    assert trained_hash(fitted) == plain
    assert capsys.readouterr().out.count("the training step is not compiled: ") == 1
    assert len(tried) == 1, "it is not tried again in the next stage"
    assert last(tmp_path / "compiled")["compiled"] is False
    assert "compiled" not in fitted.facts


def test_a_resumed_run_is_compiled_as_it_began(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = quick(train_epochs=1)
    break_off(task, tmp_path, config, STEPS - 2)
    monkeypatch.setattr("finetune.training.fit.compiles", lambda *_: True)  # moved to a GPU, say
    monkeypatch.setattr(torch.nn.Module, "compile", lambda _: pytest.fail("it began without"))
    assert "compiled" not in train(task, tmp_path, config).facts


def test_a_run_resumed_inside_a_stage_stays_compiled_whatever_its_steps_take_now(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: plain(module, backend="eager"))
    monkeypatch.setattr("finetune.training.fit.compiles", lambda *_: True)  # as on a GPU
    pays = "finetune.training.optimization.rehearsal.compiling_pays"
    monkeypatch.setattr(pays, lambda *_: True)
    config = quick(train_epochs=1, run_compile="auto")
    break_off(task, tmp_path, config, STEPS - 2)
    assert last(tmp_path)["compiled"] is True
    monkeypatch.setattr(pays, lambda *_: pytest.fail("timed again"))
    assert train(task, tmp_path, config).facts["compiled"] is True
    assert "no longer bit-exact" not in capsys.readouterr().out
