"""The age commands: each turns its options into calls of this room, and tells a person what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agecls.config import (
    AgeConfig,
    AgeDataConfig,
    AgeStudyConfig,
    CompareConfig,
    CrossValidationConfig,
    EvaluateAgainConfig,
)
from finetune.cli.command import Command, choose_command


@dataclass(frozen=True)
class VerifyConfig:
    """A look at a data set without training.

    Args:
        quick: count and check the lists only; do not open every picture.
        export: folder to write every fold's train, validation and test lists to (relative paths, CSV).
        against: folder of such lists; it is an error when they are not the splits of this data.
    """

    data: AgeDataConfig = field(default_factory=AgeDataConfig)
    quick: bool = False
    export: str | None = None
    against: str | None = None


@dataclass(frozen=True)
class EvaluateAgeConfig:
    """A trained run on its own test images, or on any other data.

    Args:
        crop: own (pictures as they are), or detector: also cut out again by a face detector, to tell what the
            crops made in use cost against those of the data.
        detector: the YuNet face detector's ONNX file; null looks in the usual places.
        face_crop: how the detector's faces are cut out: aligned, faces, plain, or auto (as the run's pictures
            are: told by Adience's layout, measured on others).
        face_margin: share of the face box added on every side for faces and plain; null is the style's own.
        device: auto, cpu, cuda or cuda:1.
        cache: where decoded pictures of other data are kept: auto (the user's cache folder), none, or one
            named.
        out: folder for predictions.parquet and evaluation.json; null writes nothing.
    """

    data: AgeDataConfig = field(default_factory=AgeDataConfig)
    evaluate: EvaluateAgainConfig = field(default_factory=EvaluateAgainConfig)
    crop: Literal["own", "detector"] = "own"
    detector: str | None = None
    face_crop: Literal["auto", "aligned", "faces", "plain"] = "auto"
    face_margin: float | None = None
    device: str = "auto"
    cache: str = "auto"
    out: str | None = None


def verify(config: VerifyConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Count a data set and check what can be checked before training."""
    from agecls.verification import verify_data

    return verify_data(config.data, quick=config.quick, export=config.export, against=config.against)


def train(config: AgeConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Fine-tune one model and test it once on its test fold."""
    from agecls.task import TASK
    from finetune.experiments.train import train_run

    return train_run(TASK, config)


def cross_validate(config: CrossValidationConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Run the folds, score them and write the report."""
    from agecls.cross_validation import cross_validate as run

    return run(config)


def evaluate(config: EvaluateAgeConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Score a run on its own test images or on other data, whole and in slices."""
    from agecls.evaluation import evaluate_run

    return evaluate_run(Path(words["run"]), config)


def compare(config: CompareConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Compare two results image by image (or two lists of seeds, joined by commas)."""
    from agecls.task import TASK
    from finetune.experiments.compare.compare import compare_folders

    first, second = ([Path(name) for name in words[side].split(",")] for side in ("a", "b"))
    return compare_folders(TASK, first, second, config)


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
