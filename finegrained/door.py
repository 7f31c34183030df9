"""The fine-grained commands as functions in Python; the package's names lead here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Never

from finegrained.commands import COMMANDS
from finegrained.config import (
    CostConfig,
    EvaluateFineConfig,
    FineCalibrateConfig,
    FineConfig,
    FineDataConfig,
    FineModelConfig,
    FineStudyConfig,
    FineTrainConfig,
    FineTuneConfig,
    VerifyFineConfig,
)
from finegrained.task import TASK
from finetune.cli.keywords import Place, Section
from finetune.experiments.config import CompareConfig, EvaluateAgainConfig, EvaluateConfig
from finetune.experiments.door import EvaluationOutcome, Finished, TaskDoor, TaskResult, score_again
from finetune.experiments.study.arms import Matching
from finetune.experiments.tune.config import SearchConfig
from finetune.figures.notebook import Outcome
from finetune.training.config import HeadConfig, LossConfig, RunConfig

DOOR = TaskDoor(COMMANDS, "crl fine", TASK)


def verify(
    config: VerifyFineConfig | Place | None = None,
    *,
    data: FineDataConfig | Section | None = None,
    quick: bool | None = None,
    write: Place | None = None,
    root: Place | None = None,
    table: Place | None = None,
    **unknown: Never,
) -> Outcome:
    """Count a data set and check what can be checked before training, as `crl fine verify` does.

    Args:
        config: the options as an object, or a YAML file; the other arguments override it.
        data: the section's keys and values, or its dataclass.
        quick: count and check the lists only; do not open every image.
        write: file to write the table of images to (.csv or .parquet).
        root, table: short for data.root and data.table.
        unknown: refused.

    Returns what was found, by name. Raises CrlError, such as DataError for images that cannot be read.
    """
    return DOOR.verify(locals())


def train(
    config: FineConfig | Place | None = None,
    *,
    data: FineDataConfig | Section | None = None,
    model: FineModelConfig | Section | None = None,
    head: HeadConfig | Section | str | None = None,
    loss: LossConfig | Section | str | None = None,
    train: FineTrainConfig | Section | None = None,
    evaluate: EvaluateConfig | Section | None = None,
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
    """Fine-tune one model, test it once, and return its result, as `crl fine train` does.

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


