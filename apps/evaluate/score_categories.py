"""Exported category models on other pictures than their run's: every model, and the average of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from agecls.config import AgeDataConfig
from apps.config import EvaluateOnnxConfig
from apps.evaluate.reproduce_run import short_list
from apps.runtime.batching import files_or_cuts
from apps.runtime.session import OnnxClassifier
from apps.runtime.side_by_side import probabilities
from finegrained.config import FineDataConfig
from finegrained.data.boxes import picture_boxes
from finegrained.data.class_names import class_map, normalised
from finegrained.data.load import read_fine_data
from finegrained.results import Predictions
from finegrained.scores import fine_scores
from finetune.cli.console import say, table
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.images.manifest import Manifest

SHARED = ("root", "table", "missing", "skip_bad", "follow", "same_content")  # options that mean the same here


def score_categories(
    models: Sequence[OnnxClassifier], config: EvaluateOnnxConfig
) -> tuple[dict[str, Any], Predictions]:
    """Show all models other pictures; print and return the scores, and the averaged predictions.

    Of data that name a test part that part is shown, of others every picture. Labels are moved to the models'
    order by name; boxes are cut out where the models were trained so.

    Raises UsageError for options of age data, and models trained on pictures cut out differently;
    ModelFileError for data of other classes; DataError for data that cannot be used.
    """
    chosen = data_options(models, config.data)
    manifest = read_fine_data(chosen).manifest
    target = labels_in_order(models[0], manifest)
    rows, told = rows_to_show(models, manifest)
    files = [manifest.file(row) for row in rows.tolist()]
    boxes = picture_boxes(manifest, chosen)
    found = probabilities(
        models,
        files_or_cuts(files, None if boxes is None else boxes[rows]),
        [model.facts.test_crops for model in models],
        batch_size=config.batch_size,
    )
    names, target = models[0].class_names, target[rows]
    scored = [fine_scores(probs, target, names) for probs in found]
    average = Predictions(names, manifest["path"][rows], target, np.mean(found, axis=0))
    both = fine_scores(average.probs, target, names)
    lines = [[model.title, *_cells(scores)] for model, scores in zip(models, scored, strict=True)]
    lines += [["average of all", *_cells(both)]] if len(models) > 1 else []
    table(told, ["model", "images", "top-1 %", "top-5 %", "mean over classes %"], lines)
    facts = [
        {"model": str(model.path), "title": model.title, "sha256": model.sha256, **_whole(scores)}
        for model, scores in zip(models, scored, strict=True)
    ]
    return {"data": told, "models": facts, **both}, average


def data_options(models: Sequence[OnnxClassifier], asked: AgeDataConfig) -> FineDataConfig:
    """Return how to read the pictures; UsageError for options that only age data have."""
    default = AgeDataConfig()
    foreign = [
        f"--data.{item.name}"
        for item in fields(default)
        if item.name not in SHARED and getattr(asked, item.name) != getattr(default, item.name)
    ]
    if foreign:
        raise UsageError(f"{', '.join(foreign)}: for data of age groups only; these models name categories")
    cuts = {
        (model.facts.data.get("picture_crop", "image"), float(model.facts.data.get("box_margin") or 0))
        for model in models
    }
    if len(cuts) > 1:
        raise UsageError(
            "the models were trained on pictures cut out differently ("
            + "; ".join(f"{crop}, margin {margin:g}" for crop, margin in sorted(cuts))
            + "): score them one by one"
        )
    ((crop, margin),) = cuts
    options = {name: getattr(asked, name) for name in SHARED}
    return FineDataConfig(**options, subset=True, crop=crop, box_margin=margin)


def labels_in_order(model: OnnxClassifier, manifest: Manifest) -> np.ndarray:
    """Return the data's labels in the model's order of classes, int64 (N,): moved by name, "/" read as "-".

    Raises ModelFileError, telling both lists apart, unless both hold the same classes.
    """
    own = {normalised(name): name for name in manifest.class_names}
    wanted = {normalised(name): name for name in model.class_names}
    if own.keys() != wanted.keys():
        lacks = [name for key, name in own.items() if key not in wanted]
        adds = [name for key, name in wanted.items() if key not in own]
        raise ModelFileError(
            f"{model.path} has other classes than the data: only in the model {short_list(adds)}; only in "
            f"the data {short_list(lacks)}"
        )
    moved: np.ndarray = class_map(manifest.class_names, model.class_names)[manifest.label]
    return moved


def rows_to_show(models: Sequence[OnnxClassifier], manifest: Manifest) -> tuple[np.ndarray, str]:
    """Return the rows of the test part, or all where the data name none, and what they are in words.

    Says where a model was trained on the same table and no test part tells what it has not seen.
    """
    tested = np.flatnonzero(manifest["split"] == "test")
    rows = tested if len(tested) else np.arange(len(manifest))
    if not len(rows):
        raise DataError("the data holds no picture with a class: nothing can be scored")
    for model in models:
        if not len(tested) and model.facts.data.get("manifest") == manifest.fingerprint:
            say(f"warning: {model.path} was trained on pictures of this very data, so its scores flatter it")
    return rows, f"{len(rows)} {'test images of the data' if len(tested) else 'images of other data'}"


def _whole(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if name != "per_class"}


def _cells(scores: Mapping[str, Any]) -> list[object]:
    told = [scores[name] for name in ("top1", "top5", "balanced_accuracy")]
    return [scores["n"], *("" if value is None else f"{value:.2f}" for value in told)]
