"""A finished result -> its report: figures, tables, report.json with every number, report.md to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.cli.console import say
from finetune.errors import DataError
from finetune.experiments.probabilities.calibrate import stored_calibration, without_weights
from finetune.experiments.probabilities.scores import (
    calibration_section,
    confidence_section,
    draw_confidence,
    probability_scores,
)
from finetune.experiments.result import Result
from finetune.experiments.sections import CURVES_NOTE, FIGURES, figure, not_drawn, warnings_section, what_ran
from finetune.experiments.task import Task
from finetune.figures.learning_curves import draw_learning_curves, draw_reliability
from finetune.figures.lettering import class_numbers
from finetune.figures.markdown import Picture, escape, page, show_pictures
from finetune.runs.files import write_bytes
from finetune.runs.folder import remove_leftovers, write_json

RESAMPLES = 2000


def report_result(
    task: Task,
    result: Result,
    train_labels: Mapping[int, np.ndarray] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a result and write pictures/, the task's tables, report.json and report.md into its folder.

    Args:
        task: whose scores, figures and sections the report has.
        result: a finished run or cross-validation with at least one test image.
        train_labels: fold -> labels trained on, for the baseline; None takes what the run recorded, and
            where it recorded none leaves the choice to the task.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns what report.json holds: the run's settings, every score of the task, `pictures`, and `not_drawn`,
    a sentence for each figure that could not be drawn.

    Raises DataError for a result without test images.
    """
    if not len(result.predictions):
        raise DataError(f"{result.folder} tested no image, so there is nothing to report")
    if train_labels is None:
        train_labels = result.train_labels()
    remove_leftovers(result.folder)
    record: dict[str, Any] = {
        **result.run,
        "loss_text": result.loss_text,
        "title": result.title,
        **task.report_scores(result, train_labels, resamples=resamples, seed=seed),
        **probability_scores(task, result.predictions, resamples=resamples, seed=seed),
    }
    if (calibration := stored_calibration(result.folder)) is not None:
        record["calibration"] = without_weights(calibration)
    with class_numbers(result.class_names, "report.json has the names"):
        figures, missing = task.figures(result, record)
        shared = draw_shared(task, result)
    for note in missing:
        say(f"note: not drawn: {note}")
    record["not_drawn"] = missing
    task.write_tables(result, record)
    figures = [*figures, *shared]
    write_report(task, result.folder, record, figures)
    return record | {"pictures": [picture.file.as_posix() for picture in figures]}


def draw_shared(task: Task, result: Result) -> list[Picture]:
    """Draw the learning curves, the reliability diagram, and risk against coverage: every report has them."""
    found, place, made = result.predictions, result.folder / FIGURES, []
    if any(result.curves.values()):
        draw_learning_curves(list(result.curves.values()), place / "learning_curves.png", unit=task.part_unit)
        made.append(figure("learning_curves", "Learning curves", CURVES_NOTE))
    draw_reliability(found.probs, found.target, place / "reliability.png", unit=task.class_unit)
    made.append(figure("reliability", "Reliability diagram", "Bins without an image are empty."))
    return [*made, *draw_confidence(task, found, result.folder)]


def write_report(
    task: Task, folder: Path, record: Mapping[str, Any], figures: Sequence[Picture] = ()
) -> Path:
    """Write report.json and report.md into `folder` and return the latter.

    Args:
        task: whose sections the page has.
        folder: an existing folder; the figures' paths start from it.
        record: what `report_result` returns, but for the figures.
        figures: what to show, in this order.
    """
    write_json(folder / "report.json", {**record, "pictures": [item.file.as_posix() for item in figures]})
    sections = [
        ("Warnings", warnings_section(record)),
        *task.sections(record),
        ("Answering only where sure", confidence_section(record)),
        ("Calibration", calibration_section(record)),
        ("Figures", show_pictures(figures)),
        ("Not drawn", not_drawn(record)),
        ("Data", task.data_section(record)),
        ("What was run", what_ran(record)),
        ("Reported by others", task.reported_by_others(record)),
        *task.closing_sections(record),
    ]
    file = folder / "report.md"
    write_bytes(
        file, page(escape(f"{task.title_of(record['class_names'])}: {record['title']}"), sections).encode()
    )
    return file
