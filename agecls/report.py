"""A finished result -> its report: pictures, report.json with every number, report.md for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from agecls import report_sections
from agecls.pictures import draw_confusion, draw_group_bars, group_recalls
from agecls.results import AgeResult
from agecls.scores import score_cross_validation, slice_scores
from finetune.figures import markdown
from finetune.figures.gallery import draw_heat_maps
from finetune.figures.learning_curves import draw_learning_curves, draw_reliability
from finetune.figures.markdown import Picture, show_pictures
from finetune.figures.selection import choose_typical
from finetune.metrics.classification import confusion_matrix
from finetune.runs.files import write_bytes
from finetune.runs.folder import image_files, write_json

PICTURES = "pictures"


def report_result(
    result: AgeResult,
    train_labels: Mapping[int, np.ndarray] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a result and write pictures/, report.json and report.md into its folder.

    Args:
        result: run.json, predictions and learning curves of a finished cross-validation.
        train_labels: fold -> labels trained on, for the baseline; None takes the other folds' test images.
        resamples: bootstrap resamples over subjects.
        seed: of the resampling.

    Returns:
        What report.json holds: the run's settings, every score, `slices`, `confusion` and `pictures`.
    """
    found = result.predictions
    scores = score_cross_validation(found, train_labels, resamples=resamples, seed=seed)
    slices = {
        by: slice_scores(found, by, resamples=resamples, seed=seed)
        for by in ("group", "gender", "subject_count")
    }
    confusion = confusion_matrix(found.probs, found.target, len(found.class_names))
    record = {
        **result.run,
        "loss_text": result.loss_text,
        **scores,
        "slices": slices,
        "confusion": confusion.tolist(),
    }
    pictures = draw_pictures(result, slices["group"], confusion)
    write_report(result.folder, record, pictures)
    return record | {"pictures": [picture.file.as_posix() for picture in pictures]}


def draw_pictures(
    result: AgeResult, groups: Sequence[Mapping[str, Any]], confusion: np.ndarray
) -> list[Picture]:
    """Draw a result's pictures into its folder; `groups` are the rows of `slice_scores(..., "group")`."""
    found, names = result.predictions, result.class_names
    place, made = result.folder / PICTURES, []
    exact, one_off = group_recalls(confusion)
    ends = [np.array([cell[key] or (np.nan, np.nan) for cell in groups]) for key in INTERVALS]
    draw_confusion(confusion, names, place / "confusion.png")
    made.append(Picture(_in_pictures("confusion"), "Confusion matrix", "All test images of all folds."))
    draw_group_bars(
        names,
        confusion.sum(axis=1),
        exact,
        one_off,
        place / "groups.png",
        exact_interval=ends[0],
        one_off_interval=ends[1],
    )
    made.append(Picture(_in_pictures("groups"), "Accuracy per group", "Intervals from 30 subjects on."))
    if any(result.curves.values()):
        draw_learning_curves(list(result.curves.values()), place / "learning_curves.png")
        made.append(Picture(_in_pictures("learning_curves"), "Learning curves", CURVES_NOTE))
    draw_reliability(found.probs, found.target, place / "reliability.png")
    made.append(
        Picture(_in_pictures("reliability"), "Reliability diagram", "Bins without an image are empty.")
    )
    rows = choose_typical(found.target, found.probs)
    draw_heat_maps(
        image_files(result.run, found.path[rows]),
        found.target[rows],
        {result.loss_text: found.probs[rows]},
        names,
        place / "heat_map.png",
        subtitle="per true group, the image of median probability of the true group",
    )
    made.append(Picture(_in_pictures("heat_map"), "Softmax heat map", FACES_NOTE))
    return made


INTERVALS = ("exact_interval", "one_off_interval")
CURVES_NOTE = (
    "Training accuracy is measured on augmented pictures while the weights still move. "
    "Values of different losses cannot be compared."
)
FACES_NOTE = "It shows pictures of the data set: mind its terms before passing them on."


def write_report(folder: Path, record: Mapping[str, Any], pictures: Sequence[Picture] = ()) -> Path:
    """Write report.json and report.md into `folder` and return the latter.

    Args:
        folder: an existing folder; the pictures' paths start from it.
        record: in one mapping the run's settings (run.json), `loss_text`, the scores of
            `score_cross_validation`, `slices` (name -> rows of `slice_scores`, at least "group") and
            `confusion` (K, K).
        pictures: what to show, in this order.
    """
    content = {**record, "pictures": [picture.file.as_posix() for picture in pictures]}
    write_json(folder / "report.json", content)
    page = folder / "report.md"
    write_bytes(page, _page(record, pictures).encode())
    return page


def _page(record: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    title = f"Age groups: {record['loss_text']}, {record.get('backbone', 'unknown backbone')}"
    slices = record["slices"]
    sections: list[tuple[str, str | None]] = [
        ("Result", report_sections.headline(record)),
        ("Folds", report_sections.per_fold(record)),
        ("Age groups", report_sections.per_group(record)),
        ("Gender", _other_slice(slices.get("gender"), "gender")),
        ("Images per person", _other_slice(slices.get("subject_count"), "test images of the person")),
        ("Other decoders and probabilities", report_sections.calibration(record)),
        ("Pictures", show_pictures(pictures)),
        ("Data", report_sections.data_line(record)),
        ("What was run", report_sections.what_ran(record)),
        ("Reported by others", report_sections.reported_by_others(record)),
        ("Use", report_sections.responsible_use(record)),
    ]
    return markdown.page(markdown.escape(title), sections)


def _other_slice(cells: Sequence[Mapping[str, Any]] | None, name: str) -> str | None:
    if not cells or len(cells) < 2:
        return None
    return f"{report_sections.per_slice(cells, name)}\n\nCells of fewer than 30 subjects have counts only."


def _in_pictures(name: str) -> PurePosixPath:
    return PurePosixPath(PICTURES) / f"{name}.png"
