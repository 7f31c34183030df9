"""A study whose cells are runs of a task: every loss with every seed, one cell after another, one report."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from finetune.cli.console import say
from finetune.errors import DataError, DivergedError, UsageError
from finetune.experiments.config import OwnRates, arms_of, seeds_of
from finetune.experiments.ordered_classes import check_order, with_edges
from finetune.experiments.records.record import RECORD_FILE, RunRecord
from finetune.experiments.run import (
    Experiment,
    is_finished,
    kept_options,
    prepare_experiment,
    run_split,
)
from finetune.experiments.shared_precision import with_shared_precision
from finetune.experiments.study.arms import Arm
from finetune.experiments.study.cells import Cell, CellPlan
from finetune.experiments.study.conclusion import at_chance
from finetune.experiments.study.finished_runs import cell_of, end_study, read_run, record_of, what_ran
from finetune.experiments.study.folder import check_place, claim_study, claimed, no_claim_left
from finetune.experiments.study.report import StudyPage
from finetune.experiments.study.schedule import run_cells, time_text
from finetune.experiments.study.statistics import Measure, is_adaptive
from finetune.experiments.task import Task, measures_for
from finetune.experiments.train import report_run
from finetune.metrics.bootstrap import summarise
from finetune.models.names import MARGIN_HEADS
from finetune.runs.config_file import config_changes
from finetune.runs.folder import read_json
from finetune.training.config import FitConfig, LossConfig, to_dict
from finetune.training.optimization.distributed import World

C = TypeVar("C", bound=FitConfig)
R = TypeVar("R")


def study_losses(task: Task, config: Any) -> dict[str, Any]:
    """Train every arm with every seed on the same data, test each cell once, report paired differences.

    Finished cells are never trained again. Of an interrupted cell that is a run over several folds, neither
    are the finished folds.

    Args:
        task: whose runs the cells are.
        config: the task's study: a run's configuration and a `ComparisonConfig`.

    Returns what report.json holds, and the study's folder as `study`.
    """
    config = study_config(config)
    arms, seeds, folder = arms_of(config), seeds_of(config), Path(config.run.dir)
    check_arms(config, arms, task)
    single = [] if task.folds_run(config) is not None else [task.chosen_fold(config)]
    experiment = prepare_experiment(task, config, single)
    check_test(experiment)
    config, read = experiment.config, partial(read_cell, experiment)
    splits = [experiment.split(fold) for fold in single] or list(experiment.splits)

    def train(plan: CellPlan) -> None:
        cells = len(arms) * len(seeds)
        train_cell(with_shared_precision(experiment, folder, splits, trainings=cells), plan)

    trainer = CellTrainer(arms, seeds, train, finished=lambda plan: read(plan) is not None)
    with no_claim_left(folder):
        claim_study(folder, kept_options(task, config), config.run)
        cells = run_cells(arms, seeds, folder, train=trainer, read=read)
    return end_study(folder, cells, arms, study_measures(experiment), page_of(experiment, folder, cells))


def check_test(experiment: Experiment) -> None:
    """Raise, before a folder is made, where single runs would test nothing or a fold that is not there."""
    task, config = experiment.task, experiment.config
    if task.folds_run(config) is None and not len(experiment.split(task.chosen_fold(config)).test):
        raise DataError("the data name no test image, so there is nothing to compare losses by")


def run_config(experiment: Experiment, plan: CellPlan) -> Any:
    """Return the configuration of a cell's run, without what only a study knows."""
    task, own = experiment.task, cell_config(experiment.config, plan)
    own = replace(own, head=with_edges(task, own.head, experiment.data.manifest.class_names))
    folds = task.folds_run(own)
    return own_options(own, task.config_type if folds is None else folds.config_type)


def own_options(config: Any, config_type: type[R]) -> R:
    """Return the part of a configuration that a type it inherits from has."""
    return config_type(**{item.name: getattr(config, item.name) for item in fields(config_type)})  # type: ignore[arg-type]


def train_cell(experiment: Experiment, plan: CellPlan) -> None:
    """Leave the complete result of a cell, with its report, in the cell's folder."""
    folds, config = experiment.task.folds_run(experiment.config), run_config(experiment, plan)
    if folds is not None:
        folds.train(config, experiment)
        return
    own = replace(experiment, config=config)
    split = own.split(own.task.chosen_fold(config))
    left = not is_finished(own, split, plan.folder)
    report = partial(report_run, own, split, plan.folder, again=left)
    if left:
        run_split(own, split, plan.folder, World(), report=report)
    else:
        report(RunRecord.read(plan.folder / RECORD_FILE))


def read_cell(experiment: Experiment, plan: CellPlan) -> Cell | None:
    """Return the finished cell; None while it is not finished, DataError where it is of another study."""
    task = experiment.task
    expected = kept_options(task, run_config(experiment, plan))
    run = read_run(plan, task.cell_files, expected, experiment.identity)
    if run is None:
        return None
    report = read_json(plan.folder / "report.json")
    shown = measures_for(task, "study", experiment.data.manifest.class_names)
    return cell_of(plan, run, {one.study_name: report[one.report_name] for one in shown})


