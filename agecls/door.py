"""The age commands as functions in Python; the package's names lead here."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, Never

from agecls.audit.config import AuditConfig, Decoding
from agecls.audit.models import AuditedModel
from agecls.commands import COMMANDS
from agecls.config import (
    AgeCompareConfig,
    AgeConfig,
    AgeDataConfig,
    AgeEvaluateAgainConfig,
    AgeEvaluateConfig,
    AgeStudyConfig,
    CrossValidationConfig,
    EvaluateAgeConfig,
    VerifyAgeConfig,
)
from agecls.evaluation import score_age_run
from agecls.task import TASK
from finetune.cli.keywords import Call, Place, Section
from finetune.errors import UsageError
from finetune.experiments.door import EvaluationOutcome, Finished, TaskDoor, TaskResult, folder_of
from finetune.experiments.result import Result
from finetune.experiments.study.arms import Matching
from finetune.figures.notebook import Outcome
from finetune.seeding import torch_left_as_it_was
from finetune.training.config import HeadConfig, LossConfig, ModelConfig, RunConfig, TrainConfig

DOOR = TaskDoor(COMMANDS, "crl age", TASK)


def _cross_validated(call: Call[CrossValidationConfig]) -> TaskResult:
    """Run every fold; refuse a configuration of single folds, which leaves no result."""
    if call.config.folds or not call.config.report:
        raise UsageError("folds and report belong to the command line (crl age cv): here every fold is run")
    DOOR.run("cv", call)
    return TaskResult.open(TASK, Path(call.config.run.dir))


def verify(
    config: VerifyAgeConfig | Place | None = None,
    *,
    data: AgeDataConfig | Section | None = None,
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
        data: the section's keys and values, or its dataclass.
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
    data: AgeDataConfig | Section | None = None,
    model: ModelConfig | Section | None = None,
    head: HeadConfig | Section | str | None = None,
    loss: LossConfig | Section | str | None = None,
    train: TrainConfig | Section | None = None,
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
    data: AgeDataConfig | Section | None = None,
    model: ModelConfig | Section | None = None,
    head: HeadConfig | Section | str | None = None,
    loss: LossConfig | Section | str | None = None,
    train: TrainConfig | Section | None = None,
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


def evaluate(
    run_folder: Finished,
    config: EvaluateAgeConfig | Place | None = None,
    *,
    data: AgeDataConfig | Section | None = None,
    evaluate: AgeEvaluateAgainConfig | Section | None = None,
    weights: Literal["selected", "other"] | None = None,
    device: str | None = None,
    cache: Place | None = None,
    workers: int | None = None,
    out: Place | None = None,
    crop: Literal["own", "detector"] | None = None,
    detector: Place | None = None,
    face_crop: Literal["auto", "aligned", "faces", "plain"] | None = None,
    face_margin: float | None = None,
    root: Place | None = None,
    table: Place | None = None,
    **unknown: Never,
) -> EvaluationOutcome:
    """Score a finished run on its own test images or on other data, as `crl age evaluate` does.

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
        crop, detector, face_crop, face_margin: cut faces out again by a detector (crop="detector").
        root, table: short for data.root and data.table.
        unknown: refused, with the nearest known name.

    Returns the scores by name, and the `predictions`. Raises CrlError, such as DataError for images that the
    model has seen before.
    """
    return DOOR.evaluate(locals(), score_age_run)


def audit_ages(
    answers: Finished | AuditedModel,
    config: AuditConfig | Place | None = None,
    *,
    data: AgeDataConfig | Section | None = None,
    legal: int | None = None,
    challenge: str | None = None,
    headline: int | None = None,
    decode: Decoding | None = None,
    open_age: float | None = None,
    predicted_column: str | None = None,
    probability_prefix: str | None = None,
    name: str | None = None,
    cross: Place | None = None,
    robustness: int | None = None,
    identity_leak: bool | None = None,
    resamples: int | None = None,
    permutations: int | None = None,
    seed: int | None = None,
    out: Place | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    root: Place | None = None,
    table: Place | None = None,
    **unknown: Never,
) -> Outcome:
    """Audit predicted ages against true ones at a legal age, as `crl age audit` does.

    Args:
        answers: a result or its folder, a table of predicted and true ages, or a loaded exported model
            (`apps.session.OnnxClassifier`), which is shown `table`.
        config: the options as an object, or a YAML file; the other arguments override it.
        data: the table of a model, and the names of columns, as keys and values or the section's dataclass.
        legal to threads: as `crl age audit --help` says; device and threads are a loaded model's own.
        root, table: short for data.root and data.table.
        unknown: refused, with the nearest known name.

    Returns the audit by name, with `report()`. Raises CrlError, such as DataError for answers without ages.
    """
    given = dict(locals())
    asked = given.pop("answers")
    model = None if isinstance(asked, Result | str | PathLike) else asked
    place = Path(asked.path) if model is not None else folder_of(asked)
    call = DOOR.call("audit", given, [str(place)])
    with call.running(), torch_left_as_it_was():
        from agecls.audit.run import audit

        found = audit(place, call.config, None if model is None else lambda *_: model)
    return Outcome(found, f"Age audit: {found['name']}", Path(found["page"]))


def compare(
    a: Finished | Sequence[Finished],
    b: Finished | Sequence[Finished],
    config: AgeCompareConfig | Place | None = None,
    *,
    out: Place | None = None,
    resamples: int | None = None,
    pictures: bool | None = None,
    thumbnails: bool | None = None,
    allow_precision: bool | None = None,
    **unknown: Never,
) -> Outcome:
    """Compare two results image by image, or two lists of seeds, as `crl age compare` does.

    Args:
        a, b: results or their folders, or lists of them with the same seeds.
        config: the options as an object, or a YAML file; the other arguments override it.
        out: folder for the page and its figures; beside the second result without.
        resamples: bootstrap resamples.
        pictures: draw the heat maps, and with thumbnails the gallery.
        thumbnails: show faces of the data.
        allow_precision: compare runs that were trained in different number formats.
        unknown: refused, with the nearest known name.

    Returns the comparison by name, second minus first, with `report()`. Raises CrlError, such as DataError
    for results of other images.
    """
    return DOOR.compare(locals())


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
    cell: Literal["cv", "train"] | None = None,
    devices: Sequence[str] | None = None,
    data: AgeDataConfig | Section | None = None,
    model: ModelConfig | Section | None = None,
    head: HeadConfig | Section | str | None = None,
    loss: LossConfig | Section | str | None = None,
    train: TrainConfig | Section | None = None,
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


def load_result(
    folder: Place,
) -> TaskResult:
    """Return the result that a finished run left in a folder; DataError where there is none."""
    return TaskResult.open(TASK, Path(folder))
