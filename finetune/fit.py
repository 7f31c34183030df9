"""A task and a configuration -> a trained model in a run folder, through kills and back."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from finetune.atomic import check_free_space
from finetune.augment import build_augment
from finetune.batches import EvalBatches, TrainBatches
from finetune.bundle import check_class_names
from finetune.checkpoint import CheckpointFolder, state_bytes
from finetune.config import FitConfig
from finetune.console import Progress as Bar
from finetune.console import progress, say
from finetune.distributed import World, all_true, any_true, barrier, gather_rows, wrap_model
from finetune.errors import DataError, InterruptedRunError, ModelFileError
from finetune.failures import check_batch_norm, check_finite_weights, resume_line, told_failures
from finetune.interrupts import StopRequest
from finetune.learner import Learner, build_learner
from finetune.loop import Totals, train_one_epoch
from finetune.model import Classifier
from finetune.prediction import evaluate_batches, row_batches, worker_count
from finetune.run_folder import RunFolder, versions
from finetune.task import Task, check_task


@dataclass
class Progress:
    """How far a run has come: what a checkpoint holds beside the learner's own state."""

    epoch: int = 0
    step: int = 0
    totals: Totals | None = None
    best: float | None = None
    best_epoch: int = -1
    seconds: float = 0.0

    def state(self, world: World) -> dict[str, Any]:
        """Return it as plain values and tensors, with a row of totals per process; all must call this."""
        totals = self.totals
        rows = None if totals is None else gather_rows({"sums": totals.sums[None].cpu()}, world)["sums"]
        return {**self.__dict__, "totals": rows}

    @classmethod
    def restored(cls, state: dict[str, Any], device: torch.device, world: World) -> Progress:
        """Return what `state` held, with this process's totals on the device.

        Among another number of processes the first one takes the totals of all.
        """
        rows = state["totals"]
        if rows is None:
            return cls(**state)
        own = rows[world.rank] if len(rows) == world.size else rows.sum(0) * world.is_main
        return cls(**{**state, "totals": Totals(own.to(device))})


@dataclass
class Fitted:
    """A trained model, ready to be evaluated, and what its run should tell."""

    model: Classifier
    learner: Learner
    facts: dict[str, Any] = field(default_factory=dict)


def fit(task: Task, config: FitConfig, folder: RunFolder, world: World) -> Fitted:
    """Train until the last epoch (or the last one worth training) and return the chosen weights' model.

    Starts from the newest good checkpoint of the folder where there is one. Raises InterruptedRunError after
    a signal, with everything saved and the command to go on with; DataError for a loss that is not finite,
    naming step, rate and files; ResourceError when memory runs out, naming the batch size and two remedies.
    """
    check_task(task, config, world)
    checkpoints = CheckpointFolder(folder.path / "checkpoints")
    if world.is_main:
        checkpoints.clean()
    saved = checkpoints.load_latest()
    learner = build_learner(task, config, world, from_checkpoint=saved is not None)
    run = FitRun(task, config, folder, world, learner, checkpoints)
    with told_failures(task, config), StopRequest() as stop:
        run.start(saved)
        run.train(stop)
    return run.finish()


