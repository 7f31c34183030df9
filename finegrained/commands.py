"""The fine-grained commands: each turns its options into calls of this room, and tells what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finegrained.config import (
    CompareConfig,
    EvaluateFineConfig,
    FineConfig,
    FineStudyConfig,
    VerifyConfig,
)
from finegrained.recipes import RECIPES
from finetune.cli.command import Command, choose_command


@dataclass(frozen=True)
class CostConfig:
    """What heads cost on backbones: parameters, operations, speed and memory; nothing is downloaded.

    Args:
        heads: the heads to measure, by name or NAME:OPTION=VALUE; empty takes all.
        backbones: the backbones, by name.
        image_size: side of the network's input in pixels.
        classes: number of classes.
        batch_size: pictures at once where speed and memory are measured; at least 2.
        repeats: timed steps after the warm-up, of which the median counts; 0 counts and times nothing.
        device: auto, cpu, cuda or cuda:1.
        out: Markdown file to write the table to; null writes none.
    """

    heads: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ("resnet50",)
    image_size: int = 448
    classes: int = 200
    batch_size: int = 4
    repeats: int = 5
    device: str = "auto"
    out: str | None = None


def verify(config: VerifyConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Count a data set and check what can be checked before training."""
    from finegrained.task import TASK
    from finetune.experiments.data_checks import verify_data

    return verify_data(TASK, config)


def train(config: FineConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Fine-tune one model and test it once on the test split."""
    from finegrained.task import TASK
    from finetune.experiments.train import train_run

    return train_run(TASK, config)


def evaluate(config: EvaluateFineConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Score a run on its own test pictures or on other data of its classes."""
    from finegrained.task import TASK
    from finetune.experiments.evaluate import evaluate_run

    return evaluate_run(TASK, Path(words["run"]), config)


def compare(config: CompareConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Compare two results picture by picture (or two lists of seeds, joined by commas)."""
    from finegrained.task import TASK
    from finetune.experiments.compare.compare import compare_folders

    first, second = ([Path(name) for name in words[side].split(",")] for side in ("a", "b"))
    return compare_folders(TASK, first, second, config)


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
