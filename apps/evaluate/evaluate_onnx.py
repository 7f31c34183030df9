"""`crl evaluate-onnx`: exported models on their own run's test images or on other data, without torch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from agecls.config import AgeDataConfig
from agecls.data.folds import assign_folds
from agecls.data.read import read_data, with_groups_of
from agecls.evaluation import SLICES, print_slice
from agecls.scores import age_scores, slice_scores
from agecls.task import TASK
from apps.config import EvaluateOnnxConfig
from apps.evaluate.reproduce_run import repeat_run, short_list, write_results
from apps.runtime.batching import Picture, files_or_cuts
from apps.runtime.session import OnnxClassifier
from apps.runtime.side_by_side import check_same_classes, probabilities
from finegrained.config import FineDataConfig
from finegrained.data.boxes import picture_boxes
from finegrained.data.class_names import class_map, normalised
from finegrained.data.load import read_fine_data
from finegrained.scores import fine_scores
from finegrained.task import TASK as CATEGORIES
from finetune.cli.console import say, table
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.evaluate import frame_of
from finetune.experiments.predictions import Predictions
from finetune.experiments.task import Task, measures_for
from finetune.images.manifest import Manifest
from finetune.runs.files import check_writable

SHARED = ("root", "table", "missing", "skip_bad", "follow", "same_content")  # options that mean the same here


def evaluate_onnx(models: Sequence[Path], config: EvaluateOnnxConfig) -> dict[str, Any]:
    """Score exported models, print and return the scores.

    With `config.run` each model is shown the test images of its own fold and compared with what the trained
    model answered; with `config.data` all are shown that data, and several are averaged as well.

    Raises UsageError without models or data; ModelFileError when an fp32 model gets another number of images
    correct than the trained one, or the models' classes are not the data's; DataError for data that cannot be
    used.
    """
    if not models:
        raise UsageError("no model: name one exported file or several (.onnx)")
    if config.run is None and config.data.root is None and config.data.table is None:
        raise UsageError(
            "no images: give --run RUN (the run that the models were exported from), --data.root FOLDER "
            "(Adience; for category models CUB, Cars or a folder per category) or --data.table FILE"
        )
    if config.run is not None and config.data.table is not None:
        raise UsageError("--run shows the run's own test images and --data.table others: give one of them")
    if config.out is not None:
        check_writable(Path(config.out))
    loaded = [OnnxClassifier(path, device=config.device, threads=config.threads) for path in models]
    check_same_classes(loaded)
    for note in dict.fromkeys(model.device_note for model in loaded):
        say(note)
    if config.run is not None:
        return repeat_run(loaded, config)
    if loaded[0].facts.task == "category":
        return _score_categories(loaded, config)
    return _score_data(loaded, config)


def _score_categories(models: Sequence[OnnxClassifier], config: EvaluateOnnxConfig) -> dict[str, Any]:
    """Run all models on images of their categories; write what was asked for."""

    summary, average = score_categories(models, config)
    write_results(config.out, summary, {"predictions.parquet": average})
    return summary


def _score_data(models: Sequence[OnnxClassifier], config: EvaluateOnnxConfig) -> dict[str, Any]:
    """Show all models other data; score each, and their average where there are several."""
    manifest = read_data(with_groups_of(config.data, models[0].class_names), with_folds=False).manifest
    _check_data(models, manifest, config.data)
    files: list[Picture] = [manifest.file(row) for row in range(len(manifest))]
    crops = [model.facts.test_crops for model in models]
    found = probabilities(models, files, crops, batch_size=config.batch_size, told="images")
    frame = frame_of(TASK, manifest, manifest.class_names, manifest.label)
    average = replace(frame, probs=np.mean(found, axis=0))
    scored = [age_scores(probs, manifest.label) for probs in found]
    both = age_scores(average.probs, average.target)
    _print_scores(f"{len(manifest)} images of other data", models, scored, both, TASK)
    slices = {name: slice_scores(average, name) for name in SLICES}  # type: ignore[arg-type]
    for name, cells in slices.items():
        print_slice(name, cells)
    lines = [
        {"model": str(model.path), "title": model.title, "sha256": model.sha256, **scores}
        for model, scores in zip(models, scored, strict=True)
    ]
    summary = {"data": f"{len(manifest)} images of other data", "models": lines, **both, "slices": slices}
    write_results(config.out, summary, {"predictions.parquet": average})
    return summary


def _check_data(models: Sequence[OnnxClassifier], manifest: Manifest, config: AgeDataConfig) -> None:
    """Raise ModelFileError for other classes than the data's; say it where the data was trained on."""
    first = models[0]
    if first.class_names != manifest.class_names:
        told = f"{short_list(first.class_names)}; the data has {short_list(manifest.class_names)}"
        raise ModelFileError(f"{first.path} has other classes than the data: {told} (--data.groups)")
    if not len(manifest):
        raise DataError("the data holds no image with a label: nothing can be scored")
    trained_on = [model.facts.data.get("manifest") for model in models]
    known = _fingerprints(manifest, config) if any(trained_on) else []
    for model, fingerprint in zip(models, trained_on, strict=True):
        if fingerprint in known:
            say(f"warning: {model.path} was trained on images of this very data, so its scores flatter it")