def study_measures(experiment: Experiment) -> tuple[Measure, ...]:
    """Return what a study is judged by; the first decides, and is in percent."""
    several = experiment.task.folds_run(experiment.config) is not None
    found = measures_for(experiment.task, "study", experiment.data.manifest.class_names)
    over = [", mean of folds" * (several and one.over == "folds") for one in found]
    return tuple(
        Measure(one.study_name, f"{one.label}{of_folds} ({one.unit})")
        for one, of_folds in zip(found, over, strict=True)
    )


def page_of(experiment: Experiment, folder: Path, cells: Sequence[Cell]) -> StudyPage:
    """Return what the report says beside the statistics."""
    task, config = experiment.task, experiment.config
    report = record_of(folder, cells[0], "report.json")
    text = task.study_text(config, report)
    ran = [*([text.cell] if text.cell else []), *what_ran(config, report)]
    caution = at_chance(cells, (report.get("baseline") or {}).get(task.measures[0].report_name))
    adaptive = is_adaptive(config.train.optimizer)
    found = temperatures(folder, cells)
    return StudyPage(text.title, ran, text.published, text.notes, adaptive, caution, found)


def temperatures(folder: Path, cells: Sequence[Cell]) -> dict[str, list[float]]:
    """Return by arm the temperatures that its cells' reports found to fit the test images best, and say them.

    Reports of former releases have none.
    """
    found: dict[str, list[float]] = {}
    for cell in cells:
        told = record_of(folder, cell, "report.json").get("temperature") or {}
        if told.get("T") is not None:
            found.setdefault(cell.arm, []).append(float(told["T"]))
    if found:
        means = ", ".join(f"{arm} {summarise(values).mean:.3g}" for arm, values in found.items())
        say(f"temperature that fits the test images best, mean over seeds: {means}")
    return found


def study_config(config: C) -> C:
    """Return the configuration without the loss that the arms replace; what is left out is reported.

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


def check_arms(config: FitConfig, arms: Sequence[Arm], task: Task) -> None:
    """Raise UsageError, before any cell, for an arm that this configuration cannot train."""
    mixed = [name for name in ("mixup", "cutmix") if getattr(config.train, name)]
    for arm in arms:
        if arm.head and config.head.name != "linear":
            raise UsageError(
                f"losses: {arm.name} is a head of its own and would stand in the place of head.name "
                f"{config.head.name}: compare margin heads with --head.name linear"
            )
        if arm.head and config.head.options.get("dropout") and "dropout" not in arm.head_options:
            raise UsageError(
                f"losses: {arm.name} has no dropout, and head.options.dropout would make the linear head of "
                "the other arms another network: leave one of them out"
            )
        margin = arm.head in MARGIN_HEADS
        if mixed and (margin or arm.matches):
            need = "needs one class for each image" if margin else "needs gradient factors"
            remedy = "leave it out" if margin else "give --lr_match []"
            raise UsageError(
                f"losses: {arm.name} {need}, which train.{mixed[0]} does not leave: {remedy}, or "
                f"--train.{mixed[0]} 0"
            )
        check_order(task, cell_config(config, CellPlan(arm, 0, 1.0, Path("cell"))))


def cell_config(config: C, plan: CellPlan) -> C:
    """Return a cell's configuration: the study's with the plan's loss, head, learning rates, seed, folder.

    Both learning rates are multiplied by the plan's factor (a frozen learning rate that is not given follows
    lr). An arm may have rates of its own.
    """
    arm, train, factor = plan.arm, config.train, plan.lr_factor
    if isinstance(config, OwnRates):
        train = replace(train, **config.rates.get(arm.name, {}))
    frozen_lr = None if train.frozen_lr is None else train.frozen_lr * factor
    loss = replace(arm.loss, class_weights=config.loss.class_weights, branches=config.loss.branches)
    head = config.head
    if arm.head:
        own = dict(arm.head_options)
        if "dropout" in own:  # the head stands in the linear one's place
            own["dropout"] = own["dropout"] or head.options.get("dropout", 0.0)
        head = replace(head, name=arm.head, options=own)
    return replace(
        config,
        train=replace(train, seed=plan.seed, lr=train.lr * factor, frozen_lr=frozen_lr),
        loss=loss,
        head=head,
        run=replace(config.run, dir=str(plan.folder), resume="auto"),
    )


class CellTrainer:
    """Trains the cells of a wave one after another, says which, and leaves those of other processes alone.

    A cell whose training diverges is reported and stays unfinished; the others continue. Other errors end it
    all, and so does a first wave in which every cell of the study diverged.

    Args:
        arms: of the study.
        seeds: of the study.
        train: trains one cell and leaves a complete run folder.
        finished: returns whether a cell became finished meanwhile.

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
                "every cell diverged, as reported above, so there is nothing to report: lower --train.lr or "
                "give --train.clip_grad 1, in another --run.dir"
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
