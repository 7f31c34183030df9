"""`evaluate`: a trained run on its own test images, or on any other data, whole and in slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agecls.data.read import AgeData, read_data
from agecls.results import AgeResult, Predictions
from agecls.scores import age_scores, slice_scores
from finetune.cli.console import say, table
from finetune.errors import DataError, ModelFileError, UsageError, listing
from finetune.images.cache import open_pictures
from finetune.images.manifest import Manifest
from finetune.runs.folder import read_json, write_json

if TYPE_CHECKING:
    from agecls.config import EvaluateAgeConfig
    from finetune.images.cache import ImageSource
    from finetune.images.preprocess import PreprocessSpec

SLICES = ("group", "gender", "subject_count")


def evaluate_run(folder: Path, config: EvaluateAgeConfig) -> dict[str, Any]:
    """Score a run folder and return the scores with their slices.

    Without data in the configuration the run's own test predictions are scored. With data, its images are
    shown to the run's model; a cross-validation's folds each predict and their probabilities are averaged,
    which is refused for images that the folds were trained on. Pictures are shown as they are; what cutting
    them out again by a face detector costs is told by `agecls.crop_evaluation.evaluate_recropped`.
    """
    assert config.crop == "own", "crops by a detector are evaluated by agecls.crop_evaluation"
    refuse_unused(config)
    if config.data.root is None and config.data.table is None:
        predictions, asked = own_predictions(folder, config), "the run's own test images"
    else:
        data = read_data(config.data, with_folds=False)
        predictions, asked = predict_data(folder, data, config), f"{len(data.manifest)} images of other data"
    scores = age_scores(predictions.probs, predictions.target)
    slices = {name: slice_scores(predictions, name) for name in SLICES}  # type: ignore[arg-type]
    summary = {"run": str(folder), "data": asked, **scores, "slices": slices}
    told = (
        f"exact {scores['exact']:.2f} %, one-off {scores['one_off']:.2f} %, pooled over {scores['n']} images"
    )
    say(f"{asked}: {told}")
    for name, rows in slices.items():
        print_slice(name, rows)
    if config.out is not None:
        out = Path(config.out)
        out.mkdir(parents=True, exist_ok=True)
        predictions.write(out / "predictions.parquet")
        write_json(out / "evaluation.json", summary)
        say(f"predictions.parquet and evaluation.json lie in {out}")
    return summary


def refuse_unused(config: EvaluateAgeConfig) -> None:
    """Raise UsageError for options of re-cropping in an evaluation that cuts nothing out again."""
    given = {"detector": config.detector, "face_margin": config.face_margin}
    given["face_crop"] = None if config.face_crop == "auto" else config.face_crop
    unused = [f"--{name}" for name, value in given.items() if value is not None]
    if unused:
        raise UsageError(f"{', '.join(unused)} would change nothing: add --crop detector")


def own_predictions(folder: Path, config: EvaluateAgeConfig) -> Predictions:
    """Return what a run predicted for its test images when it ended.

    Raises DataError for a run that tested nothing, UsageError when other test crops than its own are asked
    for: they would need the pictures again.
    """
    result = AgeResult.load(folder)
    if not len(result.predictions):
        raise DataError(
            f"{folder} tested no image (--data.fold -1): name images by --data.table or --data.root"
        )
    asked, own = config.evaluate.test_crops, result.run.get("test_crops")
    if asked is not None and asked != own:
        raise UsageError(
            f"{folder} was tested with {own} crops, and its stored predictions are what is scored without "
            f"--data.*; give --evaluate.test_crops {asked} when training, or name other data"
        )
    return result.predictions


def print_slice(name: str, rows: list[dict[str, Any]]) -> None:
    """Print one slice; cells with too few subjects show their counts alone."""
    lines = []
    for row in rows:
        told = ["-", "-"]
        if row["exact"] is not None:
            low, high = row["exact_interval"]
            told = [f"{row['exact']:.1f} [{low:.1f}, {high:.1f}]", f"{row['one_off']:.1f}"]
        lines.append([row["name"], row["images"], row["subjects"], *told])
    table(f"by {name.replace('_', ' ')}", ["", "images", "subjects", "exact %", "one-off %"], lines)


def model_files(folder: Path) -> list[Path]:
    """Return a finished run's models: its own, or one per fold; ModelFileError without any."""
    own = folder / "model.safetensors"
    files = [own] if own.is_file() else sorted(folder.glob("fold*/model.safetensors"))
    if not files:
        raise ModelFileError(f"{folder} holds no model.safetensors, nor do folders fold0, fold1, ... in it")
    if not (folder / "run.json").is_file():
        raise ModelFileError(f"{folder} is not finished (no run.json): go on with it by --run.resume auto")
    return files


