"""The fine-grained commands: those of every task, and what heads cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finegrained.config import CostConfig, EvaluateFineConfig, FineStudyConfig, VerifyFineConfig
from finegrained.recipes import RECIPES
from finegrained.task import TASK
from finetune.cli.command import Command, choose_command
from finetune.experiments.commands import task_commands


def verify(config: VerifyFineConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Count a data set and check what can be checked before training."""
    from finegrained.verification import verify_fine_data

    return verify_fine_data(config.data, quick=config.quick, write=config.write)


def evaluate(config: EvaluateFineConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Score a run on its own test pictures or on other data of its classes."""
    from finegrained.evaluation import evaluate_run

    return evaluate_run(Path(words["run"]), config)


def cost(config: CostConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Measure what heads cost on backbones."""
    from finegrained.cost.measure import measure_costs

    return measure_costs(config)


COMMANDS = {
    **task_commands(
        TASK,
        verify=Command(
            VerifyFineConfig,
            "count a data set: classes, parts, missing, unreadable and equal pictures",
            verify,
        ),
        evaluate=Command(
            EvaluateFineConfig,
            "score a run on its own test pictures, with other crops or weights, or on other data",
            evaluate,
            {"run": "a run folder of train"},
        ),
        study_config=FineStudyConfig,
        train_about="fine-tune one model and test it once on the test split",
        recipes=RECIPES,
    ),
    "cost": Command(CostConfig, "what each head costs: parameters, operations, speed and memory", cost),
}


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m finegrained") -> int:
    """Run one fine-grained command and return its exit code."""
    import sys

    return choose_command(COMMANDS, list(sys.argv[1:] if argv is None else argv), prog=prog)
