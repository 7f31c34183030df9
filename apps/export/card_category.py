"""The measured part of a model card for categories: facts of `finegrained.card` -> Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apps.export.card_scores import NOT_MEASURED, ends, percent
from apps.runtime.metadata import ModelFacts
from finegrained.task import TASK
from finetune.experiments.task import measures_for
from finetune.figures.markdown import escape, number, table

UNKNOWN = "unknown"
WORST = 10  # classes of a long list that are shown first
TO_BOX = "box"


def in_one_sentence(metrics: Mapping[str, Any]) -> str:
    """Return the scores in one sentence, nothing where none is known."""
    if metrics.get("top1") is None:
        return ""
    best = f"It named the labelled category for {metrics['top1']:.0f} in 100 of {metrics['n']:,} test images"
    if metrics.get("top5") is None:
        return f"{best}."
    return f"{best}; that category was among its five most probable for {metrics['top5']:.0f} in 100."


def results(facts: ModelFacts) -> str:
    """Return the accuracies as a table, what naming one class always scores, and how images were shown."""
    metrics, baseline = facts.metrics, facts.metrics.get("baseline") or {}
    if metrics.get("top1") is None:
        return _plain_results(metrics)
    header = [f"{metrics['n']:,} test images", "this model", "95 % interval"]
    always = baseline.get("top1") is not None
    header += [f"naming {escape(baseline['class'])} always"] if always else []
    rows = []
    for measure in measures_for(TASK, "card"):
        key = measure.facts_name
        interval = ends(metrics[f"{key}_interval"]) if f"{key}_interval" in metrics else ""
        row = [measure.label_in("card"), percent(metrics.get(key)), interval]
        rows.append(row + ([percent(baseline[key]) if key in baseline else ""] if always else []))
    return "\n\n".join([table(header, rows), *_notes(facts)])


def _plain_results(metrics: Mapping[str, Any]) -> str:
    rows = [
        [escape(name.replace("_", " ")), number(value, 2) if isinstance(value, float) else f"{value:,}"]
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return table(["measured on the test images", "value"], rows) if rows else f"Accuracy: {NOT_MEASURED}."


def _notes(facts: ModelFacts) -> list[str]:
    notes = []
    if facts.precision != "fp32":
        notes.append(
            f"The scores are the trained model's, in float32; how far this {facts.precision} file is from it "
            "stands under “How this file was checked”."
        )
    crops = str(facts.card.get("test_crops") or facts.test_crops)
    if crops == "cam":
        notes.append(
            "The scores average over the image's centre and the region that the network's own activations "
            "point to (test crops: cam). **This file shows the centre alone**: nothing was measured for it."
        )
    elif crops != "center":
        notes.append(
            f"The scores average over several views of an image (test crops: {escape(crops)}). `crl "
            "predict` averages over the same ones; the demo, `--test_crops center`, and Python without "
            '`predict(..., test_crops="run")` show the centre alone, for which nothing was measured.'
        )
    return notes


def by_class(classes: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the categories, those with the lowest accuracy first where there are many."""
    tested = [row for row in classes if row["n"]]
    if not tested:
        return ""
    order = sorted(tested, key=lambda row: row["accuracy"])
    rows = [
        [escape(row["name"]), f"{row['right']:,} of {row['n']:,}", percent(row["accuracy"]), _taken(row)]
        for row in order
    ]
    header = ["category", "correct", "top-1", "most often predicted as"]
    untested = len(classes) - len(tested)
    note = f"\n\n{untested} further categories have no test image." if untested else ""
    if len(rows) <= 2 * WORST:
        return table(header, rows, numbers_from=2) + note
    first, rest = table(header, rows[:WORST], numbers_from=2), table(header, rows[WORST:], numbers_from=2)
    summary = f"<summary>The other {len(rows) - WORST} categories</summary>"
    folded = f"<details>{summary}\n\n{rest}\n\n</details>"
    return f"The {WORST} with the lowest accuracy:\n\n{first}\n\n{folded}{note}"


def _taken(row: Mapping[str, Any]) -> str:
    return "" if not row.get("taken_for") else f"{escape(row['taken_for'])} ({row['taken_for_n']:,})"


def calibration(metrics: Mapping[str, Any]) -> str:
    """Return how far the probabilities can be trusted, as a sentence or two."""
    if metrics.get("ece") is None:
        return f"How far the probabilities can be trusted: {NOT_MEASURED}."
    return (
        "The probability of the named category and the fraction that is correct differ by "
        f"{number(100 * metrics['ece'], 1)} points on average (expected calibration error, 15 bins); the "
        f"negative log-likelihood is {number(metrics.get('nll'), 3)}, 0 is best."
    )


def boxes_line(facts: ModelFacts) -> str:
    """Return that a model wants images cut to a box, nothing for one of whole images."""
    if facts.data.get("picture_crop") != TO_BOX:
        return ""
    margin = float(facts.data.get("box_margin") or 0)
    room = f", with {100 * margin:.0f} % of its sides added on each side" if margin else ""
    return (
        f"**Trained and tested on images cut to the object's box**{room}: cut yours likewise; for whole "
        "images nothing was measured."
    )


def data_rows(data: Mapping[str, Any], training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return data, classes, split and how images were cut, as rows of words and escaped text."""
    spread = data.get("per_class") or {}
    per = f"; per category {spread['min']:g} to {spread['max']:g}" if spread else ""
    images = UNKNOWN if data.get("images") is None else f"{data['images']:,}"
    classes = UNKNOWN if data.get("classes") is None else f"{data['classes']:,}"
    parts = [
        f"{training_or_data:,} {words}"
        for training_or_data, words in (
            (training.get("n_train"), "training images"),
            (training.get("n_validation"), "validation images"),
            (data.get("test"), "test images"),
        )
        if training_or_data
    ]
    crop = data.get("crop") or {}
    cut = f"cut to their boxes (margin {crop.get('margin', 0):g})" if crop.get("kind") == TO_BOX else "whole"
    left = ", ".join(f"{count:,} {what}" for what, count in (data.get("left_out") or {}).items())
    rows = [
        ("data", f"{data.get('name') or UNKNOWN}; {images} images of {classes} categories{per}"),
        ("split", "; ".join([*parts, str(data.get("protocol_words") or UNKNOWN)])),
        ("images", cut),
        *([("left out", left)] if left else []),
    ]
    return [(name, escape(text)) for name, text in rows]
