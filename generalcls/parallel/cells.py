"""Train a study's cells, many at once where that pays; each is kept as soon as it is tested."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.cli.console import progress, say
from finetune.errors import DataError, UsageError, listing
from finetune.experiments.study.cells import LOSS, Cell, CellPlan, read_cell, write_cell
from finetune.runs.config_file import config_changes
from finetune.runs.files import remove_stale, to_plain
from finetune.runs.folder import versions
from finetune.runs.former_losses import FORMER
from finetune.runs.lock import FolderLock
from finetune.seeding import derive_seed, seed_torch
from finetune.training.config import to_dict
from finetune.training.failures import says_out_of_memory
from finetune.training.loggers import RunFacts, run_files
from finetune.training.optimization.compiling import compiles
from finetune.training.optimization.memory import room
from finetune.training.optimization.torch_settings import prepare_torch
from generalcls.config import GeneralConfig
from generalcls.data.datasets import GeneralData
from generalcls.networks.registry import (
    Network,
    build_network,
    count_parameters,
    network_facts,
    suitable_network,
)
from generalcls.parallel.answers import PREDICTIONS, test_scores, write_predictions
from generalcls.parallel.device_data import ResidentImages, Scaling
from generalcls.parallel.dispatch import choose_numbers, computes_side_by_side
from generalcls.parallel.engine import Training
from generalcls.parallel.memory_plan import MOST_TOGETHER, NoMemoryError, memory_error, plan_memory
from generalcls.parallel.model_stack import ModelStack
from generalcls.parallel.objectives import StackObjective, has_plain_logits
from generalcls.parallel.optimizers import Member
from generalcls.parallel.progress import CellLog, Diary, curve_rows

IN_TRAINING = "in_training"
_by_arm = attrgetter("arm.name", "seed")


class CellTrainer:
    """Trains plans on one data set with one network.

    Args:
        config: the study's.
        data: what it is about.
        folder: the study's folder, for checkpoints of what is in training.
        together: models that train at once; 0 is what the configuration says.
    """

    def __init__(self, config: GeneralConfig, data: GeneralData, folder: Path, together: int = 0) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.precision, self.dtype = choose_numbers(config)
        self.network_name = resolve_network(config, data)
        facts = network_facts(self.network_name)
        self.scaling = Scaling.of(data.train.images, facts.scaling)
        device = self.precision.device
        prepare_torch(self.precision, deterministic=config.run.deterministic)
        self.train_images = ResidentImages(data.train, device, self.scaling, self.dtype)
        self.test_images = ResidentImages(data.test, device, self.scaling, self.dtype)
        first = self.build(0)
        self.parameters = count_parameters(first)
        asked = together or config.run.together
        self.plan = plan_memory(
            first,
            (data.train.images.shape[3], *data.train.images.shape[1:3]),
            config.train,
            self.precision,
            room(device),
            side_by_side=computes_side_by_side(first, device, asked or MOST_TOGETHER),
            dtype=self.dtype,
        )
        self.together, self.most = asked or self.plan.together, MOST_TOGETHER
        self.side_by_side = computes_side_by_side(first, device, self.together)
        say(self.describe())
        if config.run.compile == "on" and not self.side_by_side:
            say("notice: run.compile on is for models side by side; these train one after another without it")
        if config.train.batch_size > len(data.train.target):
            say(
                f"notice: train.batch_size {config.train.batch_size} is more than the "
                f"{len(data.train.target)} training images: every step sees all of them"
            )

    def describe(self) -> str:
        """Return what trains on what, and how, in a few lines."""
        how = "side by side, as one batched model" if self.side_by_side else "one after another"
        kind = str(self.dtype).removeprefix("torch.") if self.dtype == torch.float64 else ""
        return (
            f"{self.precision.describe()}{f' (weights {kind})' if kind else ''}\n"
            f"{self.data.name}: {len(self.data.train.target):,} training and {len(self.data.test.target):,} "
            f"test images, {len(self.data.class_names)} classes\n"
            f"{self.network_name}: {self.parameters:,} parameters; models train {how}"
        )

    def build(self, seed: int) -> Network:
        """Return the network as this seed begins it, whatever the loss."""
        seed_torch(derive_seed(seed, "weights"))
        height, width, channels = self.data.train.images.shape[1:]
        if height != width:
            raise DataError(f"{self.data.name}: images must be square, got {height} x {width}")
        return build_network(
            self.network_name, channels=channels, image_size=height, num_classes=len(self.data.class_names)
        )

    def read(self, plan: CellPlan) -> Cell | None:
        """Return the plan's finished cell, or None; DataError for a cell of other data."""
        cell = read_cell(plan.folder)
        if cell is None:
            return None
        if cell.arm != plan.arm.name and plan.folder.parent.name == plan.arm.name:
            raise DataError(
                f"{plan.folder} holds {cell.arm}, as {plan.arm.name} was meant when it was trained: list "
                f"{cell.arm.replace('-clamp0', ':clamp=0')} in another --run.dir, or remove {plan.folder} to "
                "have it trained again"
            )
        if cell.facts.get("data") != self.data.fingerprint:
            raise DataError(
                f"{plan.folder} was trained on other images or another split than there are now: restore "
                "the data, or give another --run.dir"
            )
        now = to_plain(self.settings())
        stored = {key: cell.facts[key] for key in now if key in cell.facts}
        changes = config_changes(stored, {key: now[key] for key in stored})
        if changes:
            lines = [f"{key}: {change}" for key, change in changes.items()]
            raise DataError(
                f"{plan.folder} was trained with other settings than this study's:\n{listing(lines, 40)}\n"
                f"One table cannot hold both: remove {plan.folder} to have it trained again, or take another "
                "--run.dir"
            )
        return cell

    def settings(self) -> dict[str, Any]:
        """Return what all cells of a table must share beside the data, as plain values."""
        train = to_dict(self.config.train)
        del train["evaluate_every"]
        return {
            "network": self.network_name,
            "parameters": self.parameters,
            "precision": "float64" if self.dtype == torch.float64 else self.precision.dtype_name,
            "train": train,
        }

    def train(self, plans: Sequence[CellPlan]) -> None:
        """Train these cells, as many together as pays, leaving out those that another process holds."""
        start = 0
        while start < len(plans):
            many = self._begun(plans[start:]) or self.together
            with ExitStack() as held:
                chunk = list(_locked(plans[start : start + many], held))
                chunk = [plan for plan in chunk if self.read(plan) is None]
                if not chunk or self._train_kept(chunk, start, len(plans), held):
                    start += many
                    continue
            self._halve_together(len(chunk))  # now that nothing holds the models any more

    def _begun(self, plans: Sequence[CellPlan]) -> int:
        """Return how many of the next models were in training together, whatever is free now; 0 for none."""
        counts = () if self.config.run.together else range(min(self.most, len(plans)), 0, -1)
        return next((count for count in counts if self._checkpoint(plans[:count]).is_file()), 0)

    def _train_kept(self, chunk: Sequence[CellPlan], start: int, count: int, held: ExitStack) -> bool:
        """Train these cells, of `count` in all; return False where memory ran out, and fewer are to train."""
        track = self.config.run.track
        logs = [held.enter_context(CellLog(plan, track=track)) for plan in chunk if track]
        told = f"cells {start + 1} to {start + len(chunk)} of {count}"
        if len(chunk) == 1:
            told = f"cell {start + 1} of {count}: {chunk[0].arm.title}, seed {chunk[0].seed}"
        try:
            training = self.train_chunk(chunk, told, logs)
        except NoMemoryError:
            if len(chunk) == 1:
                raise
            return False
        for log in logs:
            cell = read_cell(log.plan.folder)
            log.end({} if cell is None else cell.scores, run_files(log.plan.folder))
        if training.checkpoint is not None:
            training.checkpoint.unlink(missing_ok=True)
        return True

    def _halve_together(self, models: int) -> None:
        """Train half as many models together, and say so."""
        self.together = self.most = max(1, min(models, self.together) // 2)
        say(f"notice: out of memory with {models} models together: they begin again, {self.together} at once")
        gc.collect()
        if self.precision.device.type == "cuda":
            torch.cuda.empty_cache()

    def train_chunk(self, plans: Sequence[CellPlan], told: str, logs: Sequence[CellLog] = ()) -> Training:
        """Train and test these cells together, keep each, and return the training.

        The checkpoint stays: whoever has all that is wanted of the training removes it. `logs` are of all
        cells, or none; whoever gives them ends them.
        """
        plans, logs = sorted(plans, key=_by_arm), sorted(logs, key=lambda log: _by_arm(log.plan))
        try:
            training = self._trained(plans, told, logs)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not says_out_of_memory(error):
                raise
            raise memory_error(len(plans), error) from None
        for log in logs:
            log.saved()  # in cell.json
        return training

    def _trained(self, plans: Sequence[CellPlan], told: str, logs: Sequence[CellLog]) -> Training:
        training = self.begin(plans)
        resumed = training.restore()
        each = self.config.train.batch_size * len(plans)
        total = training.total_steps * each
        done = (training.epoch * training.batches.steps_per_epoch + training.step) * each if resumed else 0
        for log, history in zip(logs, training.history, strict=False):
            log.begin(self._facts(log.plan, training, history, resumed=resumed))
        with progress(total, told, done=done) as bar:
            diary = Diary(told, training, bar, logs)
            training.after_save = diary.after_save
            if resumed:
                say(f"{told}: goes on after {diary.epochs_done:.4g} of {training.config.epochs} epochs")
            training.run(diary.after_step, diary.after_epoch)
            self._keep(plans, training)
        return training

    def _facts(
        self, plan: CellPlan, training: Training, history: Sequence[dict[str, Any]], *, resumed: bool
    ) -> RunFacts:
        tags = {"data": self.data.fingerprint, "arm": plan.arm.name, "seed": plan.seed}
        epoch, epochs = training.epoch, self.config.train.epochs
        about = (plan.folder, to_dict(self.config), tags, versions(), self.precision.describe())
        return RunFacts(*about, epochs, epoch + 1, resumed, history)

    def begin(self, plans: Sequence[CellPlan]) -> Training:
        """Return the training of these cells before its first step."""
        networks = [self.build(plan.seed) for plan in plans]
        stack = ModelStack(
            networks,
            self.precision,
            side_by_side=computes_side_by_side(networks[0], self.precision.device, len(networks)),
            dtype=self.dtype,
        )
        objective = StackObjective.of([plan.arm for plan in plans]).to(self.precision.device)
        return Training(
            stack,
            Member.of(plans),
            objective,
            self.train_images,
            self.test_images,
            self.config.train,
            checkpoint=self._checkpoint(plans),
            checkpoint_minutes=self.config.run.checkpoint_minutes,
            identity={"data": self.data.fingerprint, **self.settings()},
            compiled=self.config.run.compile if self._compiles() else "off",
            test_batch=self.plan.test_batch(len(plans)),
        )

    def _checkpoint(self, plans: Sequence[CellPlan]) -> Path:
        """Return the file that these models, in any order, go on from."""
        plans = sorted(plans, key=_by_arm)
        former = [plan.arm.loss.options for plan in plans if plan.arm.loss.name in FORMER]
        names = repr(Member.of(plans)) + (repr(former) if former else "")
        key = hashlib.sha256(names.encode()).hexdigest()[:16]
        return self.folder / IN_TRAINING / f"{key}.pt"

    def _compiles(self) -> bool:
        """Return whether the step is compiled; what compiling for one stack costs is spared the others."""
        train, device = self.config.train, self.precision.device
        steps = train.epochs * max(1, len(self.train_images) // train.batch_size)
        return compiles(self.config.run.compile, device, steps)

    def _keep(self, plans: Sequence[CellPlan], training: Training) -> None:
        """Test every model once more than the curves did, at its end, and write its cell."""
        logits = training.evaluate()
        for plan, own, history in zip(plans, logits, training.history, strict=True):
            cell = self._cell(plan, own, history, training)
            plan.folder.mkdir(parents=True, exist_ok=True)
            write_predictions(plan.folder / PREDICTIONS, own, self.data.test.target)
            write_cell(cell, plan.folder)
            told = (
                f"{plan.arm.title}, seed {plan.seed}: {cell.scores['accuracy']:.2f} %, {cell.seconds:.1f} s"
            )
            say(f"{told}, diverged: its predictions are NaN or infinite" if cell.facts["diverged"] else told)

    def _cell(
        self, plan: CellPlan, logits: np.ndarray, history: list[dict[str, Any]], training: Training
    ) -> Cell:
        plain, blend = has_plain_logits(plan.arm), history[-1].get("blend")
        rows = curve_rows(plan.arm, history)
        return Cell(
            arm=plan.arm.name,
            seed=plan.seed,
            scores=test_scores(logits, self.data.test.target),
            history=rows,
            gradient_factor=_mean(rows, "gradient_factor") if plain else None,
            gradient_ratio=training.gradient_ratio(plan.arm.name, plan.seed) if plain else None,
            lr_factor=plan.lr_factor,
            seconds=training.seconds / len(training.members),
            device=self.precision.device_name,
            facts={
                "data": self.data.fingerprint,
                LOSS: {"name": plan.arm.loss.name, **plan.arm.loss.options},
                **self.settings(),
                "lr": self.config.train.lr * plan.lr_factor,
                **({} if blend is None else {"blend at the end": blend}),
                "diverged": not bool(np.isfinite(logits).all()),
                "together": len(training.members),
                "n_train": len(self.data.train.target),
                "n_test": len(self.data.test.target),
            },
        )


def resolve_network(config: GeneralConfig, data: GeneralData) -> str:
    """Return the network's name, chosen by the data set where it says auto."""
    if config.network.name != "auto":
        return config.network.name
    return suitable_network(data.name, data.train.images.shape[1])


def _locked(plans: Sequence[CellPlan], held: ExitStack) -> Iterator[CellPlan]:
    """Yield the plans whose folders could be locked, until `held` closes."""
    for plan in plans:
        plan.folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = FolderLock(plan.folder)
        except UsageError:
            say(f"{plan.arm.title}, seed {plan.seed}: left to another process, which is at work on it")
            continue
        held.callback(lock.release)
        remove_stale(plan.folder)
        yield plan


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return float(np.mean(values)) if values else None
