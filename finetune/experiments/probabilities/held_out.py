"""Which images may calibrate a run's models: never learned from, and not those that chose the epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from finetune.cli.console import say
from finetune.errors import DataError, UsageError
from finetune.experiments.config import CalibrateConfig, EvaluateAgainConfig, EvaluateRunConfig
from finetune.experiments.data_checks import HASHES
from finetune.experiments.evaluate import (
    Shown,
    frame_of,
    names_data,
    other_images,
    own_images,
    predict_again,
    predict_shown,
    table_of,
)
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result, model_files
from finetune.experiments.task import Task
from finetune.images.manifest import Manifest

Source = Literal["test", "validation", "other data"]
ALONE = -2  # the key of several models as one, beside their folds
OTHER = "name other images: crl {noun} calibrate {folder} --data.table FILE"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What the models of a run say of images that they may be calibrated on.

    Args:
        source: the run's own test or validation part, or other data.
        told: the same in words, for the card.
        by_fold: fold -> the predictions that calibrate its model; `ALONE` for the average of all models.
        members: of several models on the same images their probabilities (M, N, K); None else.
        tested: the test images' predictions, by which calibrated scores are measured; None for other data.
    """

    source: Source
    told: str
    by_fold: Mapping[int, Predictions]
    members: np.ndarray | None = None
    tested: Predictions | None = None


def held_out(task: Task, result: Result, config: CalibrateConfig) -> HeldOut:
    """Return the predictions that may calibrate a run's models.

    Named data come first, then (auto) the validation part where it chose nothing, then the test part. Images
    with the bytes of one that the model learned from or was selected on are left out, which is said.

    Raises UsageError where the part that is asked for chose the epoch or is not there; DataError for named
    images that a model has seen, and where nothing is left.
    """
    if config.data is not None and names_data(shown_as(config)):
        return _other(task, result, config)
    if not len(result.predictions):
        way = OTHER.format(noun=task.name, folder=result.folder)
        raise UsageError(f"{result.folder} trained on every image and has none to calibrate on: {way}")
    part = chosen_part(result, config.on)
    return _validation(task, result, config) if part == "validation" else _tested(task, result, config)


def shown_as(config: CalibrateConfig) -> EvaluateRunConfig:
    """Return how images are shown: their centre, once, as an exported file sees them."""
    how = EvaluateAgainConfig(test_crops="center", batch_size=config.batch_size)
    return EvaluateRunConfig(config.data, how, "selected", config.device, config.cache, config.workers)


def chosen_part(result: Result, on: str) -> str:
    """Return "validation" or "test"; UsageError where a validation part is asked for that may not calibrate.

    The validation part may where no epoch was chosen by it: with train.select last and without patience.
    """
    parts = [result.part_record(fold) for fold in result.folds]
    there = all(part is not None and part.n_validation for part in parts)
    train = result.record.train or {}
    chose = train.get("select") == "best" or bool(train.get("patience"))
    if on == "validation" and not there:
        raise UsageError(f"--on validation: {result.folder} has no validation part; use --on test")
    if on == "validation" and chose:
        raise UsageError(
            f"--on validation: the validation part of {result.folder} chose the epoch (train.select best or "
            "train.patience), so its images flatter the model; use --on test"
        )
    return "validation" if on != "test" and there and not chose else "test"


def seen_hashes(task: Task, result: Result, table: Manifest, fold: int) -> tuple[set[str], np.ndarray]:
    """Return the digests of what the model of a fold has seen, and the rows that validated it."""
    train, test = task.model_rows(result.record, table, fold)
    rows = np.arange(len(table))
    kept = table["part"] == "validation" if "part" in table else ~np.isin(rows, np.r_[train, test])
    seen = np.r_[train, rows[kept]]
    hashes = table[HASHES][seen] if HASHES in table else np.zeros(0, dtype=str)
    return set(hashes.tolist()) - {""}, rows[kept]


