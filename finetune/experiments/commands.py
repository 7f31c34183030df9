"""The commands that every task has: verify, train, evaluate, compare, study; a task adds its own to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.cli.command import Command
from finetune.experiments.config import CompareConfig
from finetune.experiments.task import Task

Words = Mapping[str, str]


def task_commands(
    task: Task,
    *,
    verify: Command,
    evaluate: Command,
    study_config: type[Any],
    train_about: str,
    recipes: Path,
) -> dict[str, Command]:
    """Return the commands of a task by name, in the order in which they are used.

    Args:
        task: what is trained, compared and studied.
        verify: counts and checks its data.
        evaluate: scores its runs again.
        study_config: the options of its study of losses.
        train_about: what `train` does, in a line.
        recipes: the folder of its YAML files, which train and study find by name.
    """

    def train(config: Any, words: Words) -> dict[str, Any]:
        """Fine-tune one model and test it once."""
        from finetune.experiments.train import train_run

        return train_run(task, config)

    def compare(config: CompareConfig, words: Words) -> dict[str, Any]:
        """Compare two results image by image, or two lists of seeds, joined by commas."""
        from finetune.experiments.compare.compare import compare_folders

        first, second = ([Path(name) for name in words[side].split(",")] for side in ("a", "b"))
        return compare_folders(task, first, second, config)

    def study(config: Any, words: Words) -> dict[str, Any]:
        """Train every loss with every seed, and report the paired differences."""
        from finetune.experiments.study.runs import study_losses

        return study_losses(task, config)

    sides = {
        "a": "a result folder, or several (seeds) joined by commas",
        "b": "the result to compare with it",
    }
    about = "many losses, each with the same seeds, and what their paired differences say"
    return {
        "verify": verify,
        "train": Command(task.config_type, train_about, train, recipes=recipes),
        "evaluate": evaluate,
        "compare": Command(CompareConfig, "two results, paired on the same images", compare, sides),
        "study": Command(study_config, about, study, recipes=recipes),
    }
