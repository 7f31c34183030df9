"""A study whose cells are ordinary runs: its folder, each cell's configuration, one cell after another."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from finetune.cli.console import say
from finetune.errors import CrlError, DivergedError, UsageError
from finetune.experiments.config import ComparisonConfig
from finetune.experiments.study.arms import Arm
from finetune.experiments.study.cells import CellPlan
from finetune.runs.config_file import CONFIG_NAME, FREE_KEYS, config_changes
from finetune.runs.folder import RunFolder, check_content
from finetune.runs.lock import LOCK_NAME, FolderLock
from finetune.training.config import FitConfig, LossConfig, to_dict

C = TypeVar("C", bound=FitConfig)

# What of a study's configuration says which cells there are: it may change while the folder stays.
CELL_KEYS = tuple(item.name for item in fields(ComparisonConfig))


def study_config(config: C) -> C:
    """Return the configuration without the loss that the arms replace; what is left out is told.

    The loss's class weights and its branches stay: they are the same for every arm.

    Raises:
        UsageError: under torchrun, without a folder or where the folder holds something else, and for a seed
            of training other than 0, which `first_seed` replaces.
    """
    check_place(config.run)
    if config.train.seed:
        raise UsageError(
            f"train.seed {config.train.seed}: the seeds of a study are --first_seed {config.train.seed} and "
            "the --seeds that follow it"
        )
    kept = LossConfig(class_weights=config.loss.class_weights, branches=config.loss.branches)
    left_out = config_changes(to_dict(kept), to_dict(config.loss))
    if left_out:
        told = ", ".join(f"loss.{key} {change.rpartition('-> ')[2]}" for key, change in left_out.items())
        say(f"notice: {told} of the configuration is not used: --losses says what is compared")
    return replace(config, loss=kept)


def check_place(run: RunPlace) -> None:
    """Raise UsageError, before any work, under torchrun and where the results cannot go."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "a study trains each cell in one process: start it without torchrun. On several devices, start "
            "the same command once for each with its own --device and --run.resume auto: they share the cells"
        )
    if not run.dir:
        raise UsageError("no place for the results: give --run.dir FOLDER")
    check_content(Path(run.dir), run.resume)


def check_arms(config: FitConfig, arms: Sequence[Arm]) -> None:
    """Raise UsageError, before any cell, for an arm that this configuration cannot train."""
    mixed = [name for name in ("mixup", "cutmix") if getattr(config.train, name)]
    for arm in arms:
        if arm.head and config.head.name != "linear":
            raise UsageError(
                f"losses: {arm.name} is a head of its own and would stand in the place of head.name "
                f"{config.head.name}: compare margin heads with --head.name linear"
            )
        if arm.head and config.head.options.get("dropout"):
            raise UsageError(
                f"losses: {arm.name} has no dropout, and head.options.dropout would make the linear head of "
                "the other arms another network: leave one of them out"
            )
        if mixed and (arm.head or arm.matches):
            need = "needs one class for each image" if arm.head else "needs gradient factors"
            remedy = "leave it out" if arm.head else "give --lr_match []"
            raise UsageError(
                f"losses: {arm.name} {need}, which train.{mixed[0]} does not leave: {remedy}, or "
                f"--train.{mixed[0]} 0"
            )
        cell_config(config, CellPlan(arm, 0, 1.0, Path("cell")))


def cell_config(config: C, plan: CellPlan) -> C:
    """Return the configuration of a cell's run: the study's with the plan's loss, head, rates, seed, folder.

    Both learning rates are multiplied by the plan's factor (a frozen rate that is not given follows lr).
    """
    arm, train, factor = plan.arm, config.train, plan.lr_factor
    frozen_lr = None if train.frozen_lr is None else train.frozen_lr * factor
    loss = replace(arm.loss, class_weights=config.loss.class_weights, branches=config.loss.branches)
    head = config.head
    if arm.head:
        head = replace(head, name=arm.head, options=dict(arm.head_options))
    return replace(
        config,
        train=replace(train, seed=plan.seed, lr=train.lr * factor, frozen_lr=frozen_lr),
        loss=loss,
        head=head,
        run=replace(config.run, dir=str(plan.folder), resume="auto"),
    )


def claim_study(
    folder: Path,
    content: Mapping[str, Any],
    run: RunPlace,
    free_keys: Sequence[str] = FREE_KEYS,
) -> None:
    """Make or reopen the study's folder under the rules of run folders, and write its configuration.

    Which cells there are may change (more seeds, other losses), nothing else but the free keys and what
    `run.allow_change` names. Every cell holds its own lock while it is trained, so the folder is let go of.

    Args:
        folder: the study's.
        content: the resolved configuration; what of it belongs to one call alone (`run.resume`,
            `run.allow_change`) is written as nothing.
        run: whether to resume, and what may change.
        free_keys: dotted keys that can never change a result.
    """
    section = {**content["run"], "resume": "never", "allow_change": []}
    with RunFolder.open(
        folder,
        {**content, "run": section},
        resume=run.resume,
        allow_change=(*run.allow_change, *CELL_KEYS),
        free_keys=free_keys,
        wait_seconds=60,
    ):
        pass


