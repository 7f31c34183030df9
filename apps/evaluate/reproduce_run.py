"""Exported models beside the trained ones of their run: the same test images, count against count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from apps.config import EvaluateOnnxConfig
from apps.runtime.batching import files_or_cuts
from apps.runtime.calibration import as_stated, may_reorder
from apps.runtime.session import OnnxClassifier
from apps.runtime.side_by_side import probabilities
from finetune.cli.console import say, table
from finetune.errors import DataError, ModelFileError, UsageError, listing
from finetune.experiments.exported.lookup import open_result
from finetune.experiments.records.predictions import Predictions, join_predictions
from finetune.experiments.result import Result
from finetune.experiments.task import Task, measures_for
from finetune.images.class_names import short_list
from finetune.images.manifest import Manifest
from finetune.images.preprocess import TEST_CROPS
from finetune.runs.folder import write_json

COUNTS = ("images", "correct, trained", "correct, onnx", "same prediction", "max |dp|")


@dataclass(frozen=True, eq=False)
class Repeat:
    """One model beside the trained one it was exported from, on the test images of its fold.

    Args:
        model: the exported one.
        fold: that it was not trained on; -1 for the one test part of a run without folds.
        trained: what the trained model predicted.
        found: what the exported one predicts, row by row the same images, as before its temperature.
    """

    model: OnnxClassifier
    fold: int
    trained: Predictions
    found: Predictions

    def facts(self) -> dict[str, Any]:
        """Return the comparison as plain values."""
        model = self.model
        told: dict[str, Any] = {"model": str(model.path), "title": model.title, "sha256": model.sha256}
        told |= {
            "fold": None if self.fold == -1 else self.fold,
            "precision": model.facts.precision,
            "device": model.device,
        }
        return told | _agreement(self.trained, self.found)


def repeat_run(models: Sequence[OnnxClassifier], config: EvaluateOnnxConfig) -> dict[str, Any]:
    """Show each model the test images of its own fold of `config.run`, and compare it with the trained one.

    Prints and returns the comparison, after writing it to `config.out`.

    Raises ModelFileError when an fp32 model gets another number of images correct than the trained one, or a
    model is of another run; UsageError for a model that averages folds; DataError for images that are not
    there.
    """
    task, result = open_result(Path(str(config.run)))
    by_fold: dict[int, list[OnnxClassifier]] = {}
    for model in models:
        by_fold.setdefault(_own_part(model, result), []).append(model)
    manifest, crops = _run_manifest(result, config), _crops(result)
    boxes = task.boxes(manifest, result.record.crop)
    repeats: list[Repeat] = []
    for fold, members in sorted(by_fold.items()):
        trained = _tested(result, fold)
        rows = _test_rows(trained, manifest, config)
        pictures = files_or_cuts([manifest.file(row) for row in rows], None if boxes is None else boxes[rows])
        told = "test images" if fold == -1 else f"fold {fold}"
        found = probabilities(
            members, pictures, [crops] * len(members), batch_size=config.batch_size, told=told
        )
        repeats += [
            Repeat(model, fold, trained, replace(trained, probs=as_stated(model.facts.calibration, probs)))
            for model, probs in zip(members, found, strict=True)
        ]
    summary = _tell_repeats(repeats, task, config)
    _refuse_differences(repeats, result)
    return summary


def _own_part(model: OnnxClassifier, result: Result) -> int:
    """Return the fold whose images the model was not trained on, after checking that it is of this run."""
    if model.class_names != result.class_names:
        raise ModelFileError(
            f"{model.path} has other classes than {result.folder}: {short_list(model.class_names)}"
        )
    told = _recorded_twice(model, result)
    other = [words for words, own, run in told if None not in (own, run) and own != run]
    if other:
        raise ModelFileError(f"{model.path} is not of {result.folder}: another {', another '.join(other)}")
    return _part(model, result)


def _recorded_twice(model: OnnxClassifier, result: Result) -> list[tuple[str, Any, Any]]:
    """Return what a model and its run both record: the words for it, and either's value, None if absent."""
    facts, record = model.facts, result.record
    fold = facts.data.get("fold")
    part = result.part_record(fold) if isinstance(fold, int) else record
    return [
        ("table of images", facts.data.get("manifest"), record.manifest),
        ("split", facts.data.get("split"), record.split),
        ("loss", facts.loss.get("name"), (record.loss or {}).get("name")),
        ("backbone", facts.architecture.get("backbone"), record.backbone),
        ("seed", facts.training.get("seed"), record.seed),
        ("head", facts.architecture.get("head"), record.head),
        ("choice of weights", facts.data.get("weights"), part.selected if part else None),
    ]


def _part(model: OnnxClassifier, result: Result) -> int:
    """Return the fold whose images a model was tested on, -1 for the one test part of a run without folds.

    Raises UsageError for a model that averages folds, DataError for one whose fold was not tested and for a
    run that tested nothing.
    """
    if "fold" not in result.predictions:
        if not len(result.predictions):
            raise DataError(f"{result.folder} tested no image: show {model.path} others by --data.*")
        return -1
    fold = model.facts.data.get("fold")
    if model.facts.architecture.get("members", 1) != 1 or not isinstance(fold, int):
        raise UsageError(
            f"{model.path} averages models of several folds, which together were trained on every image "
            f"of {result.folder}: export single folds to repeat the run, or show it other images by --data.*"
        )
    if fold not in result.folds:
        told = "every image was trained on" if fold == -1 else f"tested are {result.folds}"
        raise DataError(f"{result.folder} has no test images for {model.path} (fold {fold}): {told}")
    return fold