def predict_data(folder: Path, data: AgeData, config: EvaluateAgeConfig) -> Predictions:
    """Return the predictions of a run's models for every image of `data`, averaged over the models."""
    files = model_files(folder)
    refuse_training_images(folder, data.manifest)
    manifest = data.manifest
    rows = np.arange(len(manifest))
    sources = [lambda spec: open_pictures(manifest, spec, config.cache)]
    found = [predict_pictures(file, sources, manifest, rows, config) for file in files]
    return replace(frame_of(manifest), probs=np.mean(found, axis=0)[0])


def frame_of(manifest: Manifest) -> Predictions:
    """Return a manifest's rows as predictions to be: all but the probabilities, which are all alike."""
    count, classes = len(manifest), len(manifest.class_names)
    return Predictions(
        manifest.class_names,
        path=manifest["path"],
        subject=manifest["subject"],
        user=manifest["user"] if "user" in manifest else manifest["subject"],
        gender=manifest["gender"] if "gender" in manifest else np.full(count, ""),
        age=manifest["age"] if "age" in manifest else np.full(count, np.nan),
        fold=np.zeros(count),
        target=manifest.label,
        probs=np.full((count, classes), 1 / classes),
    )


def refuse_training_images(folder: Path, manifest: Manifest) -> None:
    """Raise DataError when a run would be tested on images of the data set it was trained on.

    That is the same list of images wherever it lies, or any file that is on both lists.
    """
    record = read_json(folder / "run.json")
    same = record.get("manifest") == manifest.fingerprint
    shared: list[str] = []
    if (folder / "manifest.parquet").is_file():
        trained = Manifest.load(folder / "manifest.parquet", Path(record["data_root"]))
        same = same or without_folds(trained).fingerprint == without_folds(manifest).fingerprint
        known = {trained.file(row).resolve() for row in range(len(trained))}
        rows = range(len(manifest))
        shared = [str(manifest["path"][row]) for row in rows if manifest.file(row).resolve() in known]
    if same or shared:
        count = len(manifest) if same else len(shared)
        raise DataError(
            f"{count} of {len(manifest)} images belong to the data set that {folder} was trained on:\n"
            f"{listing(shared or manifest['path'].tolist())}\n"
            "Without --data.* the run's own test images are scored; else name other data"
        )


def without_folds(manifest: Manifest) -> Manifest:
    """Return the manifest as it is before anybody made folds."""
    return manifest.with_column("fold", np.full(len(manifest), -1))


def predict_pictures(
    file: Path,
    sources: Sequence[Callable[[PreprocessSpec], ImageSource]],
    manifest: Manifest,
    rows: np.ndarray,
    config: EvaluateAgeConfig,
) -> list[np.ndarray]:
    """Return one model's probabilities (N, K) for these rows of a manifest, in their order, from each source.

    Args:
        file: the model.safetensors.
        sources: each opens the manifest's pictures, prepared as the model's specification says.
        manifest: whose classes must be the model's.
        rows: int (N,), manifest rows; one may come twice.
        config: device, test crops and batch size.
    """
    from finetune.images.batches import EvalBatches
    from finetune.models.bundle import check_class_names
    from finetune.training.learner import load_classifier
    from finetune.training.loop import evaluate
    from finetune.training.optimization.distributed import World
    from finetune.training.optimization.precision import choose_precision

    core, spec, facts = load_classifier(file)
    check_class_names(facts["class_names"], manifest.class_names)
    precision = choose_precision(config.device).in_float32()
    say(precision.describe())
    precision.place(core)
    unique, place = np.unique(rows, return_inverse=True)
    crops = config.evaluate.test_crops or facts.get("test_crops", "center")
    probs = []
    for open_source in sources:
        pictures, size = open_source(spec), config.evaluate.batch_size
        batches = EvalBatches(pictures, manifest.label, unique, spec, crops=crops, batch_size=size)
        probs.append(evaluate(core, batches, spec, precision, World())["probs"][place])
    return probs