class RunPlace(Protocol):
    """The part of a configuration that says where a run goes and how it goes on."""

    @property
    def dir(self) -> str:
        """The folder."""

    @property
    def resume(self) -> Literal["never", "auto"]:
        """Go on with what is in the folder, or not."""

    @property
    def allow_change(self) -> tuple[str, ...]:
        """Dotted keys whose value may differ."""


@contextmanager
def no_claim_left(folder: Path) -> Iterator[None]:
    """Let go of the study's folder when the `with` fails before any cell did anything.

    So the corrected command may use it: a misspelt device or missing weights cost nobody a folder.
    """
    try:
        yield
    except CrlError:
        cells = folder / "cells"
        names = {file.name for file in folder.rglob("*") if not file.is_dir()}
        if names <= {CONFIG_NAME, LOCK_NAME} and not any(cells.rglob(CONFIG_NAME)):
            shutil.rmtree(cells, ignore_errors=True)
            (folder / CONFIG_NAME).unlink(missing_ok=True)
        raise


class CellTrainer:
    """Trains the cells of a wave one after another, says which, and leaves those of other processes alone.

    A cell whose training diverges is told and stays unfinished; the others go on. Other errors end it all,
    and so does a first wave in which every cell of the study diverged.

    Args:
        arms: of the study.
        seeds: of the study.
        train: trains one cell and leaves a complete run folder.
        finished: tells whether a cell became finished meanwhile.

    A finished cell keeps its weights and loses its checkpoints, which are for going on: of hundreds of cells
    they would fill the disk.
    """

    def __init__(
        self,
        arms: Sequence[Arm],
        seeds: Sequence[int],
        train: Callable[[CellPlan], None],
        finished: Callable[[CellPlan], bool],
    ) -> None:
        waves = ([arm.name for arm in arms if not arm.matches], [arm.name for arm in arms if arm.matches])
        order = [(name, seed) for wave in waves for seed in seeds for name in wave]
        self._place = {key: number for number, key in enumerate(order, 1)}
        self._later = len(waves[1]) * len(seeds)
        self._train, self._finished = train, finished
        self._seconds: list[float] = []
        self._diverged = 0

    def __call__(self, plans: Sequence[CellPlan]) -> None:
        """Train the cells of these plans."""
        for number, plan in enumerate(plans):
            left = len(plans) - number + (0 if plan.arm.matches else self._later)
            with claimed(plan.folder) as is_ours:
                if not is_ours:
                    say(f"{self._told(plan)}: another process is at work on it")
                elif not self._finished(plan):
                    say(f"{self._told(plan)}{self._time_left(left)}")
                    self._train_cell(plan)
        alone = not any(plan.arm.matches for plan in plans)
        if alone and self._diverged == len(self._place) - self._later:
            raise DivergedError(
                "every cell diverged, as told above, so there is nothing to report: lower --train.lr or give "
                "--train.clip_grad 1, in another --run.dir"
            )

    def _train_cell(self, plan: CellPlan) -> None:
        start = time.monotonic()
        try:
            self._train(plan)
        except DivergedError as error:
            self._diverged += 1
            say(f"{self._told(plan)} diverged and stays unfinished, the other cells go on: {error}")
            return
        self._seconds.append(time.monotonic() - start)
        self._drop_checkpoints(plan)

    def _drop_checkpoints(self, plan: CellPlan) -> None:
        if self._finished(plan):
            for checkpoints in plan.folder.rglob("checkpoints"):
                shutil.rmtree(checkpoints)

    def _told(self, plan: CellPlan) -> str:
        place = self._place[plan.arm.name, plan.seed]
        return f"cell {place} of {len(self._place)}: {plan.arm.name}, seed {plan.seed}"

    def _time_left(self, cells: int) -> str:
        if not self._seconds:
            return ""
        seconds = cells * sum(self._seconds) / len(self._seconds)
        return f" (about {time_text(seconds)} left)"


def time_text(seconds: float) -> str:
    """Return a length of time as a person says it.

    >>> time_text(20), time_text(600), time_text(9000)
    ('20 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@contextmanager
def claimed(cell: Path) -> Iterator[bool]:
    """Hold a cell while the context is open; gives False where another process holds it.

    The lock lies beside the cell's folder, which the run itself locks.
    """
    place = cell.parent / f".{cell.name}"
    place.mkdir(parents=True, exist_ok=True)
    try:
        lock = FolderLock(place)
    except UsageError:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
