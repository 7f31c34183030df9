"""The age commands as functions in Python; the package's names lead here.

Those on finished runs are in `agecls.door_results`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Never

from agecls.config import (
    AgeConfig,
    AgeDataConfig,
    AgeEvaluateConfig,
    AgeStudyConfig,
    AgeTrainConfig,
    AgeTuneConfig,
    CrossValidationConfig,
    VerifyAgeConfig,
)
from agecls.door_results import DOOR, audit_ages, calibrate, compare, evaluate, load_result
from agecls.task import TASK
from finetune.cli.keywords import Call, Place, Section
from finetune.errors import UsageError
from finetune.experiments.door import TaskResult
from finetune.experiments.study.arms import Matching
from finetune.experiments.tune.config import SearchConfig
from finetune.figures.notebook import Outcome
from finetune.training.config import HeadConfig, LossConfig, ModelConfig, RunConfig

__all__ = [
    "audit_ages",
    "calibrate",
    "compare",
    "cross_validate",
    "evaluate",
    "load_result",
    "study",
    "train",
    "tune",
    "verify",
]


def _cross_validated(call: Call[CrossValidationConfig]) -> TaskResult:
    """Run every fold; refuse a configuration of single folds, which leaves no result."""
    if call.config.folds or not call.config.report:
        raise UsageError("folds and report belong to the command line (crl age cv): here every fold is run")
    DOOR.run("cv", call)
    return TaskResult.open(TASK, Path(call.config.run.dir))


def verify(
    config: VerifyAgeConfig | Place | None = None,
    *,
    data: AgeDataConfig | Section | str | None = None,
    quick: bool | None = None,
    export: Place | None = None,
    against: Place | None = None,
    root: Place | None = None,
    table: Place | None = None,
    **unknown: Never,
) -> Outcome:
    """Count a data set and check what can be checked before training, as `crl age verify` does.

    Args:
        config: the options as an object, or a YAML file; the other arguments override it.
        data: the section's keys and values, its dataclass, or a published set's name.
        quick: count and check the lists only; do not open every image.
        export: folder to write every fold's lists to.
        against: folder of such lists to compare with.
        root, table: short for data.root and data.table.
        unknown: refused.

    Returns what was found, by name. Raises CrlError, such as DataError for images that cannot be read.
    """
    return DOOR.verify(locals())


def train(
    config: AgeConfig | Place | None = None,
    *,
    data: AgeDataConfig | Section | str | None = None,
    model: ModelConfig | Section | None = None,
    head: HeadConfig | Section | str | None = None,
    loss: LossConfig | Section | str | None = None,
    train: AgeTrainConfig | Section | None = None,
    evaluate: AgeEvaluateConfig | Section | None = None,
    run: RunConfig | Section | None = None,
    device: str | None = None,
    root: Place | None = None,
    table: Place | None = None,
    backbone: str | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    run_dir: Place | None = None,
    **unknown: Never,
) -> TaskResult:
    """Fine-tune one model, test it once, and return its result, as `crl age train` does.

    A finished run is left as it is with `run=dict(resume="auto")`; without, a folder that is used is refused.

    Args:
        config: the options as an object, a recipe's name, or a YAML file; the other arguments override it.
        data, model, head, loss, train, evaluate, run, device: the options of the command line by section, as
            keys and values, or as the section's dataclass, which says every key. A head or a loss may be its
            name; a loss also a word: "crl:alpha=1".
        root to run_dir: short for data.root, data.table, model.backbone, model.image_size, train.epochs,
            train.batch_size, train.lr, train.seed and run.dir.
        unknown: refused, with the nearest known name.

    Returns the result: scores, predictions, report(). Raises CrlError: UsageError for invalid options,
    DataError for the data, ResourceError for memory, disk or device.
    """
    return DOOR.train(locals())


def cross_validate(
    config: CrossValidationConfig | Place | None = None,
    *,
    data: AgeDataConfig | Section | str | None = None,
    model: ModelConfig | Section | None = None,
    head: HeadConfig | Section | str | None = None,
    loss: LossConfig | Section | str | None = None,
    train: AgeTrainConfig | Section | None = None,
    evaluate: AgeEvaluateConfig | Section | None = None,
    run: RunConfig | Section | None = None,
    device: str | None = None,
    devices: Sequence[str] | None = None,
    root: Place | None = None,
    table: Place | None = None,
    backbone: str | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    run_dir: Place | None = None,
    **unknown: Never,
) -> TaskResult:
    """Train and test every fold, no subject in both training and test, as `crl age cv` does.

    A finished fold is never run again with `run=dict(resume="auto")`.

    Args:
        config: the options as an object, a recipe's name, or a YAML file; the other arguments override it.
        data, model, head, loss, train, evaluate, run, device: the options of the command line by section, as
            keys and values, or as the section's dataclass, which says every key. A head or a loss may be its
            name; a loss also a word: "crl:alpha=1".
        devices: one fold at a time on each, in processes of their own.
        root to run_dir: short for data.root, data.table, model.backbone, model.image_size, train.epochs,
            train.batch_size, train.lr, train.seed and run.dir.
        unknown: refused, with the nearest known name.

    Returns the joined result of all folds. Raises CrlError as `train`, and UsageError for a configuration of
    single folds, which only the command line runs.
    """
    return _cross_validated(DOOR.call("cv", locals()))


def tune(
    config: AgeTuneConfig | Place | None = None,
    *,
    arms: Sequence[str] | None = None,
    search: SearchConfig | Section | None = None,
    data: AgeDataConfig | Section | str | None = None,
    model: ModelConfig | Section | None = None,
    head: HeadConfig | Section | str | None = None,
    loss: LossConfig | Section | str | None = None,
    train: AgeTrainConfig | Section | None = None,
    evaluate: AgeEvaluateConfig | Section | None = None,
    run: RunConfig | Section | None = None,
    device: str | None = None,
    root: Place | None = None,
    table: Place | None = None,
    backbone: str | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    run_dir: Place | None = None,
    **unknown: Never,
) -> Outcome:
    """Find learning rates, weight decay and epochs on validation images, as `crl age tune` does.

    The test part is never read.

    Args:
        config: the options as an object, a recipe's name, or a YAML file; the other arguments override it.
        arms: words such as "cel" and "crl:alpha=1", each searched alike; without, the configuration's loss.
        search: what is tried, how and for how long, as keys and values: search=dict(lr=(0.001, 0.01)).
        data, model, head, loss, train, evaluate, run, device: the options of the command line by section.
        root to run_dir: short for data.root, data.table, model.backbone, model.image_size, train.epochs,
            train.batch_size, train.lr and run.dir.
        unknown: refused, with the nearest known name.

    Returns what was found by name, with `report()`; "configs" are the files that run as they are. Raises
    CrlError as `train`.
    """
    return DOOR.tune(locals())


def study(
    config: AgeStudyConfig | Place | None = None,
    *,
    losses: Sequence[str] | None = None,
    baseline: bool | None = None,
    seeds: int | None = None,
    first_seed: int | None = None,
    controls: bool | None = None,
    label_smoothing: float | None = None,
    lr_match: Sequence[Matching] | None = None,
    grid: bool | None = None,
    grid_alphas: Sequence[float] | None = None,
    grid_betas: Sequence[float] | None = None,
    rates: Mapping[str, Mapping[str, float]] | None = None,
    cell: Literal["cv", "train"] | None = None,
    devices: Sequence[str] | None = None,
    data: AgeDataConfig | Section | str | None = None,
    model: ModelConfig | Section | None = None,
    head: HeadConfig | Section | str | None = None,
    loss: LossConfig | Section | str | None = None,
    train: AgeTrainConfig | Section | None = None,
    evaluate: AgeEvaluateConfig | Section | None = None,
    run: RunConfig | Section | None = None,
    device: str | None = None,
    root: Place | None = None,
    table: Place | None = None,
    backbone: str | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    run_dir: Place | None = None,
    **unknown: Never,
) -> Outcome:
    """Train every loss with every seed under equal budgets, as `crl age study` does.

    Args:
        config: the options as an object, a recipe's name, or a YAML file; the other arguments override it.
        losses: words such as "crl:alpha=1" or "lsoftmax:margin=2".
        baseline, seeds, first_seed, controls, label_smoothing, lr_match, grid, grid_alphas, grid_betas: which
            arms and controls there are, as `crl age study --help` says.
        rates: rates of single arms, as `tune` finds them: dict(crl=dict(lr=0.001)).
        cell: what one loss with one seed is: cv or train.
        devices: one fold at a time on each, in processes of their own.
        data, model, head, loss, train, evaluate, run, device: the options of the command line by section, as
            keys and values, or as the section's dataclass, which says every key. A head or a loss may be its
            name; a loss also a word: "crl:alpha=1".
        root to run_dir: short for data.root, data.table, model.backbone, model.image_size, train.epochs,
            train.batch_size, train.lr and run.dir.
        unknown: refused, with the nearest known name.

    Returns the summary by name, with `report()`. Raises CrlError as `train`.
    """
    return DOOR.study(locals())
