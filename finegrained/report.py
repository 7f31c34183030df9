"""A finished run -> its report: pictures, tables, report.json with every number, report.md for people."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from finegrained import report_sections
from finegrained.figures.attention import draw_model_pictures
from finegrained.figures.class_accuracy import draw_class_accuracy
from finegrained.figures.confusions import (
    PAIRS_DRAWN,
    ConfusedPair,
    confused_pairs,
    draw_confused_heat_map,
    draw_confused_pairs,
)
from finegrained.published import list_hash
from finegrained.results import FineResult
from finegrained.scores import fine_scores
from finetune.cli.console import say
from finetune.errors import DataError
from finetune.figures import markdown
from finetune.figures.learning_curves import draw_learning_curves, draw_reliability
from finetune.figures.markdown import Picture, show_pictures
from finetune.metrics.classification import confusion_matrix
from finetune.runs.files import write_bytes
from finetune.runs.folder import image_files, write_json

PICTURES = PurePosixPath("pictures")
PAIRS_KEPT = 50  # of report.json; confusions.csv has every kind of mistake
CURVES_NOTE = (
    "Training accuracy is measured on augmented pictures while the weights still move. "
    "Values of different losses cannot be compared."
)
PICTURES_NOTE = "It shows pictures of the data set: mind its terms before passing them on."


def report_run(result: FineResult) -> dict[str, Any]:
    """Score a run's test predictions and write pictures/, two tables, report.json and report.md beside them.

    Args:
        result: a finished run with at least one test image.

    Returns what report.json holds: the run's settings, every score, `confused_pairs`, `pictures` and
    `not_drawn`, a sentence for each picture that could not be drawn.

    Raises DataError for a run without test images.
    """
    found, names = result.predictions, result.class_names
    if not len(found):
        raise DataError(f"{result.folder} tested no image, so there is nothing to report")
    confusion = confusion_matrix(found.probs, found.target, len(names))
    pairs = confused_pairs(confusion)
    record: dict[str, Any] = {
        **result.run,
        "loss_text": result.loss_text,
        "title": result.title,
        "baseline": (result.run.get("scores") or {}).get("baseline"),
        **fine_scores(found.probs, found.target, names),
        "test_list": list_hash(found.path.tolist()),
        "confused_pairs": [_told(pair, names) for pair in pairs[:PAIRS_KEPT]],
    }
    pictures = draw_pictures(result, record, pairs)
    drawn, missing = draw_model_pictures(result, PICTURES)
    for note in missing:
        say(f"note: not drawn: {note}")
    record["not_drawn"] = missing
    write_tables(result.folder, record["per_class"], confusion, names)
    write_report(result.folder, record, [*pictures, *drawn])
    return record | {"pictures": [picture.file.as_posix() for picture in (*pictures, *drawn)]}


def _told(pair: ConfusedPair, names: Sequence[str]) -> dict[str, Any]:
    return {**asdict(pair), "first": names[pair.first], "second": names[pair.second]}


def draw_pictures(
    result: FineResult, record: Mapping[str, Any], pairs: Sequence[ConfusedPair]
) -> list[Picture]:
    """Draw the pictures that need no model into the result's folder; return them in the page's order."""
    found, names, place = result.predictions, result.class_names, result.folder / PICTURES
    files = image_files(result.run, found.path)
    made = []
    draw_class_accuracy(record["per_class"], place / "classes.png")
    made.append(_picture("classes", "Accuracy per class", "All test images."))
    if pairs:
        drawn = pairs[:PAIRS_DRAWN]
        draw_confused_pairs(files, found.probs, found.target, names, drawn, place / "confused_pairs.png")
        made.append(_picture("confused_pairs", "Most confused pairs", PICTURES_NOTE))
        draw_confused_heat_map(
            files, found.probs, found.target, names, pairs, place / "heat_map.png", name=result.loss_text
        )
        made.append(_picture("heat_map", "Softmax heat map over the confused classes", PICTURES_NOTE))
    if result.history:
        draw_learning_curves([result.history], place / "learning_curves.png", unit="run")
        made.append(_picture("learning_curves", "Learning curves", CURVES_NOTE))
    draw_reliability(found.probs, found.target, place / "reliability.png", unit="class")
    made.append(_picture("reliability", "Reliability diagram", "Bins without an image are empty."))
    return made


def _picture(name: str, title: str, caption: str) -> Picture:
    return Picture(PICTURES / f"{name}.png", title, caption)


def write_tables(
    folder: Path, per_class: Sequence[Mapping[str, Any]], confusion: np.ndarray, names: Sequence[str]
) -> None:
    """Write per_class.csv, a row per class in official order, and confusions.csv, a row per kind of mistake.

    The latter has the true class, the predicted one, and how many images of the former's were predicted so,
    the most first.
    """
    columns = list(per_class[0])
    rows = [["" if row[name] is None else row[name] for name in columns] for row in per_class]
    write_bytes(folder / "per_class.csv", _csv(columns, rows))
    wrong = confusion - np.diag(np.diag(confusion))
    truths, said = np.nonzero(wrong)
    order = np.argsort(-wrong[truths, said], kind="stable")
    mistakes = [
        [names[i], names[j], wrong[i, j], confusion[i].sum()]
        for i, j in zip(truths[order], said[order], strict=True)
    ]
    header = ["true_class", "predicted_class", "images", "images_of_true_class"]
    write_bytes(folder / "confusions.csv", _csv(header, mistakes))


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def write_report(folder: Path, record: Mapping[str, Any], pictures: Sequence[Picture] = ()) -> Path:
    """Write report.json and report.md into `folder` and return the latter.

    Args:
        folder: an existing folder; the pictures' paths start from it.
        record: in one mapping the run's settings (run.json), `loss_text`, `title`, the scores of
            `fine_scores`, `confused_pairs` and, if any, `baseline` and `not_drawn`.
        pictures: what to show, in this order.
    """
    content = {**record, "pictures": [picture.file.as_posix() for picture in pictures]}
    write_json(folder / "report.json", content)
    page = folder / "report.md"
    write_bytes(page, _page(record, pictures).encode())
    return page


def _page(record: Mapping[str, Any], pictures: Sequence[Picture]) -> str:
    sections: list[tuple[str, str | None]] = [
        ("Result", report_sections.headline(record)),
        ("Classes", report_sections.per_class(record)),
        ("Most confused pairs", report_sections.confusions(record)),
        ("Probabilities", report_sections.calibration(record)),
        ("Pictures", show_pictures(pictures)),
        ("Not drawn", report_sections.not_drawn(record)),
        ("Data", report_sections.data_line(record)),
        ("What was run", report_sections.what_ran(record)),
        ("Reported by others", report_sections.reported_by_others(record)),
    ]
    title = f"Fine-grained recognition: {record['title']}"
    return markdown.page(markdown.escape(title), sections)