def without_seen(found: Predictions, table: Manifest, seen: set[str], what: str) -> Predictions:
    """Return the predictions of images whose bytes were not seen; DataError where none is left."""
    if HASHES not in table or not seen:
        return found
    digest = dict(zip(table["path"].tolist(), table[HASHES].tolist(), strict=True))
    again = np.array([digest.get(path, "") in seen for path in found.path.tolist()], dtype=bool)
    if again.all():
        raise DataError(
            f"{what}: all {len(found)} images have the bytes of one that the model was trained or selected "
            "on, so none may calibrate it; name other data by --data.table"
        )
    if again.any():
        say(
            f"note: {what}: {int(again.sum())} of {len(found)} images have the bytes of one that the model "
            "was trained or selected on; they are left out"
        )
    return found.select(~again)


def _tested(task: Task, result: Result, config: CalibrateConfig) -> HeldOut:
    """Return each model's test images, as it was tested, or shown again where views were averaged."""
    found = result.predictions
    if (result.record.test_crops or "center") != "center":
        say("the run's test averaged views of an image, an exported file shows one: they are shown again")
        found = predict_again(own_images(task, result), shown_as(config), "center")
    table = table_of(result.folder)
    by_fold = {}
    for fold in result.folds:
        seen, _ = seen_hashes(task, result, table, fold)
        own = found.select(found.fold == fold)
        by_fold[fold] = without_seen(own, table, seen, f"test part of fold {fold}")
    return HeldOut("test", "its own test images", by_fold, tested=found)


def _validation(task: Task, result: Result, config: CalibrateConfig) -> HeldOut:
    """Return each model's validation images, shown again: the test images stay clean."""
    table, by_fold = table_of(result.folder), {}
    boxes = task.boxes(table, result.record.crop)
    for file, fold in zip(model_files(result.folder), _folds(result), strict=True):
        train, _ = task.model_rows(result.record, table, fold)
        _, rows = seen_hashes(task, result, table, fold)
        own = table.select(rows)
        frame = frame_of(task, own, result.class_names, task.labels(table, result.class_names)[rows])
        shown = Shown((file,), own, frame, None if boxes is None else boxes[rows])
        found = predict_again([shown], shown_as(config), "center")
        learned = set(table[HASHES][train].tolist()) - {""} if HASHES in table else set()
        by_fold[fold] = without_seen(found, table, learned, f"validation part of fold {fold}")
    tested = result.predictions
    if (result.record.test_crops or "center") != "center":
        tested = predict_again(own_images(task, result), shown_as(config), "center")
    return HeldOut("validation", "its validation images, which chose nothing", by_fold, tested=tested)


def _folds(result: Result) -> list[int]:
    """Return the folds of a run's models in the order of `model_files`."""
    files = model_files(result.folder)
    if files[0].parent == result.folder:
        return [result.record.fold if "fold" in result.predictions else 0]
    return [int(file.parent.name.removeprefix("fold")) for file in files]


def _other(task: Task, result: Result, config: CalibrateConfig) -> HeldOut:
    """Return what every model, and their average, says of named images that none has seen."""
    asked = shown_as(config)
    shown, told = other_images(task, result, asked)
    if not len(shown.manifest):
        raise DataError("the data holds no image with a class: nothing can calibrate")
    sources = [partial(shown.open, cache=asked.cache)]
    each = [predict_shown(replace(shown, files=(file,)), sources, asked, "center")[0] for file in shown.files]
    folds = _folds(result)
    by_fold = {fold: replace(shown.frame, probs=probs) for fold, probs in zip(folds, each, strict=True)}
    members = np.stack(each) if len(each) > 1 else None
    if members is not None:
        by_fold[ALONE] = replace(shown.frame, probs=members.mean(axis=0))
    return HeldOut("other data", told, by_fold, members)


def study_note(folder: Path, source: Source) -> str:
    """Return that a study compared losses on the images that calibrate, for a cell of one; else "".

    >>> study_note(Path("runs/losses/cells/crl/seed-0"), "validation")
    ''
    """
    of_study = folder.resolve().parent.parent.name == "cells" and folder.name.startswith("seed-")
    if source != "test" or not of_study:
        return ""
    return "A study compared losses on these very test images."
