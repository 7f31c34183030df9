"""The age commands: each turns its options into calls of this room, and tells a person what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agecls.config import (
    AgeConfig,
    AgeStudyConfig,
    CompareConfig,
    CrossValidationConfig,
    EvaluateAgeConfig,
    VerifyConfig,
)
from finetune.cli.command import Command, choose_command


def verify(config: VerifyConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Count a data set and check what can be checked before training."""
    from agecls.verification import verify_data

    return verify_data(config.data, quick=config.quick, export=config.export, against=config.against)


def train(config: AgeConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Fine-tune one model and test it once on its test fold."""
    from agecls.single import train_single

    return train_single(config)


def cross_validate(config: CrossValidationConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Run the folds, score them and write the report."""
    from agecls.cross_validation import cross_validate as run

    return run(config)


def evaluate(config: EvaluateAgeConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Score a run on its own test images or on other data, whole and in slices."""
    if config.crop == "detector":
        from agecls.crop_evaluation import evaluate_recropped

        return evaluate_recropped(Path(words["run"]), config)
    from agecls.evaluation import evaluate_run

    return evaluate_run(Path(words["run"]), config)


def compare(config: CompareConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Compare two results image by image (or two lists of seeds, joined by commas)."""
    from agecls.comparison import compare_folders

    first, second = ([Path(name) for name in words[side].split(",")] for side in ("a", "b"))
    return compare_folders(first, second, config)


def study(config: AgeStudyConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Train every loss with every seed, and report the paired differences."""
    from agecls.study import study_losses

    return study_losses(config)


RECIPES = Path(__file__).parent / "configs"

COMMANDS = {
    "verify": Command(
        VerifyConfig, "count a data set: folds, groups, subjects, missing and bad images", verify
    ),
    "train": Command(
        AgeConfig, "fine-tune one model and test it once on its test fold", train, recipes=RECIPES
    ),
    "cv": Command(
        CrossValidationConfig,
        "subject-exclusive cross-validation with intervals and a report",
        cross_validate,
        recipes=RECIPES,
    ),
    "evaluate": Command(
        EvaluateAgeConfig,
        "score a run on its own test images or any table, sliced by group, gender and subject",
        evaluate,
        {"run": "a run folder of train or cv"},
    ),
    "compare": Command(
        CompareConfig,
        "two results, paired on the same images",
        compare,
        {"a": "a result folder, or several (seeds) joined by commas", "b": "the result to compare with it"},
    ),
    "study": Command(
        AgeStudyConfig,
        "many losses, each with the same seeds, and what their paired differences say",
        study,
        recipes=RECIPES,
    ),
}


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m agecls") -> int:
    """Run one age command and return its exit code."""
    import sys

    return choose_command(COMMANDS, list(sys.argv[1:] if argv is None else argv), prog=prog)
