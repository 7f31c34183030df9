"""The fine-grained commands: each turns its options into calls of this room, and tells what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finegrained.config import (
    CompareConfig,
    CostConfig,
    EvaluateFineConfig,
    FineConfig,
    FineStudyConfig,
    VerifyConfig,
)
from finegrained.recipes import RECIPES
from finetune.cli.command import Command, choose_command


def verify(config: VerifyConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Count a data set and check what can be checked before training."""
    from finegrained.verification import verify_fine_data

    return verify_fine_data(config.data, quick=config.quick, write=config.write)


def train(config: FineConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Fine-tune one model and test it once on the test split."""
    from finegrained.train import train_run

    return train_run(config)


def evaluate(config: EvaluateFineConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Score a run on its own test pictures or on other data of its classes."""
    from finegrained.evaluation import evaluate_run

    return evaluate_run(Path(words["run"]), config)


def compare(config: CompareConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Compare two results picture by picture (or two lists of seeds, joined by commas)."""
    from finegrained.comparison import compare_folders

    first, second = ([Path(name) for name in words[side].split(",")] for side in ("a", "b"))
    return compare_folders(first, second, config)


def study(config: FineStudyConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Train every loss with every seed, and report the paired differences."""
    from finegrained.study import study_losses

    return study_losses(config)


def cost(config: CostConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Measure what heads cost on backbones."""
    from finegrained.cost.measure import measure_costs

    return measure_costs(config)


COMMANDS = {
    "verify": Command(
        VerifyConfig, "count a data set: classes, parts, missing, unreadable and equal pictures", verify
    ),
    "train": Command(
        FineConfig, "fine-tune one model and test it once on the test split", train, recipes=RECIPES
    ),
    "evaluate": Command(
        EvaluateFineConfig,
        "score a run on its own test pictures, with other crops or weights, or on other data",
        evaluate,
        {"run": "a run folder of train"},
    ),
    "compare": Command(
        CompareConfig,
        "two results, paired on the same pictures",
        compare,
        {"a": "a run folder, or several (seeds) joined by commas", "b": "the run to compare with it"},
    ),
    "study": Command(
        FineStudyConfig,
        "many losses, each with the same seeds, and what their paired differences say",
        study,
        recipes=RECIPES,
    ),
    "cost": Command(CostConfig, "what each head costs: parameters, operations, speed and memory", cost),
}


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m finegrained") -> int:
    """Run one fine-grained command and return its exit code."""
    import sys

    return choose_command(COMMANDS, list(sys.argv[1:] if argv is None else argv), prog=prog)
