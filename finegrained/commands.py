"""The fine-grained commands: those of every task, and what heads cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finegrained.config import (
    CostConfig,
    EvaluateFineConfig,
    FineCalibrateConfig,
    FineStudyConfig,
    FineTuneConfig,
    VerifyFineConfig,
)
from finegrained.recipes import RECIPES
from finegrained.task import TASK
from finetune.cli.command import Command, choose_command
from finetune.experiments.commands import task_commands


def cost(config: CostConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Measure what heads cost on backbones."""
    from finegrained.cost.measure import measure_costs

    return measure_costs(config)


COMMANDS = {
    **task_commands(
        TASK,
        verify=(
            VerifyFineConfig,
            "count a data set: classes, parts, missing, unreadable and equal images",
        ),
        evaluate=(
            EvaluateFineConfig,
            "score a run on its own test images, with other crops or weights, or on other data",
        ),
        evaluated="a run folder of train",
        study_config=FineStudyConfig,
        tune_config=FineTuneConfig,
        train_about="fine-tune one model and test it once on the test split",
        recipes=RECIPES,
        calibrate=FineCalibrateConfig,
    ),
    "cost": Command(CostConfig, "what each head costs: parameters, operations, speed and memory", cost),
}


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m finegrained") -> int:
    """Run one fine-grained command and return its exit code."""
    import sys

    return choose_command(COMMANDS, list(sys.argv[1:] if argv is None else argv), prog=prog)