@dataclass
class FitRun:
    """One call of `fit`: its parts, its progress, and how they are saved."""

    task: Task
    config: FitConfig
    folder: RunFolder
    world: World
    learner: Learner
    checkpoints: CheckpointFolder
    progress: Progress = field(default_factory=Progress)
    entered: bool = False

    @cached_property
    def train_batches(self) -> TrainBatches:
        """The training rows; made once, so that worker processes live as long as the run."""
        train = self.config.train
        return TrainBatches(
            self.task.source,
            self.task.manifest.label,
            self.task.train,
            augment=build_augment(train.augment, self.task.spec),
            batch_size=train.batch_size,
            seed=train.seed,
            workers=worker_count(self.config.run.workers),
            rank=self.world.rank,
            world_size=self.world.size,
        )

    @cached_property
    def val_batches(self) -> EvalBatches:
        """The validation rows, made once too."""
        return row_batches(self.learner, self.task, self.task.val, self.config)

    def train(self, stop: StopRequest) -> None:
        """Go through the remaining epochs: train, validate, record, save; stop when nothing improves."""
        batches, epochs = self.train_batches, self.config.train.epochs
        saver = Saver(self, stop)
        for epoch in range(self.progress.epoch, epochs):
            if self._nothing_improves():
                train = self.config.train
                say(f"no better {train.monitor} for {train.patience} epochs: stopping")
                break
            self._enter_stage(epoch)
            saver.epoch = epoch
            images = batches.steps_per_epoch * batches.batch_size
            done = self.progress.step * batches.batch_size
            with progress(images, f"epoch {epoch + 1}/{epochs}", done=done) as saver.bar:
                totals = train_one_epoch(
                    self.learner,
                    batches,
                    epoch,
                    start_step=self.progress.step,
                    totals=self.progress.totals,
                    after_step=saver,
                )
            if saver.left_early:
                where = f"step {self.progress.step} of epoch {epoch + 1}"
                raise InterruptedRunError(f"stopped, everything up to {where} is saved; {resume_line()}")
            self._close_epoch(epoch, totals, saver)
            if any_true(stop.requested, self.world):
                raise InterruptedRunError(f"stopped, epoch {epoch + 1} is saved; {resume_line()}")

    def start(self, saved: tuple[dict[str, Any], Path] | None) -> None:
        """Begin with a checkpoint's state, or at the first step with what the head wants prepared."""
        if saved is not None:
            self._restore(*saved)
        elif self.learner.recipe.hooks.prepare is not None:
            self.learner.recipe.hooks.prepare(self.learner.core, self.train_batches)
        if self.world.is_main:  # last, previous, best and the one being written, and the finished model
            check_free_space(self.folder.path, 5 * state_bytes(self.learner.state()))
        self.folder.truncate_metrics(self.progress.epoch)

    def _restore(self, state: dict[str, Any], file: Path) -> None:
        """Put a checkpoint's state back, after checking that it is this task's."""
        check_class_names(state["class_names"], self.task.manifest.class_names, file)
        changed = [name for name, value in self.task.identity.items() if state["task"].get(name) != value]
        if changed:
            raise DataError(
                f"the data changed since {file} was written ({', '.join(changed)}: other images, labels, "
                "people or split): restore the data, or start anew with another --run.dir"
            )
        for reason in inexact_reasons(state, self.learner):
            say(f"{reason}: the resumed run is statistically equivalent, no longer bit-exact")
        try:
            self.learner.load_state(state["learner"])
        except (ValueError, KeyError, RuntimeError) as error:
            raise ModelFileError(f"{file} does not fit this configuration: {error}") from error
        self.progress = Progress.restored(state["progress"], self.learner.precision.device, self.world)
        say(f"resuming from {file}: epoch {self.progress.epoch + 1}, step {self.progress.step}")

    def save(self) -> None:
        """Write the checkpoint to go on from; every process must call this, the first one writes."""
        progress = self.progress.state(self.world)
        if not self.world.is_main:
            return
        state = {
            "learner": self.learner.state(),
            "progress": progress,
            "class_names": list(self.task.manifest.class_names),
            "task": self.task.identity,
            "world_size": self.world.size,
            "versions": versions(),
            "device": f"{self.learner.precision.device_name}, {self.learner.precision.dtype_name}",
        }
        self.checkpoints.save(state, epoch=self.progress.epoch, step=self.progress.step)

    def finish(self) -> Fitted:
        """Return the model with the weights that the configuration selects, and the run's facts."""
        selected = "last"
        if self.config.train.select == "best":
            barrier(self.world)  # the first process may still be writing it
            selected = self._take_best()
        if selected != "best" and self.learner.ema:
            self.learner.ema.copy_to(self.learner.core)
        facts = {
            "selected": selected,
            "minutes": round(self.progress.seconds / 60, 3),
            "best_validation": self.progress.best,
            "best_epoch": self.progress.best_epoch if self.progress.best is not None else None,
            "epochs_run": self.progress.epoch,
        }
        return Fitted(self.learner.core.eval(), self.learner, facts)

    def _take_best(self) -> str:
        """Load the best weights; where their file is damaged, say so and keep the last ones."""
        try:
            self.learner.core.load_state_dict(self.checkpoints.load_best()["model"])
        except ModelFileError as error:
            say(f"notice: {error}\n        the last epoch's weights are tested instead of the best ones")
            return "last, for the best were damaged"
        return "best"

    def _enter_stage(self, epoch: int) -> None:
        """Freeze and free parameters; the wrapper is made anew, for it watches the free ones only."""
        learner = self.learner
        learner.recipe.enter(learner.core, epoch)
        if learner.recipe.starts_stage(epoch) or not self.entered:
            self.entered = True
            learner.model = wrap_model(learner.core, self.world, learner.precision.device)
            if self.config.run.compile:
                learner.model.compile()

    def _close_epoch(self, epoch: int, totals: Totals, saver: Saver) -> None:
        check_finite_weights(self.learner.core, epoch, self.train_batches.steps_per_epoch)
        scores = self._validate()
        self.progress.seconds += saver.lap()
        row = {
            "epoch": epoch,
            "step": (epoch + 1) * self.train_batches.steps_per_epoch,
            "stage": self.learner.recipe.stage_at(epoch).name,
            "lr": max(group["lr"] for group in self.learner.optimizer.param_groups),
            **totals.means(self.world),
            **{f"val_{name}": value for name, value in scores.items()},
        }
        self._keep_best(epoch, scores.get(self.config.train.monitor))
        self.folder.append_metrics({**row, "seconds": round(self.progress.seconds, 2)})
        self.progress.epoch, self.progress.step, self.progress.totals = epoch + 1, 0, None
        self.save()
        told = [f"{name} {value:.4f}" for name, value in row.items() if name.startswith(("train_", "val_"))]
        say(f"epoch {epoch + 1}/{self.config.train.epochs}  {'  '.join(told)}")

    def _validate(self) -> dict[str, float]:
        if len(self.task.val) == 0:
            return {}
        with self.learner.averaged():
            found = evaluate_batches(self.learner, self.val_batches)
        return self.task.scorer(found["probs"], found["target"])

    def _keep_best(self, epoch: int, metric: float | None) -> None:
        if metric is None or (self.progress.best is not None and metric <= self.progress.best):
            return
        self.progress.best, self.progress.best_epoch = float(metric), epoch
        if self.world.is_main:
            with self.learner.averaged():
                self.checkpoints.save_best({"model": self.learner.core.state_dict(), "epoch": epoch})

    def _nothing_improves(self) -> bool:
        patience, progress = self.config.train.patience, self.progress
        return bool(patience) and progress.epoch - 1 - progress.best_epoch >= patience