def _fingerprints(manifest: Manifest, config: AgeDataConfig) -> list[str]:
    """Return the fingerprints that a run of this data may have recorded, with and without folds made."""
    found = [manifest.fingerprint]
    with contextlib.suppress(DataError, UsageError):  # data of too few subjects for folds trained no run
        folds = assign_folds(manifest, n_folds=config.n_folds, seed=config.fold_seed)
        found.append(manifest.with_column("fold", folds).fingerprint)
    return found


def _print_scores(
    told: str,
    models: Sequence[OnnxClassifier],
    scored: Sequence[Mapping[str, Any]],
    both: Mapping[str, Any],
    task: Task,
) -> None:
    """Print a row of scores for each model, and for their average where there are several."""
    measures = measures_for(task, "other_data")

    def cells(scores: Mapping[str, Any]) -> list[object]:
        values = [scores[measure.score_name] for measure in measures]
        return [scores["n"], *("" if value is None else f"{value:.2f}" for value in values)]

    rows = [[model.title, *cells(scores)] for model, scores in zip(models, scored, strict=True)]
    rows += [["average of all", *cells(both)]] if len(models) > 1 else []
    table(told, ["model", "images", *(measure.heading for measure in measures)], rows)


def score_categories(
    models: Sequence[OnnxClassifier], config: EvaluateOnnxConfig
) -> tuple[dict[str, Any], Predictions]:
    """Run all models on other images; print and return the scores, and the averaged predictions.

    Of data that name a test part that part is shown, of others every image. Labels are moved to the models'
    order by name; boxes are cut out where the models were trained so.

    Raises UsageError for options of age data, and models trained on images cut out differently;
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
    _print_scores(told, models, scored, both, CATEGORIES)
    facts = [
        {"model": str(model.path), "title": model.title, "sha256": model.sha256, **_whole(scores)}
        for model, scores in zip(models, scored, strict=True)
    ]
    return {"data": told, "models": facts, **both}, average


def data_options(models: Sequence[OnnxClassifier], asked: AgeDataConfig) -> FineDataConfig:
    """Return how to read the images; UsageError for options that only age data have."""
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
            "the models were trained on images cut out differently ("
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

    Says where a model was trained on the same table and no test part shows what it has not seen.
    """
    tested = np.flatnonzero(manifest["split"] == "test")
    rows = tested if len(tested) else np.arange(len(manifest))
    if not len(rows):
        raise DataError("the data holds no image with a class: nothing can be scored")
    for model in models:
        if not len(tested) and model.facts.data.get("manifest") == manifest.fingerprint:
            say(f"warning: {model.path} was trained on images of this very data, so its scores flatter it")
    return rows, f"{len(rows)} {'test images of the data' if len(tested) else 'images of other data'}"


def _whole(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if name != "per_class"}