def _tested(result: Result, fold: int) -> Predictions:
    """Return what the trained model of this fold predicted."""
    own = result.predictions
    return own if fold == -1 else own.select(own.fold == fold)


def _crops(result: Result) -> str:
    """Return the views of an image that the run averaged over; UsageError where no file can show them."""
    crops = result.record.test_crops or "center"
    if crops not in TEST_CROPS:
        raise UsageError(
            f"{result.folder} was tested with {crops} crops, for which a file would have to look twice: "
            "instead of --run give --data.root, and the images' centres are scored"
        )
    return crops


def _run_manifest(result: Result, config: EvaluateOnnxConfig) -> Manifest:
    """Return the run's table of images (a fold's lies a folder higher), where the images lie now."""
    places = (result.folder, result.folder.resolve().parent)
    files = [place / "manifest.parquet" for place in places if (place / "manifest.parquet").is_file()]
    if not files:
        raise DataError(f"{result.folder} lacks manifest.parquet, the table of its images")
    root = config.data.root or result.record.data_root or result.folder
    return Manifest.load(files[0], Path(str(root)))


def _test_rows(trained: Predictions, manifest: Manifest, config: EvaluateOnnxConfig) -> list[int]:
    """Return the tested rows of the table; DataError where a row or its file is missing."""
    rows = {path: row for row, path in enumerate(manifest["path"].tolist())}
    strange = [path for path in trained.path.tolist() if path not in rows]
    if strange:
        raise DataError(f"{config.run}: predictions of images that its table lacks:\n{listing(strange)}")
    tested = [rows[path] for path in trained.path.tolist()]
    files = [manifest.file(row) for row in tested]
    lost = [str(file) for file in files if not file.is_file()]
    if lost:
        raise DataError(
            f"{len(lost)} of {len(files)} test images are not there:\n{listing(lost)}\n"
            "Where they have moved, say so: --data.root FOLDER"
        )
    return tested


def _agreement(trained: Predictions, found: Predictions) -> dict[str, Any]:
    """Return how two predictions of the same rows agree: counts, and the largest difference of any p."""
    return {
        "n": len(found),
        "right_trained": int(trained.correct.sum()),
        "right_onnx": int(found.correct.sum()),
        "same_answer": int((trained.preds == found.preds).sum()),
        "largest_difference": float(np.abs(trained.probs - found.probs).max(initial=0)),
    }


def _tell_repeats(repeats: Sequence[Repeat], task: Task, config: EvaluateOnnxConfig) -> dict[str, Any]:
    """Print a line per model and one per precision, write what was asked for, return the summary."""
    lines, pooled, tables = [repeat.facts() for repeat in repeats], {}, {}
    measures = measures_for(task, "evaluate", repeats[0].found.class_names)
    for precision in dict.fromkeys(repeat.model.facts.precision for repeat in repeats):
        own = [repeat for repeat in repeats if repeat.model.facts.precision == precision]
        trained, found = (
            join_predictions([part.trained for part in own]),
            join_predictions([part.found for part in own]),
        )
        scores = task.scores(found)
        pooled[precision] = _agreement(trained, found) | {m.key: scores[m.score_name] for m in measures}
        tables["predictions.parquet" if precision == "fp32" else f"predictions-{precision}.parquet"] = found
    rows = [[line["title"], line["precision"], _fold(line), *_cells(line)] for line in lines]
    rows += [["pooled", precision, "", *_cells(line)] for precision, line in pooled.items()]
    header = ["model", "precision", "fold", *COUNTS]
    table(f"exported models beside the trained ones of {config.run}", header, rows)
    for precision, line in pooled.items():
        known = [(m, line[m.key]) for m in measures if line[m.key] is not None]
        told = ", ".join(f"{one.label} {value:.2f} {one.unit}".rstrip() for one, value in known)
        say(f"{precision}: {told}, pooled over {line['n']} images")
    summary = {"run": str(config.run), "models": lines, "pooled": pooled}
    write_results(config.out, summary, tables)
    return summary


def _fold(line: Mapping[str, Any]) -> str:
    return "" if line["fold"] is None else str(line["fold"])


def _cells(line: Mapping[str, Any]) -> list[object]:
    counts = [line[name] for name in ("n", "right_trained", "right_onnx", "same_answer")]
    return [*counts, f"{line['largest_difference']:.1e}"]


def _refuse_differences(repeats: Sequence[Repeat], result: Result) -> None:
    """Raise ModelFileError where an fp32 model gets another number of images correct than the trained one."""
    wrong = [
        f"{repeat.model.path}: {line['right_onnx']} of {line['n']} correct, trained {line['right_trained']}"
        for repeat in repeats
        if repeat.model.facts.precision == "fp32"
        and not may_reorder(repeat.model.facts.calibration)
        and (line := repeat.facts())["right_onnx"] != line["right_trained"]
    ]
    if wrong:
        versions = result.record.versions or {}
        told = ", ".join(f"{name} {versions[name]}" for name in ("opencv", "pillow") if name in versions)
        raise ModelFileError(
            f"{len(wrong)} exported models do not repeat what {result.folder} scored:\n{listing(wrong)}\n"
            "Either they are of another run, or the images have changed, or they are decoded or resized "
            f"by other versions than in training ({told or 'not recorded'})"
        )


def write_results(
    out: str | None, summary: Mapping[str, Any], predictions: Mapping[str, Predictions]
) -> None:
    """Write evaluation.json and each table of predictions, by file name, into `out`; None writes nothing."""
    if out is None:
        return
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in predictions.items():
        rows.write(folder / name)
    write_json(folder / "evaluation.json", summary)
    say(f"{', '.join(predictions)} and evaluation.json lie in {folder}")
