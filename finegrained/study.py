"""`study`: a fine-grained experiment with every loss and every seed; each cell is a run of `train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finegrained.config import FineConfig, FineStudyConfig
from finegrained.published import TABLE_IX, Reported
from finegrained.task import TASK
from finetune.errors import DataError
from finetune.experiments.study.cells import Cell, CellPlan
from finetune.training.config import to_dict

if TYPE_CHECKING:
    from finetune.experiments.run import Experiment
    from finetune.experiments.study.report import StudyPage
    from finetune.experiments.study.statistics import Measure

# What a finished run and its report leave behind; report.md is written last.
FILES = (
    "run.json",
    "predictions.parquet",
    "manifest.parquet",
    "model.safetensors",
    "report.json",
    "report.md",
)
SCORES = {"accuracy": "top1", "top5": "top5", "macro_f1": "macro_f1"}  # ours -> run.json's
METHODS = {"bilinear": "B-CNN", "kernel_pooling": "Kernel pooling", "dfl": "DFL", "dcl": "DCL"}
NETWORKS = {"vgg16": ("VGG", "VGG-16"), "vgg19": ("VGG-19",), "resnet50": ("ResNet-50",)}
ABOUT = (
    "Every cell is an ordinary run in cells/ARM/seed-N: `crl fine compare` pairs two of them, or two lists "
    "of seeds, picture by picture, and `crl export` takes any."
)


def study_losses(config: FineStudyConfig) -> dict[str, Any]:
    """Train every arm with every seed on the same split, test each cell once, and report paired differences.

    Finished cells are never trained again. Returns what report.json holds, and the study's folder.
    """
    from finetune.experiments.config import arms_of, seeds_of
    from finetune.experiments.run import prepare_experiment
    from finetune.experiments.study.finished_runs import end_study
    from finetune.experiments.study.from_runs import (
        CellTrainer,
        check_arms,
        claim_study,
        no_claim_left,
        study_config,
    )
    from finetune.experiments.study.schedule import run_cells

    config = study_config(config)
    arms, seeds, folder = arms_of(config), seeds_of(config), Path(config.run.dir)
    check_arms(config, arms)
    experiment = prepare_experiment(TASK, run_config(config))
    if not len(experiment.split(0).test):
        raise DataError("the data name no test picture, so there is nothing to compare losses by")
    read = partial(read_cell, experiment)
    train = partial(train_cell, experiment)
    trainer = CellTrainer(arms, seeds, train, finished=lambda plan: read(plan) is not None)
    with no_claim_left(folder):
        claim_study(folder, to_dict(replace(config, head=experiment.config.head)), config.run)
        cells = run_cells(arms, seeds, folder, train=trainer, read=read)
    return end_study(folder, cells, arms, measures(), page_of(experiment.config, folder, cells))


def run_config(config: FineStudyConfig) -> FineConfig:
    """Return the configuration of an ordinary run, without what only a study knows."""
    return FineConfig(**{item.name: getattr(config, item.name) for item in fields(FineConfig)})


def cell_experiment(experiment: Experiment, plan: CellPlan) -> Experiment:
    """Return the cell's experiment: the same data, split and pictures under the cell's configuration."""
    from finetune.experiments.study.from_runs import cell_config

    return replace(experiment, config=cell_config(experiment.config, plan))


def train_cell(experiment: Experiment, plan: CellPlan) -> None:
    """Leave the complete run of a cell, with its report, in the cell's folder."""
    from finetune.experiments.record import RECORD_FILE, RunRecord
    from finetune.experiments.run import is_finished, run_split
    from finetune.experiments.train import report_run
    from finetune.training.optimization.distributed import World

    own = cell_experiment(experiment, plan)
    split = own.split(0)
    left = not is_finished(own, split, plan.folder)
    if left:
        run_split(own, split, plan.folder, World())
    report_run(own, split, plan.folder, RunRecord.read(plan.folder / RECORD_FILE), again=left)


def read_cell(experiment: Experiment, plan: CellPlan) -> Cell | None:
    """Return the finished cell; None while it is not finished, DataError where it is of another study."""
    from finetune.experiments.run import plain
    from finetune.experiments.study.finished_runs import cell_of, read_run

    config = cell_experiment(experiment, plan).config
    run = read_run(plan, FILES, to_dict(plain(TASK, config, plan.folder)), experiment.identity)
    if run is None:
        return None
    scores = run.record["scores"]
    return cell_of(plan, run, {key: scores[own] for key, own in SCORES.items()})


def measures() -> tuple[Measure, ...]:
    """Return what a study of pictures is judged by; the first decides."""
    from finetune.experiments.study.statistics import Measure

    return (
        Measure("accuracy", "top-1 accuracy (%)"),
        Measure("top5", "top-5 accuracy (%)"),
        Measure("macro_f1", "macro F1 (%)"),
    )


def page_of(config: FineConfig, folder: Path, cells: Sequence[Cell]) -> StudyPage:
    """Return what the report tells beside the statistics."""
    from finetune.experiments.study.conclusion import at_chance
    from finetune.experiments.study.finished_runs import record_of, what_ran
    from finetune.experiments.study.report import StudyPage
    from finetune.experiments.study.statistics import is_adaptive

    record = record_of(folder, cells[0], "report.json")
    title = f"Losses compared: {config.head.name} on {config.model.backbone}, {record['policy']}"
    adaptive = is_adaptive(config.train.optimizer)
    caution = at_chance(cells, (record["baseline"] or {}).get("top1"))
    return StudyPage(title, what_ran(config, record), published(record), (ABOUT,), adaptive, caution)


def published(report: Mapping[str, Any]) -> dict[str, str]:
    """Return the scores that others reported with this head, by arm; none beside another test part.

    `report` is the report.json of any cell: it tells whether the official test pictures were tested.
    """
    from finegrained.report_sections import reported_by_others

    if reported_by_others(report) is None:
        return {}
    network = NETWORKS.get(str(report["backbone"]).partition(".")[0], ())
    rows = [r for r in TABLE_IX if r.method == METHODS.get(str(report["head"])) and r.network in network]
    arms = {"CE": "cel", "CRL": "crl"}
    return {arms[row.loss]: _told(row, report["data_set"] == "cars") for row in rows}


def _told(row: Reported, on_cars: bool) -> str:
    score = row.cars if on_cars else row.cub
    rerun = f", {row.rerun[on_cars]:.2f} when rerun there" if row.rerun else ""
    return f"{score:.2f} (CRL paper, Table IX, {row.network}, one run{rerun})"
