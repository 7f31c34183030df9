"""`study`: every loss with every seed under equal budgets, and what their paired differences support."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import FREE_KEYS, to_dict
from finetune.console import say
from finetune.errors import UsageError
from finetune.run_folder import check_content
from finetune.study.arms import Arm
from finetune.study.cells import Cell
from finetune.study.frame import run_cells
from finetune.study.from_runs import claim_study
from finetune.study.study_options import arms_of, seeds_of
from generalcls.config import GeneralConfig, GeneralStudyConfig

if TYPE_CHECKING:
    from generalcls.cells import CellTrainer

# How fast and how often, but not what is learned.
FREE = (*FREE_KEYS, "run.together", "run.compile")


def study_losses(config: GeneralStudyConfig) -> dict[str, Any]:
    """Train every cell that is not finished, then compare, draw and report; return report.json's object.

    Raises UsageError for a folder that holds something else or a study with other settings, and DataError
    for data that cannot be read or are others than those of the finished cells.
    """
    from generalcls.cells import CellTrainer
    from generalcls.data import read_general_data
    from generalcls.report import report_study

    check_place(config)
    arms, seeds = arms_of(config), list(seeds_of(config))
    folder = Path(config.run.dir)
    data = read_general_data(config.data, cache=config.run.cache)
    for note in data.notes:
        say(note)
    trainer = CellTrainer(config, data, folder)
    claim(config)
    cells = run_cells(arms, seeds, folder, train=trainer.train, read=trainer.read)
    return conclude(config, trainer, arms, cells, report_study)


def check_place(config: GeneralConfig) -> None:
    """Raise UsageError, before any work, where the results cannot go."""
    if not config.run.dir:
        raise UsageError("no place for the results: give --run.dir FOLDER")
    check_content(Path(config.run.dir), config.run.resume)


def claim(config: GeneralConfig) -> None:
    """Make or reopen the folder of a study or run; which cells there are may change, nothing else."""
    claim_study(Path(config.run.dir), to_dict(config), config.run, FREE)


def conclude(
    config: GeneralConfig, trainer: CellTrainer, arms: Sequence[Arm], cells: Sequence[Cell], report: Any
) -> dict[str, Any]:
    """Write the report and say in words what came out."""
    result: dict[str, Any] = report(config, trainer, arms, cells)
    for sentence in result["conclusion"]:
        say(sentence)
    say(f"report: {result['page']}")
    return result
