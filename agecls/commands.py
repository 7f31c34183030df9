"""The age commands: those of every task, and cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agecls.audit.config import AuditConfig
from agecls.config import (
    AgeCalibrateConfig,
    AgeCompareConfig,
    AgeStudyConfig,
    AgeTableConfig,
    AgeTuneConfig,
    CrossValidationConfig,
    EvaluateAgeConfig,
    VerifyAgeConfig,
)
from agecls.data.known.registry import SETS
from agecls.task import TASK
from finetune.cli.command import Command, choose_command
from finetune.experiments.commands import task_commands
from finetune.experiments.config import input_faults

if TYPE_CHECKING:
    from agecls.audit.models import OpenModel

RECIPES = Path(__file__).parent / "configs"


def evaluate(config: EvaluateAgeConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Score a run on its own test images or on other data, whole and in slices, or with other crops."""
    from agecls.evaluation import evaluate_age_run

    return evaluate_age_run(TASK, Path(words["run"]), config)


def cross_validate(config: CrossValidationConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Run the folds, score them and write the report."""
    from agecls.cross_validation import cross_validate as run

    return run(TASK, config)


def write_table(config: AgeTableConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Write a published set of faces as one checked table."""
    from agecls.data.write_table import write_age_table

    return write_age_table(words["name"], config)


def audit(
    config: AuditConfig, words: Mapping[str, str], open_model: OpenModel | None = None
) -> dict[str, Any]:
    """Audit predicted ages at a legal age; `open_model` loads exported models, which this room cannot."""
    from agecls.audit.run import audit as run

    return run(Path(words["answers"]), config, open_model)


SHARED = task_commands(
    TASK,
    verify=(VerifyAgeConfig, "count a data set: folds, groups, subjects, missing and bad images"),
    evaluate=(
        EvaluateAgeConfig,
        "score a run on its own test images or any table, sliced by group, gender and subject",
    ),
    evaluated="a run folder of train or cv",
    study_config=AgeStudyConfig,
    tune_config=AgeTuneConfig,
    train_about="fine-tune one model and test it once on its test fold",
    recipes=RECIPES,
    calibrate=AgeCalibrateConfig,
)
COMMANDS = {
    "verify": SHARED["verify"],
    "table": Command(
        AgeTableConfig,
        "write a published set of faces as one checked table",
        write_table,
        {"name": f"the set: {', '.join(SETS)}"},
        faults=input_faults,
    ),
    "train": SHARED["train"],
    "cv": Command(
        CrossValidationConfig,
        "subject-exclusive cross-validation with intervals and a report",
        cross_validate,
        recipes=RECIPES,
        faults=input_faults,
    ),
    **SHARED,
    "evaluate": replace(SHARED["evaluate"], run=evaluate),
    "compare": replace(SHARED["compare"], config_type=AgeCompareConfig),
    "audit": Command(
        AuditConfig,
        "predicted ages at a legal age: error rates with intervals, what they can show, curves, fairness",
        audit,
        {"answers": "a run folder, a predictions.parquet, a CSV of any system, or an .onnx file and a table"},
        faults=partial(input_faults, needed=False),
    ),
}


def main(
    argv: Sequence[str] | None = None,
    *,
    prog: str = "python -m agecls",
    open_model: OpenModel | None = None,
) -> int:
    """Run one age command and return its exit code; `open_model` loads the exported models of an audit."""
    import sys

    own = replace(COMMANDS["audit"], run=partial(audit, open_model=open_model))
    words = list(sys.argv[1:] if argv is None else argv)
    return choose_command({**COMMANDS, "audit": own}, words, prog=prog)
