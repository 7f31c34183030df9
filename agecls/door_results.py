"""The age commands on finished runs as functions in Python: evaluate, calibrate, compare, read."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, Never

from agecls.audit.config import AuditConfig, Decoding
from agecls.audit.models import AuditedModel
from agecls.commands import COMMANDS
from agecls.config import (
    AgeCalibrateConfig,
    AgeCompareConfig,
    AgeDataConfig,
    AgeEvaluateAgainConfig,
    EvaluateAgeConfig,
)
from agecls.evaluation import score_age_run
from agecls.task import TASK
from finetune.cli.keywords import Place, Section
from finetune.experiments.door import EvaluationOutcome, Finished, TaskDoor, TaskResult, folder_of
from finetune.experiments.result import Result
from finetune.figures.notebook import Outcome
from finetune.seeding import torch_left_as_it_was

DOOR = TaskDoor(COMMANDS, "crl age", TASK)


def evaluate(
    run_folder: Finished,
    config: EvaluateAgeConfig | Place | None = None,
    *,
    data: AgeDataConfig | Section | str | None = None,
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


def calibrate(
    run_folder: Finished,
    config: AgeCalibrateConfig | Place | None = None,
    *,
    data: AgeDataConfig | Section | str | None = None,
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
    """Fit temperature and sets of a finished run on images held out, as `crl age calibrate` does.

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


def load_result(
    folder: Place,
) -> TaskResult:
    """Return the result that a finished run left in a folder; DataError where there is none."""
    return TaskResult.open(TASK, Path(folder))


def audit_ages(
    answers: Finished | AuditedModel,
    config: AuditConfig | Place | None = None,
    *,
    data: AgeDataConfig | Section | str | None = None,
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
