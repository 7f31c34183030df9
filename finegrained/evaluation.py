"""`evaluate`: a trained run's own test pictures scored or shown again, or any other data of its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finegrained.config import FineDataConfig
from finegrained.data.boxes import picture_boxes
from finegrained.data.class_names import class_map, normalised
from finegrained.data.load import read_fine_data, tell_reading
from finegrained.data.splits import refuse_seen_pictures
from finegrained.heads.crop_views import show_pictures
from finegrained.record import MODEL_FILE
from finegrained.results import FineResult, Predictions, refuse_run_folder
from finegrained.scores import fine_scores
from finetune.cli.console import say, table
from finetune.cli.machine import core_count
from finetune.errors import DataError, ModelFileError
from finetune.images.cache import open_pictures
from finetune.images.cache_file import content_digest, hash_files
from finetune.images.manifest import Manifest
from finetune.models.bundle import check_class_names
from finetune.runs.folder import write_json
from finetune.training.learner import load_classifier
from finetune.training.optimization.distributed import World
from finetune.training.optimization.precision import choose_precision

if TYPE_CHECKING:
    from finegrained.config import EvaluateFineConfig

# How many of the classes recognised worst are printed.
WORST = 5


@dataclass(frozen=True)
class Shown:
    """Which pictures are shown: rows of a manifest, what they are in words, and how they are cut out."""

    manifest: Manifest
    rows: np.ndarray
    told: str
    data: FineDataConfig


def evaluate_run(folder: Path, config: EvaluateFineConfig) -> dict[str, Any]:
    """Score a run folder and return the scores.

    Without data in the configuration the run's own test pictures are meant: its stored predictions, or, with
    other test crops than its own or its other weights, shown again. With data, its test part (all of it where
    it names none) is shown to the run's model; labels are moved by class name.

    Raises DataError for a folder without a finished run, for pictures that the model has seen before, and for
    pictures that are no longer there; ModelFileError for other classes than the model's.
    """
    if config.out is not None:
        refuse_run_folder(Path(config.out))
    result = FineResult.load(folder)
    crops = config.evaluate.test_crops or str(result.run["test_crops"])
    other_data = config.data.root is not None or config.data.table is not None
    as_tested = crops == result.run["test_crops"] and config.weights == "selected"
    if as_tested and not other_data:
        predictions, told = own_predictions(result), "the run's own test pictures, as it was tested"
    else:
        shown = other_pictures(result, config.data) if other_data else own_pictures(result)
        predictions, told = predict_again(result, shown, config, crops), shown.told
    scores = fine_scores(predictions.probs, predictions.target, predictions.class_names)
    summary = {"run": str(folder), "data": told, "weights": config.weights, "test_crops": crops, **scores}
    print_scores(summary)
    if config.out is not None:
        write_evaluation(Path(config.out), predictions, summary)
    return summary


def own_predictions(result: FineResult) -> Predictions:
    """Return what the run predicted when it ended; DataError where it tested nothing."""
    if not len(result.predictions):
        raise DataError(f"{result.folder} tested no picture: name pictures by --data.root or --data.table")
    return result.predictions


def own_pictures(result: FineResult) -> Shown:
    """Return the run's own test pictures; DataError where its table or its data folder is gone."""
    manifest = trained_table(result)
    if not manifest.root.is_dir():
        raise DataError(
            f"{result.folder} was trained on pictures in {manifest.root}, which is not there: say where they "
            "are by --data.root"
        )
    rows = np.flatnonzero(manifest["part"] == "test")
    if not len(rows):
        raise DataError(f"{result.folder} tested no picture: name pictures by --data.root or --data.table")
    tell_shown_again()
    return Shown(manifest, rows, "the run's own test pictures, shown again", own_data(result))


def tell_shown_again() -> None:
    """Say what a second look at the run's own test pictures must not be used for."""
    say(
        "note: these test pictures were scored when the run ended; to choose weights or crops by their "
        "scores would be to train on them"
    )


def own_data(result: FineResult) -> FineDataConfig:
    """Return how the run cut its pictures out, as data options."""
    crop = result.run["crop"]
    return FineDataConfig(crop=crop["kind"], box_margin=crop["margin"])


def trained_table(result: FineResult) -> Manifest:
    """Return the run's table of pictures with its column part; DataError where it is gone."""
    if result.manifest is None or "part" not in result.manifest:
        raise DataError(f"{result.folder} lacks manifest.parquet, the table of its pictures and their parts")
    return result.manifest


