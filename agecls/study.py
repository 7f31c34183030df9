"""`study`: one age experiment with every loss and every seed; each cell is a run of `cv` or of `train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agecls.config import AgeConfig, AgeStudyConfig, CrossValidationConfig
from agecls.published import TABLE_X
from agecls.task import TASK
from finetune.experiments.study.cells import Cell, CellPlan
from finetune.training.config import to_dict

if TYPE_CHECKING:
    from finetune.experiments.run import Experiment
    from finetune.experiments.study.report import StudyPage
    from finetune.experiments.study.statistics import Measure

# What a finished run and its report leave behind; report.md is written last.
FILES = ("run.json", "predictions.parquet", "manifest.parquet", "report.json", "report.md")
SCORES = {"accuracy": "exact_mean", "one_off": "one_off_mean", "macro_f1": "macro_f1"}
NETWORKS = {"resnet34": "ResNet-34", "resnet101": "ResNet-101", "resnet152": "ResNet-152"}
ABOUT = (
    "Every cell is an ordinary result in cells/ARM/seed-N: `crl age compare` pairs two of them, or two lists "
    "of seeds, person by person, and `crl export` takes any of their models."
)
PEOPLE = (
    "Seeds are not people: a difference that holds over seeds holds for these test people; what other people "
    "would have shown is what the intervals of `crl age compare` are about."
)
LOSSES = {"NLLR": "nllr", "CE": "cel", "CRL": "crl"}


def study_losses(config: AgeStudyConfig) -> dict[str, Any]:
    """Train every arm with every seed on the same folds, test each model once, report paired differences.

    Finished cells are never trained again, nor are the finished folds of one that was interrupted. Returns
    what report.json holds, and the study's folder.
    """
    from agecls.cross_validation import shared_config
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
    experiment = prepare_experiment(TASK, config)
    if config.cell == "train":
        experiment.split(config.data.fold)  # refuses a fold that is not there, before a folder is made
    config = replace(config, head=experiment.config.head)
    read = partial(read_cell, config, experiment)
    trainer = CellTrainer(
        arms, seeds, train=partial(train_cell, config), finished=lambda p: read(p) is not None
    )
    with no_claim_left(folder):
        claim_study(folder, shared_config(config), config.run)
        cells = run_cells(arms, seeds, folder, train=trainer, read=read)
    return end_study(folder, cells, arms, measures(config), page_of(config, folder, cells))


def run_config(config: AgeStudyConfig, plan: CellPlan) -> CrossValidationConfig | AgeConfig:
    """Return the configuration of a cell's ordinary run: of `cv`, or of `train`."""
    from finetune.experiments.study.from_runs import cell_config

    own = cell_config(config, plan)
    kind = CrossValidationConfig if config.cell == "cv" else AgeConfig
    return kind(**{item.name: getattr(own, item.name) for item in fields(kind)})


def train_cell(config: AgeStudyConfig, plan: CellPlan) -> None:
    """Leave the complete result of a cell, with its report, in the cell's folder."""
    from agecls.cross_validation import cross_validate
    from finetune.experiments.train import train_run

    own = run_config(config, plan)
    if isinstance(own, CrossValidationConfig):
        cross_validate(own)
    else:
        train_run(TASK, own)


def read_cell(config: AgeStudyConfig, experiment: Experiment, plan: CellPlan) -> Cell | None:
    """Return the finished cell; None while it is not finished, DataError where it is of another study."""
    from agecls.cross_validation import shared_config
    from finetune.experiments.study.finished_runs import cell_of, read_run
    from finetune.runs.folder import read_json

    own = run_config(config, plan)
    expected = shared_config(own) if isinstance(own, CrossValidationConfig) else to_dict(own)
    run = read_run(plan, FILES, expected, experiment.identity)
    if run is None:
        return None
    scores = read_json(plan.folder / "report.json")
    return cell_of(plan, run, {key: scores[own_name] for key, own_name in SCORES.items()})


def measures(config: AgeStudyConfig) -> tuple[Measure, ...]:
    """Return what a study of ages is judged by; the first decides."""
    from finetune.experiments.study.statistics import Measure

    mean = ", mean of folds" if config.cell == "cv" else ""
    return (
        Measure("accuracy", f"exact accuracy{mean} (%)"),
        Measure("one_off", f"one-off accuracy{mean} (%)"),
        Measure("macro_f1", "macro F1 (%)"),
    )


def page_of(config: AgeStudyConfig, folder: Path, cells: Sequence[Cell]) -> StudyPage:
    """Return what the report tells beside the statistics."""
    from finetune.experiments.study.conclusion import at_chance
    from finetune.experiments.study.finished_runs import record_of, what_ran
    from finetune.experiments.study.report import StudyPage
    from finetune.experiments.study.statistics import is_adaptive

    record = record_of(folder, cells[0], "report.json")
    folds = f"folds {', '.join(map(str, record['folds']))}"
    kind = "cross-validation" if config.cell == "cv" else "training"
    title = f"Losses compared: age groups, {config.model.backbone}, {record['policy']}"
    ran = [f"cell: one {kind} ({folds}, protocol {config.data.protocol})", *what_ran(config, record)]
    adaptive = is_adaptive(config.train.optimizer)
    caution = at_chance(cells, (record["baseline"] or {}).get("exact_mean"))
    return StudyPage(title, ran, published(config, record), (ABOUT, PEOPLE), adaptive, caution)


def published(config: AgeStudyConfig, report: Mapping[str, Any]) -> dict[str, str]:
    """Return the exact accuracies that others reported of this network, by arm; none but on Adience's folds.

    `report` is the report.json of any cell: it tells whether the data are one of Adience's editions.
    """
    from agecls.report_sections import reported_by_others

    if config.cell != "cv" or reported_by_others(report) is None:
        return {}
    network = NETWORKS.get(config.model.backbone.partition(".")[0])
    start = "none" if config.model.weights == "none" else "ImageNet"
    rows = [row for row in TABLE_X if (row.network, row.pretraining) == (network, start)]
    return {LOSSES[row.loss]: f"{row.exact:.2f} (CRL paper, Table X, one run)" for row in rows}