def tune(
    config: FineTuneConfig | Place | None = None,
    *,
    arms: Sequence[str] | None = None,
    search: SearchConfig | Section | None = None,
    data: FineDataConfig | Section | None = None,
    model: FineModelConfig | Section | None = None,
    head: HeadConfig | Section | str | None = None,
    loss: LossConfig | Section | str | None = None,
    train: FineTrainConfig | Section | None = None,
    evaluate: EvaluateConfig | Section | None = None,
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
    """Find learning rates, weight decay and epochs on validation images, as `crl fine tune` does.

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


def evaluate(
    run_folder: Finished,
    config: EvaluateFineConfig | Place | None = None,
    *,
    data: FineDataConfig | Section | None = None,
    evaluate: EvaluateAgainConfig | Section | None = None,
    weights: Literal["selected", "other"] | None = None,
    device: str | None = None,
    cache: Place | None = None,
    workers: int | None = None,
    out: Place | None = None,
    root: Place | None = None,
    table: Place | None = None,
    **unknown: Never,
) -> EvaluationOutcome:
    """Score a finished run on its own test images or on other data, as `crl fine evaluate` does.

    Args:
        run_folder: the run's folder, or what `train` returned.
        config: the options as an object, or a YAML file; the other arguments override it.
        data: other data, as keys and values, or the section's dataclass.
        evaluate: how images are shown, as keys and values, or the section's dataclass.
        weights: selected, or other (the file beside it).
        device: auto, cpu, cuda or cuda:1.
        cache: where decoded images are kept.
        workers: processes that prepare batches; -1 chooses.
        out: folder for predictions.parquet and evaluation.json.
        root, table: short for data.root and data.table.
        unknown: refused, with the nearest known name.

    Returns the scores by name, and the `predictions`. Raises CrlError, such as DataError for images that the
    model has seen before.
    """
    return DOOR.evaluate(locals(), score_again)


def calibrate(
    run_folder: Finished,
    config: FineCalibrateConfig | Place | None = None,
    *,
    data: FineDataConfig | Section | None = None,
    on: Literal["auto", "test", "validation"] | None = None,
    method: Literal["temperature", "vector"] | None = None,
    weigh: Literal["images", "people"] | None = None,
    level: float | None = None,
    score: Literal["auto", "oaps", "rps", "aps", "raps", "lac"] | None = None,
    unit: Literal["subject", "user"] | None = None,
    per_group: bool | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    cache: Place | None = None,
    workers: int | None = None,
    root: Place | None = None,
    table: Place | None = None,
    **unknown: Never,
) -> Outcome:
    """Fit temperature and sets of a finished run on images held out, as `crl fine calibrate` does.

    Args:
        run_folder: the run's folder, or what `train` returned.
        config: the options as an object, or a YAML file; the other arguments override it.
        data: other data, as keys and values, or the section's dataclass.
        on: test, validation, or auto.
        method: temperature, or vector.
        weigh: images, or people.
        level, score: how often sets are to hold the true class, and by which score they are made.
        unit: who is one person: subject, or user.
        per_group: a quantile per true class.
        batch_size, device, cache, workers: how images are shown again, where they are.
        root, table: short for data.root and data.table.
        unknown: refused, with the nearest known name.

    Returns what calibration.json holds. Raises CrlError, such as UsageError for a part that chose the epoch.
    """
    return DOOR.calibrate(locals())


def compare(
    a: Finished | Sequence[Finished],
    b: Finished | Sequence[Finished],
    config: CompareConfig | Place | None = None,
    *,
    out: Place | None = None,
    resamples: int | None = None,
    pictures: bool | None = None,
    allow_precision: bool | None = None,
    **unknown: Never,
) -> Outcome:
    """Compare two results image by image, or two lists of seeds, as `crl fine compare` does.

    Args:
        a, b: results or their folders, or lists of them with the same seeds.
        config: the options as an object, or a YAML file; the other arguments override it.
        out: folder for the page and its figures; beside the second result without.
        resamples: bootstrap resamples.
        pictures: draw the gallery and the heat maps.
        allow_precision: compare runs that were trained in different number formats.
        unknown: refused, with the nearest known name.

    Returns the comparison by name, second minus first, with `report()`. Raises CrlError, such as DataError
    for results of other images.
    """
    return DOOR.compare(locals())


def study(
    config: FineStudyConfig | Place | None = None,
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
    data: FineDataConfig | Section | None = None,
    model: FineModelConfig | Section | None = None,
    head: HeadConfig | Section | str | None = None,
    loss: LossConfig | Section | str | None = None,
    train: FineTrainConfig | Section | None = None,
    evaluate: EvaluateConfig | Section | None = None,
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
    """Train every loss with every seed under equal budgets, as `crl fine study` does.

    Args:
        config: the options as an object, a recipe's name, or a YAML file; the other arguments override it.
        losses: words such as "crl:alpha=1" or "lsoftmax:margin=2".
        baseline, seeds, first_seed, controls, label_smoothing, lr_match, grid, grid_alphas, grid_betas: which
            arms and controls there are, as `crl fine study --help` says.
        rates: rates of single arms, as `tune` finds them: dict(crl=dict(lr=0.001)).
        data, model, head, loss, train, evaluate, run, device: the options of the command line by section, as
            keys and values, or as the section's dataclass, which says every key. A head or a loss may be its
            name; a loss also a word: "crl:alpha=1".
        root to run_dir: short for data.root, data.table, model.backbone, model.image_size, train.epochs,
            train.batch_size, train.lr and run.dir.
        unknown: refused, with the nearest known name.

    Returns the summary by name, with `report()`. Raises CrlError as `train`.
    """
    return DOOR.study(locals())


def load_result(
    folder: Place,
) -> TaskResult:
    """Return the result that a finished run left in a folder; DataError where there is none."""
    return TaskResult.open(TASK, Path(folder))


def measure_costs(
    config: CostConfig | Place | None = None,
    *,
    heads: Sequence[str] | None = None,
    backbones: Sequence[str] | None = None,
    image_size: int | None = None,
    classes: int | None = None,
    batch_size: int | None = None,
    repeats: int | None = None,
    device: str | None = None,
    out: Place | None = None,
    **unknown: Never,
) -> Outcome:
    """Measure what heads cost on backbones, as `crl fine cost` does (`finegrained.cost` is its package).

    Args:
        config: the options as an object, or a YAML file; the other arguments override it.
        heads: by name or NAME:OPTION=VALUE; empty takes all.
        backbones: by name.
        image_size: side of the input in px.
        classes: number of classes.
        batch_size: images at once where speed and memory are measured.
        repeats: timed steps; 0 times nothing.
        device: auto, cpu, cuda or cuda:1.
        out: Markdown file to write the table to.
        unknown: refused, with the nearest known name.

    Returns the conditions, and a row for each head and backbone under "rows".
    """
    call = DOOR.call("cost", locals())
    page = Path(call.config.out) if call.config.out else None
    return Outcome(DOOR.run("cost", call), "what heads cost", page)