def inexact_reasons(state: dict[str, Any], learner: Learner) -> list[str]:
    """Return why a resumed run may differ in its last bits from an unbroken one; empty when it cannot."""
    world, device = learner.world, f"{learner.precision.device_name}, {learner.precision.dtype_name}"
    now, before = versions(), state["versions"]
    changed = [f"{name} {before.get(name)} -> {now[name]}" for name in now if now[name] != before.get(name)]
    reasons = {
        f"{world.size} processes instead of {state['world_size']}": state["world_size"] != world.size,
        f"other versions ({', '.join(changed)})": bool(changed),
        f"on {device} instead of {state['device']}": state["device"] != device,
        "run.deterministic is off": not learner.config.run.deterministic,
    }
    return [reason for reason, holds in reasons.items() if holds]


class Saver:
    """Called after every optimiser step: moves the bar, saves when it is time, and stops when asked to."""

    def __init__(self, run: FitRun, stop: StopRequest) -> None:
        check_batch_norm(run.learner.core, run.train_batches.batch_size // run.world.size)
        self.run, self.stop = run, stop
        self.bar: Bar | None = None
        self.epoch = 0
        self.left_early = False
        self.last_save = self.last_lap = time.monotonic()
        self.ask_every, self.calls = 1 if run.world.size == 1 else 10, 0

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        now = time.monotonic()
        seconds, self.last_lap = now - self.last_lap, now
        return seconds

    def __call__(self, step: int, totals: Totals) -> bool:
        """Return whether to leave the epoch here, after saving; `step` counts the epoch's finished steps."""
        run, steps = self.run, self.run.train_batches.steps_per_epoch
        if self.bar is not None:
            self.bar.advance(step * run.train_batches.batch_size - self.bar.done)
        self.calls += 1
        if step == steps or self.calls % self.ask_every:
            return False
        stopped = any_true(self.stop.requested, run.world)
        due = time.monotonic() - self.last_save >= 60 * run.config.run.checkpoint_minutes
        if not (stopped or any_true(due, run.world)):
            return False
        if not all_true(totals.finite(), run.world):
            return False  # the loop is about to name the batch that spoilt the weights
        check_finite_weights(run.learner.core, self.epoch, step)
        run.progress.seconds += self.lap()
        run.progress.step, run.progress.totals = step, totals
        run.save()
        self.last_save = time.monotonic()
        self.left_early = stopped
        return stopped
