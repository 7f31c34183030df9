"""`evaluate`: a finished run scored on its own test images, on them shown again, or on other data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from finetune.cli.console import say
from finetune.cli.machine import core_count
from finetune.errors import DataError, listing
from finetune.experiments.config import EvaluateRunConfig
from finetune.experiments.data_checks import refuse_seen_images, tested_rows
from finetune.experiments.exported.other_data import tell_shown_again, tell_without_samples, told_again
from finetune.experiments.records.predictions import Predictions, join_predictions
from finetune.experiments.result import Result, model_files, refuse_run_folder, run_table
from finetune.experiments.task import Task
from finetune.images.cache.digests import hash_files
from finetune.images.cache.file import content_digest
from finetune.images.cache.source import open_pictures
from finetune.images.manifest import Manifest
from finetune.runs.folder import write_json

if TYPE_CHECKING:
    from finetune.images.cache.source import ImageSource
    from finetune.images.preprocess import PreprocessSpec

    OpenSource = Callable[[PreprocessSpec], ImageSource]

NO_TEST_IMAGES = "tested no image (--data.fold -1): name images by --data.table or --data.root"


@dataclass(frozen=True)
class Shown:
    """Images, and the models that are run on them.

    `files` are the models, whose probabilities are averaged; `manifest` the images; `frame` their targets and
    columns in the same order, whatever its probabilities; `boxes` (N, 4) is what is cut out of each.
    """

    files: tuple[Path, ...]
    manifest: Manifest
    frame: Predictions
    boxes: np.ndarray | None = None

    def open(self, spec: PreprocessSpec, cache: str) -> ImageSource:
        """Return the images, prepared as a model's specification says."""
        return open_pictures(self.manifest, spec, cache, boxes=self.boxes)


class Evaluation(NamedTuple):
    """What an evaluation found: the scores as evaluation.json has them, and the predictions scored."""

    summary: dict[str, Any]
    predictions: Predictions


def evaluate_run(task: Task, folder: Path, config: EvaluateRunConfig) -> dict[str, Any]:
    """Score a run folder, print the scores and return them, as `score_run` does."""
    return score_run(task, folder, config).summary


def score_run(task: Task, folder: Path, config: EvaluateRunConfig) -> Evaluation:
    """Score a run folder, print the scores and return them with the predictions.

    Without data in the configuration the run's own test images are meant: its stored predictions, or, with
    other test crops than its own or its other weights, shown again, in a cross-validation each fold's to that
    fold's model. With data, its test part (all of it where it names none) is shown to the run's models, whose
    probabilities are averaged.

    Raises DataError for a folder without a finished run, for images that a model has seen before, and for
    images that are no longer there; ModelFileError for a folder without models and for other classes than
    theirs; UsageError where the results would go into a run's own folder.
    """
    if config.out is not None:
        refuse_run_folder(Path(config.out))
    other = names_data(config)
    if other:
        model_files(folder, config.weights)
    result = Result.load(folder, task.form)
    crops = chosen_crops(result, config)
    as_tested = crops == (result.record.test_crops or "center") and config.weights == "selected"
    if as_tested and not other:
        predictions, told = own_predictions(result), "the run's own test images, as it was tested"
    elif other:
        shown, told = other_images(task, result, config)
        predictions = predict_again([shown], config, crops)
    else:
        predictions, told = show_again(task, result, config, crops), "the run's own test images, shown again"
    about = {"run": str(folder), "data": told, "weights": config.weights, "test_crops": crops}
    summary = {**about, **task.evaluation_scores(predictions)}
    task.tell_evaluation(summary)
    if config.out is not None:
        write_evaluation(Path(config.out), predictions, summary)
    return Evaluation(summary, predictions)


def show_again(task: Task, result: Result, config: EvaluateRunConfig, crops: str) -> Predictions:
    """Return what the run's models say of its own test images now, and what that must not be used for."""
    own = own_images(task, result, config.weights)
    tell_shown_again()
    return predict_again(own, config, crops)


def names_data(config: EvaluateRunConfig) -> bool:
    """Return whether other data than the run's own test images are named."""
    return config.data.root is not None or config.data.table is not None


def chosen_crops(result: Result, config: EvaluateRunConfig) -> str:
    """Return the test crops that are asked for, else those that the run was tested with."""
    return config.evaluate.test_crops or result.record.test_crops or "center"


def write_evaluation(out: Path, predictions: Predictions, summary: Mapping[str, Any], of: str = "") -> None:
    """Write predictions.parquet and evaluation.json into a folder, which is made where it is not there."""
    out.mkdir(parents=True, exist_ok=True)
    predictions.write(out / "predictions.parquet")
    write_json(out / "evaluation.json", summary)
    say(f"predictions.parquet{of} and evaluation.json lie in {out}")


def own_predictions(result: Result) -> Predictions:
    """Return what the run predicted when it ended; DataError where it tested nothing."""
    if not len(result.predictions):
        raise DataError(f"{result.folder} {NO_TEST_IMAGES}")
    return result.predictions


def own_images(task: Task, result: Result, weights: str = "selected") -> list[Shown]:
    """Return the run's own test images, each fold's with that fold's model.

    Raises DataError where its table or its data folder is gone, or it tested nothing.
    """
    table = table_of(result.folder)
    if not table.root.is_dir():
        raise DataError(
            f"{result.folder} was trained on images in {table.root}, which is not there: say where they are "
            "by --data.root"
        )
    shown = []
    for file in model_files(result.folder, weights):
        own = result if file.parent == result.folder else Result.load(file.parent, task.form)
        if len(own.predictions):
            images = table.select(rows_of(table, own.predictions.path, result.folder))
            boxes = task.boxes(images, result.record.crop)
            shown.append(Shown((file,), images, own.predictions, boxes))
    if not shown:
        raise DataError(f"{result.folder} {NO_TEST_IMAGES}")
    return shown


