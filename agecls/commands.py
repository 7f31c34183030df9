"""The age commands: those of every task, and cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agecls.config import AgeStudyConfig, CrossValidationConfig, EvaluateAgeConfig, VerifyAgeConfig
from agecls.task import TASK
from finetune.cli.command import Command, choose_command
from finetune.experiments.commands import task_commands

RECIPES = Path(__file__).parent / "configs"


def verify(config: VerifyAgeConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Count a data set and check what can be checked before training."""
    from agecls.verification import verify_data

    return verify_data(config.data, quick=config.quick, export=config.export, against=config.against)


def evaluate(config: EvaluateAgeConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Score a run on its own test images or on other data, whole and in slices."""
    from agecls.evaluation import evaluate_run

    return evaluate_run(Path(words["run"]), config)


def cross_validate(config: CrossValidationConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Run the folds, score them and write the report."""
    from agecls.cross_validation import cross_validate as run

    return run(TASK, config)


SHARED = task_commands(
    TASK,
    verify=Command(
        VerifyAgeConfig, "count a data set: folds, groups, subjects, missing and bad images", verify
    ),
    evaluate=Command(
        EvaluateAgeConfig,
        "score a run on its own test images or any table, sliced by group, gender and subject",
        evaluate,
        {"run": "a run folder of train or cv"},
    ),
    study_config=AgeStudyConfig,
    train_about="fine-tune one model and test it once on its test fold",
    recipes=RECIPES,
)
COMMANDS = {
    "verify": SHARED["verify"],
    "train": SHARED["train"],
    "cv": Command(
        CrossValidationConfig,
        "subject-exclusive cross-validation with intervals and a report",
        cross_validate,
        recipes=RECIPES,
    ),
    **SHARED,
}


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m agecls") -> int:
    """Run one age command and return its exit code."""
    import sys

    return choose_command(COMMANDS, list(sys.argv[1:] if argv is None else argv), prog=prog)
