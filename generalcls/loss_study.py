"""`study`: every loss with every seed under equal budgets, and what their paired differences support."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.cli.console import say
from finetune.errors import UsageError
from finetune.experiments.config import arms_of, seeds_of
from finetune.experiments.study.arms import Arm
from finetune.experiments.study.folder import check_place, claim_study, no_claim_left
from finetune.experiments.study.schedule import run_cells
from finetune.runs.config_file import FREE_KEYS
from finetune.training.config import to_dict
from generalcls.config import GeneralStudyConfig

# How fast and how often, but not what is learned.
FREE = (*FREE_KEYS, "run.deterministic", "run.together", "run.compile", "train.evaluate_every")


def study_losses(config: GeneralStudyConfig) -> dict[str, Any]:
    """Train every cell that is not finished, then compare, draw and report.

    Returns the summary of `finetune.experiments.study.statistics`, what ran as `what`, and the folder as
    `study`.

    Raises UsageError for a folder that holds something else or a study with other settings, and DataError
    for data that cannot be read or are others than those of the finished cells.
    """
    from generalcls.data.verify import read_checked
    from generalcls.parallel.cells import IN_TRAINING, CellTrainer
    from generalcls.report import report_study

    check_place(config.run)
    refuse_order(arms_of(config))
    arms, seeds = arms_of(config), list(seeds_of(config))
    folder = Path(config.run.dir)
    data = read_checked(config.data, config.run.cache)
    for note in data.notes:
        say(note)
    trainer = CellTrainer(config, data, folder)
    with no_claim_left(folder):
        claim_study(folder, to_dict(config), config.run, FREE)
        cells = run_cells(arms, seeds, folder, train=trainer.train, read=trainer.read)
    if len(cells) == len(arms) * len(seeds):  # nobody is at work any more
        shutil.rmtree(folder / IN_TRAINING, ignore_errors=True)
    return report_study(config, trainer, arms, cells)


def refuse_order(arms: Sequence[Arm]) -> None:
    """Raise UsageError for an arm that reads the order of classes: general data sets have none."""
    for arm in arms:
        if found := arm.reads_order:
            raise UsageError(
                f"{arm.name}: only for classes with an order: {' and '.join(found)}; those of a general data "
                "set have none: leave it out"
            )
