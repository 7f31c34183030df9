"""The commands that tasks share, from verify to study; a task adds its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from finetune.cli.command import Command
from finetune.experiments.config import CompareConfig, input_faults
from finetune.experiments.task import Task

Words = Mapping[str, str]


def task_commands(
    task: Task,
    *,
    verify: tuple[type[Any], str],
    evaluate: tuple[type[Any], str],
    evaluated: str,
    study_config: type[Any],
    train_about: str,
    recipes: Path,
    calibrate: type[Any] | None = None,
    tune_config: type[Any] | None = None,
) -> dict[str, Command]:
    """Return the commands of a task by name, in the order in which they are used.

    Args:
        task: what is trained, compared and studied.
        verify: the options of a look at its data, and what that is, in a line.
        evaluate: the options of an evaluation of a finished run, and what that is, in a line.
        evaluated: which folder an evaluation takes, in words.
        study_config: the options of its study of losses.
        train_about: what `train` does, in a line.
        recipes: the folder of its YAML files, which train and study find by name.
        calibrate: the options of a calibration of a finished run; None for a task without one.
        tune_config: the options of its search for rates; None for a task without one.
    """

    def verify_data(config: Any, words: Words) -> dict[str, Any]:
        """Count a data set and check what can be checked before training."""
        from finetune.experiments.data_checks import verify_data as run

        return run(task, config)

    def train(config: Any, words: Words) -> dict[str, Any]:
        """Fine-tune one model and test it once."""
        from finetune.experiments.train import train_run

        return train_run(task, config)

    def evaluate_run(config: Any, words: Words) -> dict[str, Any]:
        """Score a run on its own test images or on other data."""
        from finetune.experiments.evaluate import evaluate_run as run

        return run(task, Path(words["run"]), config)

    def calibrate_run(config: Any, words: Words) -> dict[str, Any]:
        """Fit temperature and sets on images that a run's models never saw."""
        from finetune.experiments.probabilities.calibrate import calibrate_run as run

        return run(task, Path(words["run"]), config)

    def compare(config: CompareConfig, words: Words) -> dict[str, Any]:
        """Compare two results image by image, or two lists of seeds, joined by commas."""
        from finetune.experiments.compare.compare import compare_folders

        first, second = ([Path(name) for name in words[side].split(",")] for side in ("a", "b"))
        return compare_folders(task, first, second, config)

    def study(config: Any, words: Words) -> dict[str, Any]:
        """Train every loss with every seed, and report the paired differences."""
        from finetune.experiments.study.runs import study_losses

        return study_losses(task, config)

    def tune_rates(config: Any, words: Words) -> dict[str, Any]:
        """Find learning rates, weight decay and epochs on validation images alone."""
        from finetune.experiments.tune.tune import tune

        return tune(task, config, study_config)

    sides = {
        "a": "a result folder, or several (seeds) joined by commas",
        "b": "the result to compare with it",
    }
    calibration = {}
    if calibrate is not None:
        told = "probabilities and sets of classes that keep their word, from images held out"
        faults = partial(input_faults, needed=False)
        calibration["calibrate"] = Command(calibrate, told, calibrate_run, {"run": evaluated}, faults=faults)
    about = "many losses, each with the same seeds, and what their paired differences say"
    rates = "learning rates, weight decay and epochs, found without reading the test part"
    tuning = {}
    if tune_config is not None:
        tuning["tune"] = Command(tune_config, rates, tune_rates, recipes=recipes, faults=input_faults)
    return {
        "verify": Command(*verify, verify_data, faults=input_faults),
        "train": Command(task.config_type, train_about, train, recipes=recipes, faults=input_faults),
        **tuning,
        "evaluate": Command(
            *evaluate, evaluate_run, {"run": evaluated}, faults=partial(input_faults, needed=False)
        ),
        **calibration,
        "compare": Command(CompareConfig, "two results, paired on the same images", compare, sides),
        "study": Command(study_config, about, study, recipes=recipes, faults=input_faults),
    }
