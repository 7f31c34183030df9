"""A task and a configuration -> a trained model in a run folder, through kills and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune.cli.console import progress, say
from finetune.errors import DataError, InterruptedRunError, ModelFileError
from finetune.images.augmentation.policies import build_augment
from finetune.images.batches import EvalBatches, TrainBatches
from finetune.models.bundle import check_class_names
from finetune.models.classifier import Classifier
from finetune.runs.files import check_free_space, to_plain
from finetune.runs.folder import RunFolder, versions
from finetune.runs.interrupts import StopRequest
from finetune.training.checkpoint import CheckpointFolder, Progress, state_bytes
from finetune.training.config import FitConfig, to_dict
from finetune.training.data import TrainingData, check_task, monitored, turned
from finetune.training.epoch_metrics import Totals
from finetune.training.failures import (
    check_finite_weights,
    inexact_reasons,
    resume_line,
    told_failures,
)
from finetune.training.frozen.batches import FeatureCache
from finetune.training.frozen.evaluation import EvalFeatures
from finetune.training.frozen.stage import frozen_features
from finetune.training.head_init import check_hooks, prepare_head
from finetune.training.learner import Learner, build_learner
from finetune.training.loggers import Loggers, RunFacts, rows_before, run_loggers
from finetune.training.loop import train_one_epoch
from finetune.training.optimization.compiling import compiles
from finetune.training.optimization.determinism import noted_inexactness
from finetune.training.optimization.distributed import World, any_true, barrier, wrap_model
from finetune.training.optimization.precision import Choice, chosen_before
from finetune.training.optimization.rehearsal import compile_step
from finetune.training.predict import evaluate_batches, keep_on_gpu, row_batches, worker_count
from finetune.training.saver import Saver, Writer, nothing


@dataclass
class Fitted:
    """A trained model, ready to be evaluated, and what its run should record.

    `others` holds the weights that were not selected, as state dicts on the CPU: "best" (on validation) where
    the last ones are selected and any were validated, "last" where the best ones are. It is empty after a run
    without epochs.
    """

    model: Classifier
    learner: Learner
    facts: dict[str, Any] = field(default_factory=dict)
    others: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def fit(
    task: TrainingData,
    config: FitConfig,
    folder: RunFolder,
    world: World,
    loggers: Loggers | None = None,
    choice: Choice | None = None,
) -> Fitted:
    """Train until the last epoch (or the last one worth training) and return the chosen weights' model.

    Rows go to `loggers`, metrics.jsonl and the console where none are given; whoever gives them ends them.
    `choice` is what auto means in all runs of a study (precision, compile); a resumed run keeps its own.
    Starts from the newest good checkpoint of the folder where there is one. Raises InterruptedRunError after
    a signal, with everything saved and the command to go on with; DataError for a loss that is not finite,
    naming step, learning rate, files; ResourceError when memory runs out, naming batch size and remedies.
    """
    check_task(task, config, world)
    checkpoints = CheckpointFolder(folder.path / "checkpoints")
    if world.is_main:
        checkpoints.clean()
    saved = checkpoints.load_latest()
    begun = choice if saved is None else chosen_before(saved[0]) or choice
    learner = build_learner(task, config, world, from_checkpoint=saved is not None, begun=begun)
    learner.compiled_for_all = choice.compiled if choice else None
    check_hooks(learner.recipe.hooks, config)
    run = FitRun(task, config, folder, world, learner, checkpoints, loggers or run_loggers(folder))
    with told_failures(task, config), StopRequest() as stop:
        run.start(saved, stop)
        with noted_inexactness(run.learner.notes), run.writer.joined():
            run.train(stop)
    return run.finish()


@dataclass
class FitRun:
    """One call of `fit`: its parts, its progress, and how they are saved."""

    task: TrainingData
    config: FitConfig
    folder: RunFolder
    world: World
    learner: Learner
    checkpoints: CheckpointFolder
    loggers: Loggers
    progress: Progress = field(default_factory=Progress)
    entered: bool = False
    compiled: bool | None = None  # None until it is decided
    kept: FeatureCache | None = None
    kept_val: EvalFeatures | None = None

    @cached_property
    def train_batches(self) -> TrainBatches:
        """The training rows; made once, so that worker processes live as long as the run."""
        train = self.config.train
        batches = TrainBatches(
            self.task.source,
            self.task.manifest.label,
            self.task.train,
            augment=build_augment(train.augment, self.task.spec),
            batch_size=train.batch_size,
            seed=train.seed,
            workers=worker_count(self.config.run.workers),
            rank=self.world.rank,
            world_size=self.world.size,
            views=self.learner.recipe.hooks.views,
            epochs=train.epochs,
        )
        return keep_on_gpu(batches, self.task, self.config, self.learner.precision.device)

    @cached_property
    def val_batches(self) -> EvalBatches:
        """The validation rows, made once too."""
        batches = row_batches(self.learner, self.task, self.task.val, self.config)
        return keep_on_gpu(batches, self.task, self.config, self.learner.precision.device)

    def train(self, stop: StopRequest) -> None:
        """Go through the remaining epochs: train, validate, record, save; stop when nothing improves."""
        epochs = self.config.train.epochs
        saver = Saver(self, stop)
        for epoch in range(self.progress.epoch, epochs):
            if self._nothing_improves():
                break
            self._enter_stage(epoch)
            batches = self._batches(epoch, stop)
            saver.epoch = epoch
            images = batches.steps_per_epoch * batches.batch_size
            done = self.progress.step * batches.batch_size
            bar = progress(images, f"epoch {epoch + 1}/{epochs}", done=done)
            with bar as saver.bar, saver.when_waiting_ends():
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
        if any_true(stop.requested, self.world):  # where no epoch was left, nobody has asked yet
            raise InterruptedRunError(f"stopped, all that was trained is saved; {resume_line()}")

    def start(self, saved: tuple[dict[str, Any], Path] | None, stop: StopRequest) -> None:
        """Begin with a checkpoint's state, or at the first step with what the head wants prepared."""
        if saved is not None:
            self._restore(*saved)
        else:
            prepare_head(self.learner, self.task, self.config, stop)
        if self.world.is_main:  # last, previous, best and the one being written, and the finished model
            check_free_space(self.folder.path, 5 * state_bytes(self.learner.state()))
            self.loggers.begin(self._facts(resumed=saved is not None))

    def _facts(self, *, resumed: bool) -> RunFacts:
        epoch, epochs = self.progress.epoch, self.config.train.epochs
        rows = rows_before(epoch, self.folder, self.progress.row)
        about = (self.folder.path, to_dict(self.config), self.task.identity, versions(), self._device)
        return RunFacts(*about, epochs, epoch + 1, resumed, rows)

    def _restore(self, state: dict[str, Any], file: Path) -> None:
        """Put a checkpoint's state back, after checking that it is this task's."""
        check_class_names(state["class_names"], self.task.manifest.class_names, file)
        changed = [name for name, value in self.task.identity.items() if state["task"].get(name) != value]
        if changed:
            raise DataError(
                f"the data changed since {file} was written ({', '.join(changed)}: other images, labels, "
                "subjects or split): restore the data, or start again with another --run.dir"
            )
        for reason in inexact_reasons(state, self.world, self._device, self.config.run.deterministic):
            say(f"{reason}: the resumed run is statistically equivalent, no longer bit-exact")
        try:
            self.learner.load_state(state["learner"])
        except (ValueError, KeyError, RuntimeError) as error:
            raise ModelFileError(f"{file} does not fit this configuration: {error}") from error
        if self.config.run.compile == "auto":
            self.compiled = bool(state.get("compiled"))  # earlier versions compiled when asked alone
        self.progress = Progress.restored(state["progress"], self.learner.precision.device, self.world)
        say(f"resuming from {file}: epoch {self.progress.epoch + 1}, step {self.progress.step}")

    @cached_property
    def writer(self) -> Writer:
        """What writes the checkpoints."""
        return Writer(self.learner.precision.device)

    def save(self, then: Callable[[], None] = nothing) -> None:
        """Write the checkpoint to go on from, then call `then`; every process calls, the first one writes."""
        progress = self.progress.state(self.world)
        if not self.world.is_main:
            then()
            return
        state = {
            "learner": self.learner.state(),
            "progress": progress,
            "class_names": list(self.task.manifest.class_names),
            "task": self.task.identity,
            "world_size": self.world.size,
            "versions": versions(),
            "device": self._device,
            "compiled": bool(self.compiled),
            "precision": choice.to_dict() if (choice := self.learner.precision.choice) else None,
        }
        place = {"epoch": self.progress.epoch, "step": self.progress.step}
        self.writer.write(lambda state: self.checkpoints.save(state, **place), state, then)

    @property
    def _device(self) -> str:
        return f"{self.learner.precision.device_name}, {self.learner.precision.dtype_name}"

    def finish(self) -> Fitted:
        """Return the model with the weights that the configuration selects, and the run's facts."""
        if self.learner.ema:
            self.learner.ema.copy_to(self.learner.core)
        selected, others = self._select()
        facts = {
            "selected": selected,
            "minutes": round(self.progress.seconds / 60, 3),
            "best_validation": turned(self.config.train.monitor, self.progress.best),
            "best_epoch": self.progress.best_epoch + 1 if self.progress.best is not None else None,
            "epochs_run": self.progress.epoch,
            **({"compiled": True} if self.compiled else {}),
        }
        return Fitted(self.learner.core.eval(), self.learner, facts, others)

    def _select(self) -> tuple[str, dict[str, dict[str, Tensor]]]:
        """Leave the selected weights in the model; return their name, and the others by theirs."""
        wanted, core = self.config.train.select, self.learner.core
        if self.progress.best is None and wanted == "last":
            return "last", {}
        barrier(self.world)  # the first process may still be writing the best ones
        try:
            best = self.checkpoints.load_best()["model"]
        except ModelFileError as error:
            lost = "are tested instead of" if wanted == "best" else "are kept without"
            say(f"notice: {error}\n        the last epoch's weights {lost} the best ones")
            return "last, for the best were damaged" if wanted == "best" else "last", {}
        if wanted == "last":
            return "last", {"best": best}
        last = {name: value.detach().cpu().clone() for name, value in core.state_dict().items()}
        core.load_state_dict(best)
        return "best", {"last": last}

    def _enter_stage(self, epoch: int) -> None:
        """Freeze and free parameters; the wrapper is made again, for it watches the free ones only."""
        learner, begins = self.learner, self.learner.recipe.starts_stage(epoch)
        learner.enter_stage(epoch)
        if begins or not self.entered:
            self.entered = True
            learner.model = wrap_model(learner.core, self.world, learner.precision.device)
            self._keep_features(epoch)
            self._compile(settled=not begins or self.progress.step > 0)  # a stage goes on as it began

    def _compile(self, *, settled: bool) -> None:
        """Compile the step where that is asked for or pays; where it fails once, it is not tried again."""
        wish, learner, kept = self.config.run.compile, self.learner, self.kept is not None
        if self.compiled is None:
            steps = self.config.train.epochs * self.train_batches.steps_per_epoch
            self.compiled = compiles(wish, learner.precision.device, steps, learner.compiled_for_all)
        if self.compiled and (not kept or wish is True):
            self.compiled = compile_step(learner, features=kept, by_name=wish is True, settled=settled)

    def _keep_features(self, epoch: int) -> None:
        """Begin to keep a frozen backbone's features, or forget them when it is freed."""
        self.kept = self.kept_val = None
        if self.learner.recipe.stage_at(epoch).train != "head":
            return
        given = (self.learner, self.task, self.config, self.folder.path, self.train_batches)
        self.kept, self.kept_val = frozen_features(*given, self.val_batches) or (None, None)

    def _batches(self, epoch: int, stop: StopRequest) -> TrainBatches | FeatureCache:
        """Return what this epoch trains on: images, or the features that a frozen backbone made of them."""
        if self.kept is None:
            return self.train_batches

        def leave_if_asked() -> None:
            if any_true(stop.requested, self.world):
                self.save()
                told = f"stopped while features were computed for epoch {epoch + 1}, all before it is saved"
                raise InterruptedRunError(f"{told}; {resume_line()}")

        self.kept.fill(epoch, leave_if_asked)
        if self.kept_val is not None:
            self.kept_val.find(leave_if_asked)
        return self.kept

    def _close_epoch(self, epoch: int, totals: Totals, saver: Saver) -> None:
        self.writer.join()
        check_finite_weights(self.learner.core, epoch, self.train_batches.steps_per_epoch)
        scores = self._validate()
        self.progress.seconds += saver.lap()
        row = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * self.train_batches.steps_per_epoch,
            "stage": self.learner.recipe.stage_at(epoch).name,
            **self.learner.learning_rates(),
            **totals.means(self.world),
            **{f"val_{name}": value for name, value in scores.items()},
            "seconds": round(self.progress.seconds, 2),
        }
        self._keep_best(epoch, monitored(scores, self.config.train.monitor))
        self.progress.epoch, self.progress.step, self.progress.totals = epoch + 1, 0, None
        self.progress.row = told = to_plain(row)
        self.save(lambda: self.loggers.row(told))

    def _validate(self) -> dict[str, float]:
        if len(self.task.val) == 0:
            return {}
        with self.learner.averaged():
            found = evaluate_batches(self.learner, self.kept_val or self.val_batches)
        return self.task.scorer(found["probs"], found["target"])

    def _keep_best(self, epoch: int, metric: float | None) -> None:
        last_start = self.learner.recipe.last_start
        if metric is None or not self.progress.take_score(float(metric), epoch, last_start):
            return
        if self.world.is_main:
            with self.learner.averaged():
                best = {"model": self.learner.core.state_dict(), "epoch": epoch}
                self.writer.write(self.checkpoints.save_best, best)

    def _nothing_improves(self) -> bool:
        train = self.config.train
        enough = self.progress.in_vain(self.learner.recipe.last_start) >= train.patience > 0
        if enough:
            say(f"no better {train.monitor} for {train.patience} epochs: stopping")
        return enough
