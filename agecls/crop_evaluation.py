"""What a detector's crops cost: a run's predictions for its images as they are, and cut out by a detector.

The accuracy in a report holds for crops like those in training. In use a detector makes the crops;
this is the check that both are alike, and the price where they are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agecls.config import EvaluateAgeConfig
from agecls.faces.alignment import Face, crop_face
from agecls.faces.crop import MAX_ASPECT, MAX_DROP, MAX_MARGIN, FaceCrop, crop_of_run
from agecls.faces.detector import FaceDetector, build_detector, missing_detector_message
from agecls.measures import AGE_RESULT
from agecls.scores import exact_accuracy, one_off_accuracy
from finetune.cli.console import progress, say, table
from finetune.cli.machine import core_count
from finetune.errors import DataError, UsageError, listing
from finetune.experiments.evaluate import (
    Evaluation,
    Shown,
    chosen_crops,
    names_data,
    other_images,
    own_images,
    predict_shown,
    table_of,
    write_evaluation,
)
from finetune.experiments.records.predictions import Predictions, join_predictions
from finetune.experiments.result import Result, model_files, refuse_run_folder
from finetune.experiments.task import Task
from finetune.figures.markdown import method_mark, points, signed
from finetune.images.checks import known_count, subjects_known
from finetune.images.decode import BadImageError, decode_image
from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec, prepare
from finetune.metrics.bootstrap import paired_cluster_bootstrap
from finetune.metrics.intervals import told_method
from finetune.runs.folder import read_json

MEASURED, FEWEST_MEASURED = 256, 10
SCORES = {"exact": exact_accuracy, "one_off": one_off_accuracy}


class RecroppedSource:
    """A manifest's images, prepared, cut out as a detector has it; without a face they stay whole.

    `found` gives, per manifest row, the image's face or None; see `find_faces`.
    """

    def __init__(
        self, manifest: Manifest, spec: PreprocessSpec, found: Mapping[int, Face | None], crop: FaceCrop
    ) -> None:
        self.bad: dict[int, str] = {}
        self.content = ""
        self._manifest, self._spec, self._found, self._crop = manifest, spec, found, crop

    def __len__(self) -> int:
        return len(self._manifest)

    def __getitem__(self, row: int) -> np.ndarray:
        """Return the prepared crop of a manifest row, uint8 (h, w, 3)."""
        image, face = decode_image(self.file(row)), self._found[int(row)]
        if face is not None:
            spec = self._spec
            image = crop_face(image, face, self._crop, spec.resize_size, spec.interpolation)
        return prepare(image, self._spec)

    def file(self, row: int) -> Path:
        """Return the file a row comes from."""
        return self._manifest.file(int(row))


def evaluate_recropped(task: Task, folder: Path, config: EvaluateAgeConfig) -> Evaluation:
    """Score a run with its images' own crops and with a detector's, and return both with their difference.

    The predictions returned are those for the detector's crops.

    Without data in the configuration each model of the run is shown its own test images; other data is shown
    to all of them, whose probabilities are averaged. Where no face is found the image is shown as it is,
    and counted.

    Raises UsageError without a detector, DataError for images that cannot be read.
    """
    if config.out is not None:
        refuse_run_folder(Path(config.out))
    detector = build_detector(config.detector)
    if detector is None:
        raise UsageError(missing_detector_message())
    crop = crop_for_run(folder, detector, config.face_crop, config.face_margin)
    say(f"{detector.name}; crops: {crop.describe()}")
    own: list[Predictions] = []
    cut: list[Predictions] = []
    found: list[bool] = []
    result, pictures = shown_pictures(task, folder, config)
    for shown in pictures:
        rows = np.arange(len(shown.manifest))
        faces = find_faces(shown.manifest, rows, detector)
        whole, cut_out = _answers(shown, faces, crop, config, chosen_crops(result, config))
        own.append(replace(shown.frame, probs=whole))
        cut.append(replace(shown.frame, probs=cut_out))
        found += [faces[int(row)] is not None for row in rows]
    summary = {
        "run": str(folder),
        "data": "other data" if names_data(config) else "the run's own test images",
        "weights": config.weights,
        "test_crops": chosen_crops(result, config),
        "detector": detector.name,
        "crop": crop.to_dict(),
        **crop_report(join_predictions(own), join_predictions(cut), np.array(found)),
    }
    tell(summary)
    if config.out is not None:
        whose = " (of the detector's crops)"
        write_evaluation(Path(config.out), join_predictions(cut), summary, whose)
    return Evaluation(summary, join_predictions(cut))


def crop_for_run(
    folder: Path, detector: FaceDetector, style: str = "auto", margin: float | None = None
) -> FaceCrop:
    """Return the crop that imitates a run's training images best.

    As `agecls.faces.crop.crop_of_run`; and where that knows nothing (a table of images, style "auto", no
    margin given), margin, drop and aspect are measured on the run's own images. No label is read for it,
    and the images of all folds are taken together.
    """
    run = read_json(folder / "run.json")
    rule = crop_of_run(run, style, margin)
    if not can_measure(run, style, margin):
        return rule
    squeezed = (run.get("preprocess") or {}).get("resize") == "warp"
    measured = measured_crop(table_of(folder), detector, squeezed=squeezed)
    if measured is None:
        say(f"the faces of {folder} were not found often enough to measure their margin")
    return measured or rule


def can_measure(run: Mapping[str, Any], style: str = "auto", margin: float | None = None) -> bool:
    """Return whether the crop of a run with this record is open, so that its images have to be measured."""
    return style == "auto" and margin is None and crop_of_run(run).style == "plain"


def measured_crop(manifest: Manifest, detector: FaceDetector, *, squeezed: bool) -> FaceCrop | None:
    """Return the plain crop that frames faces as a manifest's images do, in the median.

    Args:
        manifest: the images; at most MEASURED of them, evenly spread, are looked at.
        detector: finds their faces, in whose boxes the crop is measured.
        squeezed: the model sees each image squeezed to a square (PreprocessSpec.resize "warp"): the crop
            has the images' height and their width over height. Otherwise it sees the square on their
            shorter side, in their middle: that square is the crop.

    None unless ten show a face.
    """
    rows = np.unique(np.linspace(0, len(manifest) - 1, min(MEASURED, len(manifest))).round().astype(int))
    frames = []
    for row, face in find_faces(manifest, rows, detector).items():
        if face is not None:
            height, width = decode_image(manifest.file(row)).shape[:2]
            _, y, w, h = face.box
            longer = max(w, h)
            side = height if squeezed else min(width, height)
            aspect = width / height if squeezed else 1.0
            frames.append(((side / longer - 1) / 2, (height / 2 - y - h / 2) / longer, aspect))
    if len(frames) < FEWEST_MEASURED:
        return None
    lowest, highest = (0, -MAX_DROP, 1 / MAX_ASPECT), (MAX_MARGIN, MAX_DROP, MAX_ASPECT)
    median = np.clip(np.median(frames, axis=0), lowest, highest)
    return FaceCrop("plain", *(round(float(value), 3) for value in median))


def shown_pictures(task: Task, folder: Path, config: EvaluateAgeConfig) -> tuple[Result, list[Shown]]:
    """Return the run and which images its models are shown: own test images fold by fold, or other data."""
    model_files(folder, config.weights)
    result = Result.load(folder, AGE_RESULT)
    other = names_data(config)
    return result, [other_images(task, result, config)[0]] if other else own_images(
        task, result, config.weights
    )


def find_faces(manifest: Manifest, rows: np.ndarray, detector: FaceDetector) -> dict[int, Face | None]:
    """Return, by manifest row, the face that each image is of (see `face_of`), None where there is none.

    Images are decoded by all cores. Raises DataError naming those that cannot be read.
    """
    unique = np.unique(rows).tolist()
    bad: list[str] = []

    def look(row: int) -> Face | None:
        try:
            image = decode_image(manifest.file(row))
        except BadImageError as error:
            bad.append(str(error))
            return None
        return face_of(detector.detect(image), image.shape[1], image.shape[0])

    found = {}
    with ThreadPoolExecutor(core_count()) as pool, progress(len(unique), "finding faces") as bar:
        for row, face in zip(unique, pool.map(look, unique), strict=True):
            found[row] = face
            bar.advance()
    if bad:
        raise DataError(f"{len(bad)} of {len(unique)} images cannot be used:\n{listing(sorted(bad))}")
    return found


def face_of(faces: list[Face], width: int, height: int) -> Face | None:
    """Return the face that an image of one subject shows: the largest over its middle, else the largest."""

    def holds_middle(face: Face) -> bool:
        x, y, w, h = face.box
        return x <= width / 2 <= x + w and y <= height / 2 <= y + h

    return next((face for face in faces if holds_middle(face)), faces[0] if faces else None)


def crop_report(own: Predictions, cut: Predictions, found: np.ndarray) -> dict[str, Any]:
    """Return the scores of two sets of crops of the same images, and what the second costs.

    Args:
        own: predictions for the images as they are, N of them.
        cut: predictions for the detector's crops, in the same order.
        found: bool (N,), whether the detector found a face.

    Returns n, subjects (None where they are not known), found, not_found, equal_predictions (percent),
    found_per_group {name: [found, of]}, all and found_only: each {n, exact, one_off: {own, detector,
    difference, interval, p}} in percent and points, detector minus own, subjects resampled within folds (None
    where no face was found).
    """
    groups = {
        name: [int(found[own.target == index].sum()), int((own.target == index).sum())]
        for index, name in enumerate(own.class_names)
    }
    return {
        "n": len(own),
        "subjects": known_count(own["subject"], known=subjects_known(own)),
        "found": int(found.sum()),
        "not_found": int((~found).sum()),
        "equal_predictions": 100 * float((own.preds == cut.preds).mean()),
        "found_per_group": groups,
        "all": _compared(own, cut),
        "found_only": _compared(own.select(found), cut.select(found)) if found.any() else None,
    }


def tell(summary: Mapping[str, Any]) -> None:
    """Print what re-cropping costs."""
    rows: list[list[object]] = []
    parts = {"all images": summary["all"], "face found": summary["found_only"]}
    if not summary["not_found"]:
        del parts["face found"]
    for name, part in parts.items():
        for score in SCORES if part else ():
            found = part[score]
            ends = f"{points(found['interval'])}{method_mark(found, 'interval')}"
            change = f"{signed(found['difference'])} [{ends}]"
            sides = [f"{found[side]:.2f}" for side in ("own", "detector")]
            rows.append([name, part["n"], score.replace("_", "-"), *sides, change])
    table(
        f"{summary['data']}: crops of their own and crops by the detector, percent and points",
        ["", "images", "score", "own crops", "detector's", "difference [95 % interval]"],
        rows,
    )
    groups = summary["found_per_group"].items()
    missing = ", ".join(f"{name} {of - hit}" for name, (hit, of) in groups if of > hit)
    people = "" if summary["subjects"] is None else f" of {summary['subjects']} subjects"
    say(
        f"faces found in {summary['found']} of {summary['n']} images{people}"
        + (f" (shown whole without one, by group: {missing})" if missing else "")
        + f"; {summary['equal_predictions']:.1f} % of the predictions are the same"
    )


def _answers(
    shown: Shown, faces: Mapping[int, Face | None], crop: FaceCrop, config: EvaluateAgeConfig, crops: str
) -> np.ndarray:
    """Return the models' mean probabilities, float (2, N, K): for the own crops, for the detector's."""

    def recropped(spec: PreprocessSpec) -> RecroppedSource:
        return RecroppedSource(shown.manifest, spec, faces, crop)

    return predict_shown(shown, [partial(shown.open, cache=config.cache), recropped], config, crops)


def _compared(own: Predictions, cut: Predictions) -> dict[str, Any]:
    result: dict[str, Any] = {"n": len(own)}
    for name, score in SCORES.items():
        hits = [100.0 * getattr(side, "correct" if name == "exact" else "one_off") for side in (own, cut)]
        paired = paired_cluster_bootstrap(hits[0], hits[1], own["subject"], own.fold, percent=True)
        result[name] = {
            "own": score(own.preds, own.target),
            "detector": score(cut.preds, cut.target),
            "difference": paired.difference,
            "interval": [paired.low, paired.high],
            "p": paired.p if np.isfinite(paired.p) else None,
            **told_method("interval", paired.method),
        }
    return result
