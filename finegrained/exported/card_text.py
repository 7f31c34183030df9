"""What a model card says of categories: facts of `finegrained.card` -> Markdown, nothing computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.experiments.exported.card import (
    NOT_MEASURED,
    UNKNOWN,
    ends,
    notes,
    one_of,
    parts_told,
    percent,
    plain_results,
)
from finetune.experiments.exported.model import CardText, ExportedFacts
from finetune.experiments.measures import Measure, shown_in
from finetune.figures.markdown import escape, number, table

WORST = 10  # classes of a long list that are shown first
TO_BOX = "box"


def category_text(facts: ExportedFacts, measures: Sequence[Measure]) -> CardText:
    """Return what the card of a category model says beside what every card does."""
    metrics, card = facts.metrics, facts.card
    parts = [results(facts, shown_in(measures, "card"))]
    parts += ["### By category", by_class(card["classes"])] if card.get("classes") else []
    parts += ["### Its probabilities", calibration(metrics)] if metrics.get("top1") else []
    data = card.get("data") or {}
    return CardText(
        does=f"This model takes an image and names its category, {one_of(facts.class_names)}.",
        scored=in_one_sentence(metrics),
        measured="\n\n".join(parts),
        warnings=category_warnings(facts),
        anything_else="none of the categories",
        data=tuple(data_rows(data, card.get("training") or {})) if data else (),
    )


def in_one_sentence(metrics: Mapping[str, Any]) -> str:
    """Return the scores in one sentence, nothing where none is known."""
    if metrics.get("top1") is None:
        return ""
    best = f"It named the labelled category for {metrics['top1']:.0f} in 100 of {metrics['n']:,} test images"
    if metrics.get("top5") is None:
        return f"{best}."
    return f"{best}; that category was among its five most probable for {metrics['top5']:.0f} in 100."


def results(facts: ExportedFacts, measures: Sequence[Measure]) -> str:
    """Return the accuracies as a table, what naming one class always scores, and how images were shown."""
    metrics, baseline = facts.metrics, facts.metrics.get("baseline") or {}
    if metrics.get("top1") is None:
        return plain_results(metrics)
    header = [f"{metrics['n']:,} test images", "this model", "95 % interval"]
    always = baseline.get("top1") is not None
    header += [f"naming {escape(baseline['class'])} always"] if always else []
    rows = []
    for measure in measures:
        key = measure.facts_name
        interval = ends(metrics[f"{key}_interval"]) if f"{key}_interval" in metrics else ""
        row = [measure.label_in("card"), percent(metrics.get(key)), interval]
        rows.append(row + ([percent(baseline[key]) if key in baseline else ""] if always else []))
    return "\n\n".join([table(header, rows), *_notes(facts)])


def _notes(facts: ExportedFacts) -> list[str]:
    crops = str(facts.card.get("test_crops") or facts.test_crops)
    if crops != "cam":
        return notes(facts, crops)
    return [
        *notes(facts, "center"),
        "The scores average over the image's centre and the region that the network's own activations "
        "point to (test crops: cam). **This file shows the centre alone**: nothing was measured for it.",
    ]


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


def category_warnings(facts: ExportedFacts) -> tuple[str, ...]:
    """Return what limits the model, as Markdown."""
    return tuple(line for line in (boxes_line(facts),) if line)


def boxes_line(facts: ExportedFacts) -> str:
    """Return that a model wants images cut to a box, nothing for one of whole images."""
    if facts.data.get("picture_crop") != TO_BOX:
        return ""
    margin = facts.data.get("box_margin")
    margin = float(margin) if isinstance(margin, int | float) else 0.0
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
    parts = parts_told(training, data)
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
