"""What the report of a fine-grained run has of its own: scores per class, tables, figures and sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
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
from finegrained.measures import MEASURES
from finegrained.published import list_hash
from finegrained.scores import fine_scores
from finetune.cli.console import say
from finetune.experiments.measures import Measure
from finetune.experiments.result import Result
from finetune.experiments.sections import DATA_NOTE, FIGURES, figure
from finetune.experiments.task import Sections
from finetune.figures.markdown import Picture
from finetune.metrics.classification import confusion_matrix
from finetune.runs.csv_file import csv_text
from finetune.runs.files import write_bytes

PAIRS_KEPT = 50  # of report.json; confusions.csv has every kind of mistake


def report_scores(result: Result) -> dict[str, Any]:
    """Return `fine_scores`, the run's `baseline`, the hash of the tested list, and `confused_pairs`."""
    found, names = result.predictions, result.class_names
    pairs = confused_pairs(confusion_matrix(found.probs, found.target, len(names)))
    return {
        "baseline": result.record.baseline,
        **fine_scores(found.probs, found.target, names),
        "test_list": list_hash(found.path.tolist()),
        "confused_pairs": [_told(pair, names) for pair in pairs[:PAIRS_KEPT]],
    }


def _told(pair: ConfusedPair, names: Sequence[str]) -> dict[str, Any]:
    return {**asdict(pair), "first": names[pair.first], "second": names[pair.second]}


def draw_figures(result: Result, record: Mapping[str, Any]) -> tuple[list[Picture], list[str]]:
    """Draw a result's figures into its folder; return them, and why others could not be drawn."""
    drawn, missing = draw_model_pictures(result, FIGURES)
    return [*draw_class_figures(result, record), *drawn], missing


def draw_class_figures(result: Result, record: Mapping[str, Any]) -> list[Picture]:
    """Draw the figures that need no model; return them in the page's order."""
    found, names, place = result.predictions, result.class_names, result.folder / FIGURES
    pairs = confused_pairs(confusion_matrix(found.probs, found.target, len(names)))
    files = result.image_files(found.path)
    draw_class_accuracy(record["per_class"], place / "classes.png")
    made = [figure("classes", "Accuracy per class", "All test images.")]
    if pairs:
        drawn = pairs[:PAIRS_DRAWN]
        draw_confused_pairs(files, found.probs, found.target, names, drawn, place / "confused_pairs.png")
        made.append(figure("confused_pairs", "Most confused pairs", DATA_NOTE))
        draw_confused_heat_map(
            files, found.probs, found.target, names, pairs, place / "heat_map.png", name=result.loss_text
        )
        made.append(figure("heat_map", "Softmax heat map over the confused classes", DATA_NOTE))
    return made


def sections(record: Mapping[str, Any], measures: Sequence[Measure] = MEASURES) -> Sections:
    """Return the first sections of a report: the result, the classes, the confused pairs, calibration."""
    return [
        ("Result", report_sections.headline(record, measures)),
        ("Classes", report_sections.per_class(record)),
        ("Most confused pairs", report_sections.confusions(record)),
        ("Probabilities", report_sections.calibration(record)),
    ]


def write_tables(
    folder: Path, per_class: Sequence[Mapping[str, Any]], confusion: np.ndarray, names: Sequence[str]
) -> None:
    """Write per_class.csv, a row per class in official order, and confusions.csv, a row per kind of mistake.

    The second has the true class, the predicted one, and how many images of the true one were predicted so,
    the most first.
    """
    columns = list(per_class[0])
    rows = [["" if row[name] is None else row[name] for name in columns] for row in per_class]
    write_bytes(folder / "per_class.csv", csv_text(columns, rows).encode())
    wrong = confusion - np.diag(np.diag(confusion))
    truths, said = np.nonzero(wrong)
    order = np.argsort(-wrong[truths, said], kind="stable")
    mistakes = [
        [names[i], names[j], wrong[i, j], confusion[i].sum()]
        for i, j in zip(truths[order], said[order], strict=True)
    ]
    header = ["true_class", "predicted_class", "images", "images_of_true_class"]
    write_bytes(folder / "confusions.csv", csv_text(header, mistakes).encode())


def tell(report: Mapping[str, Any]) -> None:
    """Print a run's scores in one line, with the interval and the majority-class baseline."""
    interval, baseline = report["top1_interval"], report.get("baseline")
    top5 = "" if report["top5"] is None else f", top-5 {report['top5']:.2f} %"
    level = f"{100 * interval['level']:.0f} % {interval['method'].split()[0]}"
    guess = f"; majority-class baseline {baseline['top1']:.2f} %" if baseline else ""
    say(
        f"{report['selected']} weights: top-1 {report['top1']:.2f} % ({level} interval {interval['low']:.1f} "
        f"to {interval['high']:.1f}){top5} of {report['n']} test images{guess}"
    )