def table_of(folder: Path) -> Manifest:
    """Return the table of a run's images; DataError without it."""
    table = run_table(folder)
    if table is None:
        raise DataError(
            f"{folder} holds no manifest.parquet, the table of its images, so they cannot be found again"
        )
    return table


def rows_of(table: Manifest, path: np.ndarray, folder: Path) -> np.ndarray:
    """Return the rows of a run's table with these paths, in their order; DataError lists those it lacks."""
    place = {name: row for row, name in enumerate(table["path"].tolist())}
    unknown = [name for name in path.tolist() if name not in place]
    if unknown:
        raise DataError(f"{folder}/manifest.parquet lacks images that were tested:\n{listing(unknown)}")
    return np.array([place[name] for name in path.tolist()], dtype=np.int64)


def other_images(task: Task, result: Result, config: EvaluateRunConfig) -> tuple[Shown, str]:
    """Return the test part of the named data, or all of it where it names none, and what that is in words.

    All models of the run are shown it. Raises DataError for images that one of them has seen.
    """
    files = tuple(model_files(result.folder, config.weights))
    manifest = task.read_other(config.data, result).manifest
    table = run_table(result.folder)
    if table is None and "fold" not in result.predictions:
        raise DataError(
            f"{result.folder} lacks manifest.parquet, the table of its images and their parts, so it cannot "
            "be known whether it has seen these"
        )
    parts = table["part"] if table is not None and "part" in table else None
    same_table = parts is not None and manifest.fingerprint == result.record.manifest
    if same_table and parts is not None and same_contents(manifest, result):
        tell_shown_again()
        rows = np.flatnonzero(parts == "test")
        told = f"{len(rows)} test images of the run's own data"
    else:
        named = np.flatnonzero(manifest["split"] == "test") if "split" in manifest else np.arange(0)
        rows = named if len(named) else np.arange(len(manifest))
        told = f"{len(rows)} {'test ' if len(named) else ''}images of other data"
        if same_table:
            say("note: these images have the names of the run's own, but other contents")
        shown = manifest.select(rows)
        refuse_seen_images(result, table, shown)
        told = told_again(int(tested_rows(result, table, shown).sum()), len(rows), told)
    labels = task.labels(manifest, result.class_names)[rows]
    tell_without_samples(result.class_names, labels)
    images = manifest.select(rows)
    frame = frame_of(task, images, result.class_names, labels)
    return Shown(files, images, frame, task.boxes(images, task.crop_of(config.data))), told


def same_contents(manifest: Manifest, result: Result) -> bool:
    """Return whether the files of this table, row by row, are the ones that the run was made of."""
    digests = hash_files(manifest.files(), core_count(), manifest.root)
    return bool(content_digest(digests) == result.record.pictures)


def frame_of(task: Task, manifest: Manifest, class_names: Sequence[str], target: np.ndarray) -> Predictions:
    """Return a manifest's rows as predictions to be: all but the probabilities, which are all alike."""
    count, classes = len(manifest), len(class_names)
    columns = task.image_columns(manifest, np.arange(count), 0)
    probs = np.full((count, classes), 1 / classes)
    return Predictions(tuple(class_names), manifest["path"], target, probs, columns)


def predict_again(shown: Sequence[Shown], config: EvaluateRunConfig, crops: str) -> Predictions:
    """Return what the models say of the images that each is shown."""
    found = []
    for part in shown:
        (probs,) = predict_shown(part, [partial(part.open, cache=config.cache)], config, crops)
        found.append(replace(part.frame, probs=probs))
    return join_predictions(found)


def predict_shown(
    shown: Shown, sources: Sequence[OpenSource], config: EvaluateRunConfig, crops: str
) -> np.ndarray:
    """Return the models' mean probabilities, float (S, N, K), of the images from each of S sources.

    Args:
        shown: the N images and their models, whose classes must be the frame's.
        sources: each opens the images, prepared as a model's specification says.
        config: device, batch size and workers.
        crops: the test crops.
    """
    mean: np.ndarray = np.mean(
        [_predict(file, shown, sources, config, crops) for file in shown.files], axis=0
    )
    return mean


def _predict(
    file: Path, shown: Shown, sources: Sequence[OpenSource], config: EvaluateRunConfig, crops: str
) -> list[np.ndarray]:
    """Return one model's probabilities (N, K) of the images from each source."""
    from finetune.models.bundle import check_class_names
    from finetune.training.learner import load_classifier
    from finetune.training.optimization.distributed import World
    from finetune.training.optimization.precision import choose_precision
    from finetune.training.optimization.torch_settings import prepare_torch
    from finetune.training.predict import show_images

    core, spec, facts = load_classifier(file)
    check_class_names(facts["class_names"], shown.frame.class_names, file)
    precision = choose_precision(config.device).in_float32()
    prepare_torch(precision)
    say(precision.describe())
    precision.place(core)
    rows = np.arange(len(shown.manifest))
    return [
        show_images(
            core,
            open_source(spec),
            shown.frame.target,
            rows,
            spec,
            precision=precision,
            world=World(),
            crops=crops,
            batch_size=config.evaluate.batch_size,
            workers=config.workers,
        )["probs"]
        for open_source in sources
    ]
