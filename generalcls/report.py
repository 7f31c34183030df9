"""The general study's page: what ran on what, and the papers' own numbers in a column of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.cli.command import command_line
from finetune.experiments.study.arms import Arm
from finetune.experiments.study.cells import Cell
from finetune.experiments.study.conclusion import at_chance
from finetune.experiments.study.finished_runs import end_study
from finetune.experiments.study.report import StudyPage
from finetune.experiments.study.statistics import Measure, is_adaptive
from finetune.figures.markdown import code, escape
from finetune.runs.folder import versions
from generalcls.config import GeneralStudyConfig, GeneralTrainConfig
from generalcls.published import reported

if TYPE_CHECKING:
    from generalcls.data.datasets import GeneralData
    from generalcls.parallel.cells import CellTrainer

MEASURES = (
    Measure("accuracy", "accuracy (%)"),
    Measure("macro_f1", "macro-F1 (%)"),
    Measure("top5", "top-5 accuracy (%)"),
)
REMEDY = (
    "Train longer or at another learning rate; "
    "for few images, fine-tune a pretrained backbone (crl fine study)."
)


def report_study(
    config: GeneralStudyConfig, trainer: CellTrainer, arms: Sequence[Arm], cells: Sequence[Cell]
) -> dict[str, Any]:
    """Write report.md, report.json, table.csv and the figures, and say what was found; see `end_study`.

    What others report is shown only where the whole official test part was tested.
    """
    data = trainer.data
    measured = {key for cell in cells for key, value in cell.scores.items() if value is not None}
    measures = [measure for measure in MEASURES if measure.key in measured]
    published = reported(data.name, trainer.network_name) if data.official_test else {}
    page = StudyPage(
        title=f"Losses compared: {data.name}, {trainer.network_name}",
        what_ran=what_ran(config, trainer, cells),
        published={arm.name: published[arm.name] for arm in arms if arm.name in published},
        adaptive=is_adaptive(config.train.optimizer),
        notes=notes(trainer),
        caution=at_chance(cells, guessing(trainer.data), REMEDY),
    )
    return end_study(Path(config.run.dir), cells, arms, measures, page, facts(trainer))


def facts(trainer: CellTrainer) -> dict[str, Any]:
    """Return what report.json records of the study beside its scores."""
    data = trainer.data
    return {
        "command": command_line(),
        "data": data.name,
        "fingerprint": data.fingerprint,
        "n_train": len(data.train.target),
        "n_test": len(data.test.target),
        "official_test": data.official_test,
        "network": trainer.network_name,
        "parameters": trainer.parameters,
        "versions": versions(),
    }


def what_ran(config: GeneralStudyConfig, trainer: CellTrainer, cells: Sequence[Cell]) -> list[str]:
    """Return the lines of "what ran"."""
    data, train = trainer.data, config.train
    of_train = (
        f" ({100 * config.data.train_fraction:g} % of each class)" if config.data.train_fraction < 1 else ""
    )
    precisions = sorted({str(cell.facts.get("precision")) for cell in cells})
    lines = [
        f"Data: {data.name}, {len(data.train.target):,} training images{of_train}, "
        f"{len(data.test.target):,} test images, {len(data.class_names)} classes; fingerprint "
        f"{data.fingerprint[:12]}. The majority-class baseline scores "
        f"{guessing(data):.2f} %.",
        f"Network: {trainer.network_name}, {trainer.parameters:,} parameters.",
        f"Training, equal for all: {train_text(train)}",
        f"Device: {', '.join(sorted({cell.device for cell in cells}))}; {', '.join(precisions)}.",
        f"Versions: {', '.join(f'{name} {version}' for name, version in versions().items())}.",
    ]
    return [*map(escape, lines), f"Command: {code(command_line())}"]


def guessing(data: GeneralData) -> float:
    """Return the accuracy, in per cent, of always predicting the most frequent training class."""
    commonest = np.bincount(data.train.target, minlength=len(data.class_names)).argmax()
    return 100 * float(np.mean(data.test.target == commonest))


def train_text(train: GeneralTrainConfig) -> str:
    """Return the training settings in one line.

    >>> train_text(GeneralTrainConfig(epochs=3, optimizer="adadelta", lr=1.0, schedule="constant"))
    '3 epochs, batch 64, adadelta, learning rate 1 (constant), weight decay 0.0001, no augmentation.'
    """
    shares = ", ".join(f"{100 * share:g} %" for share in train.milestones)
    schedule = {
        "step": f"times {train.gamma:g} after {shares} of the steps" if shares else "constant",
        "cosine": "cosine",
        "constant": "constant",
        "inverse": f"divided by 1 + {train.decay:g} step",
    }[train.schedule]
    momentum = (
        f" (Nesterov momentum {train.momentum:g})" if train.optimizer == "sgd" and train.momentum else ""
    )
    augment = {
        "none": "no augmentation",
        "crop_flip": "random crop and mirror",
        "shift_flip": "shift and mirror",
    }
    return (
        f"{train.epochs} epochs, batch {train.batch_size}, {train.optimizer}{momentum}, learning rate "
        f"{train.lr:g} ({schedule}), weight decay {train.weight_decay:g}, {augment[train.augment]}."
    )


def notes(trainer: CellTrainer) -> list[str]:
    """Return what a reader must know of this study's data and settings."""
    found = list(trainer.data.notes)
    if not trainer.data.official_test:
        found.append(
            "The test images are not the published test part, whole and as it is: no score can be set beside "
            "a published one."
        )
    if trainer.config.data.train_fraction < 1:
        found.append("Trained on a part of the training images: scores are lower than with all of them.")
    found.append(
        "One learning rate and schedule for all losses, not tuned for any of them: a loss that wants another "
        "learning rate is at a disadvantage."
    )
    return [*map(escape, found)]