def other_pictures(result: FineResult, config: FineDataConfig) -> Shown:
    """Return the test part of the named data, or all of it where it names none, unseen by the run's model."""
    data = read_fine_data(config)
    tell_reading(data)
    manifest = data.manifest
    trained = trained_table(result)
    same_table = manifest.fingerprint == trained.fingerprint
    if same_table and same_pictures(manifest, result):
        tell_shown_again()
        rows = np.flatnonzero(trained["part"] == "test")
        told = f"{len(rows)} test pictures of the run's own data"
    else:
        named = np.flatnonzero(manifest["split"] == "test") if "split" in manifest else np.arange(0)
        rows = named if len(named) else np.arange(len(manifest))
        told = f"{len(rows)} {'test ' if len(named) else ''}pictures of other data"
        if same_table:
            say("note: these pictures have the names of the run's own, but other contents")
        refuse_seen_pictures(trained, manifest, rows, result.folder)
    own = own_data(result)
    if (own.crop, own.box_margin) != (config.crop, config.box_margin):
        say(
            f"note: the model was trained with --data.crop {own.crop} --data.box_margin {own.box_margin:g}; "
            f"these pictures are shown with {config.crop} and {config.box_margin:g}"
        )
    return Shown(manifest, rows, told, config)


def same_pictures(manifest: Manifest, result: FineResult) -> bool:
    """Tell whether the files of this table, row by row, are the ones that the run was made of."""
    files = [manifest.file(row) for row in range(len(manifest))]
    found: bool = content_digest(hash_files(files, core_count())) == result.run.get("pictures")
    return found


def predict_again(result: FineResult, shown: Shown, config: EvaluateFineConfig, crops: str) -> Predictions:
    """Return what the run's model says of these pictures, its classes in its own order."""
    core, spec, facts = load_classifier(model_file(result.folder, config.weights))
    manifest, names = shown.manifest, tuple(facts["class_names"])
    labels = labels_by_name(manifest, names)
    precision = choose_precision(config.device).in_float32()
    say(precision.describe())
    precision.place(core)
    part = manifest.select(shown.rows)
    boxes = picture_boxes(part, shown.data)
    found = show_pictures(
        core,
        open_pictures(part, spec, config.cache, boxes=boxes),
        labels[shown.rows],
        np.arange(len(part)),
        spec,
        precision=precision,
        world=World(),
        crops=crops,
        batch_size=config.evaluate.batch_size,
        workers=config.workers,
    )
    return Predictions(names, part["path"][found["index"]], found["target"], found["probs"])


def labels_by_name(manifest: Manifest, names: Sequence[str]) -> np.ndarray:
    """Return the manifest's labels as indices of `names`, int64 (N,): moved by name, "/" read as "-".

    Raises ModelFileError, telling both lists apart, unless both hold the same classes.
    """
    own, wanted = [normalised(n) for n in manifest.class_names], [normalised(n) for n in names]
    if set(own) != set(wanted):
        check_class_names(list(names), list(manifest.class_names))
    moved: np.ndarray = class_map(manifest.class_names, names)[manifest.label]
    return moved


def model_file(folder: Path, weights: str) -> Path:
    """Return the file of a run's selected or other weights; ModelFileError, saying why, without it."""
    if weights == "selected":
        file = folder / MODEL_FILE
        if not file.is_file():
            raise ModelFileError(f"{folder} holds no {MODEL_FILE}")
        return file
    others = sorted(folder.glob("model-*.safetensors"))
    if len(others) != 1:
        found = ", ".join(file.name for file in others) or "none"
        raise ModelFileError(
            f"--weights other: {folder} should hold one further file of weights, model-best.safetensors or "
            f"model-last.safetensors; there is {found} (a run without validation keeps its last weights)"
        )
    return others[0]


def print_scores(summary: dict[str, Any]) -> None:
    """Print the scores and the classes recognised worst."""
    interval = summary["top1_interval"]
    top5 = "" if summary["top5"] is None else f", top-5 {summary['top5']:.2f} %"
    say(
        f"{summary['data']} ({summary['test_crops']} crops, {summary['weights']} weights): top-1 "
        f"{summary['top1']:.2f} % ({100 * interval['level']:.0f} % interval {interval['low']:.1f} to "
        f"{interval['high']:.1f}){top5}, mean over classes {summary['balanced_accuracy']:.2f} %, of "
        f"{summary['n']} pictures"
    )
    tested = sorted((row for row in summary["per_class"] if row["n"]), key=lambda row: row["accuracy"])
    rows = [
        [row["name"], row["n"], f"{row['accuracy']:.1f}", row["taken_for"] or "-"] for row in tested[:WORST]
    ]
    table("recognised worst", ["class", "pictures", "top-1 %", "mostly taken for"], rows)


def write_evaluation(out: Path, predictions: Predictions, summary: dict[str, Any]) -> None:
    """Write predictions.parquet and evaluation.json into a folder, which is made where it is not there."""
    out.mkdir(parents=True, exist_ok=True)
    predictions.write(out / "predictions.parquet")
    write_json(out / "evaluation.json", summary)
    say(f"predictions.parquet and evaluation.json lie in {out}")
