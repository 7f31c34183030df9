"""What a model card says of confidence: the surest answers, what calibrated the file, and its sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.experiments.exported.card import NOT_MEASURED, ends, percent
from finetune.experiments.exported.model import ExportedFacts
from finetune.figures.markdown import escape, number, table

Facts = Mapping[str, Any]
NOT_CALIBRATED = (
    "**Not calibrated**: `probs` is what the network states, softmax(logits), and no set of classes is "
    "promised. `crl export RUN --calibrate` fits both on images held out."
)
MOST_SHORT = 20  # classes without a quantile that are named
WHOLE = "every set is whole: too few people calibrated it"
SCORES = (
    ("nll", "negative log-likelihood", 3, 1),
    ("ece", "expected calibration error, 15 bins (%)", 2, 100),
    ("adaptive_ece", "the same over bins of equal count (%)", 2, 100),
    ("threshold_ece", "the same of every threshold, mean (%)", 2, 100),
    ("brier", "Brier score", 3, 1),
    ("rps", "ranked probability score", 4, 1),
)


def confidence_text(facts: ExportedFacts) -> str:
    """Return how often the surest answers are wrong, and what of the probabilities and sets is promised."""
    parts = [_surest(facts.card.get("confidence"))]
    if not facts.calibration:
        return "\n\n".join([*filter(None, parts), NOT_CALIBRATED])
    parts += [_what_calibrated(facts.calibration), _scores(facts.calibration), _sets(facts)]
    return "\n\n".join(filter(None, parts))


def _surest(found: Any) -> str:
    """Return the tables of errors among the surest images."""
    if not isinstance(found, Mapping) or not found:
        return f"How often its surest answers are wrong: {NOT_MEASURED}."
    lead = "With test images in order of their largest probability, and only the surest answered:"
    parts = []
    for one in found.values():
        rows = [
            [f"{100 * row['coverage']:g} %", percent(row["risk"]), ends(row["interval"])] for row in one["at"]
        ]
        parts.append(table([f"{escape(one['label'])}: answered", "wrong", "95 % interval"], rows))
    area = next(iter(found.values())).get("aurc")
    told = "" if area is None else f"Mean over all parts (area under this curve): {percent(100 * area)}."
    return "\n\n".join([lead, *parts, *([told] if told else [])])


def _what_calibrated(entry: Facts) -> str:
    """Return what made the probabilities, from which images, and what could not be done."""
    if entry["method"] == "temperature":
        how = f"`probs` is softmax(logits / {number(entry['T'], 4)})"
        how += ": the network states more than it holds" if entry["T"] > 1 else ""
    else:
        how = "`probs` is softmax(a log_softmax(logits) + b), with a scale and a shift per class"
    images = f"{entry['n']:,} images"
    if entry.get("unit") != "image":
        images += f" of {entry['persons']:,} {_people(entry)}"
    lines = [f"**Calibrated**: {how}. Fitted on {escape(entry['from'])}, {images}. `logits` are as trained."]
    lines += [escape(entry["note"])] if entry.get("note") else []
    if entry.get("at_end"):
        lines.append("**These images told no temperature: the search ended where it may not go further.**")
    return " ".join(lines)


def _people(entry: Facts) -> str:
    return "people" if entry.get("unit") == "person" else f"{escape(entry.get('unit') or 'image')}s"


def _scores(entry: Facts) -> str:
    """Return the scores before and after, of images that no fitting has seen."""
    measured = entry.get("measured")
    if not isinstance(measured, Mapping):
        return f"What the calibration is worth: {NOT_MEASURED}."
    raw, after = measured["raw"], measured["calibrated"]
    rows = [
        [words, number(_times(raw[key], factor), digits), number(_times(after[key], factor), digits)]
        for key, words, digits, factor in SCORES
        if key in raw and key in after
    ]
    note = (
        f"Measured {escape(measured['how'])}. The scores of this model in the first table of this card "
        "are the calibrated ones; its parts, the recipe as a whole and the errors of the surest answers "
        "are of the probabilities as stated."
    )
    count = f"{raw['n']:,} test images"
    return f"{table([count, 'as stated', 'calibrated'], rows)}\n\n{note}"


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _sets(facts: ExportedFacts) -> str:
    """Return what sets promise and held, and which classes have no quantile of their own."""
    entry = facts.calibration
    sets, measured = entry.get("sets"), entry.get("measured")
    if not sets:
        return f"Sets of classes: {NOT_MEASURED}."
    level, people = 100 * sets["level"], _people(entry)
    whom = "a new image" if people == "images" else "a picture of a new person, drawn at random"
    told = (
        f"A set of classes is to hold the true one {level:g} times of 100, for {whom}, on images like these "
        "alone: another camera, crop or mix of classes voids it. It was fitted on "
        f"{entry['persons']:,} {people}"
    )
    low, high = (100 * end for end in sets.get("range") or (0, 1))
    if sets["q"] is None:
        return f"{told}; {WHOLE}."
    told += f", which alone makes the fraction lie between {low:.0f} and {high:.0f} in 100 (9 of 10 times)."
    if isinstance(measured, Mapping) and measured.get("sets"):
        held = measured["sets"]
        over = number(held["coverage"]["pictures"], 1)
        found = f"{number(held['coverage']['persons'], 1)} of 100 for a new person, {over} over all pictures"
        found = f"{over} of 100 images" if people == "images" else found
        told += (
            f" Measured, {escape(measured['how'])}: {found}, with {number(held['mean_size'])} classes on "
            "average."
        )
    return told + _groups(entry, facts.class_names)


def _groups(entry: Facts, names: Sequence[str]) -> str:
    """Return which classes have no quantile of their own, and what the sets per class held."""
    groups, measured = entry.get("per_group"), entry.get("measured")
    if not groups:
        return ""
    short = [name for name, q in zip(names, groups["q"], strict=True) if q is None]
    told = " Sets per class hold within every class."
    if short:
        listed = ", ".join(map(escape, short[:MOST_SHORT])) + (", ..." if len(short) > MOST_SHORT else "")
        told = (
            f" Sets per class: {len(short)} of {len(names)} classes have too few people, and are in "
            f"every set: {listed}."
        )
    rows = measured.get("per_group") if isinstance(measured, Mapping) else None
    if not rows:
        return told
    cells = [
        [escape(row["name"]), str(row["people"]), number(row["persons"], 1), number(row["pictures"], 1)]
        for row in rows
    ]
    head = [
        "sets per class",
        _people(entry),
        f"held, per {escape(entry.get('unit') or 'image')} (%)",
        "held, all images (%)",
    ]
    return f"{told}\n\n{table(head, cells)}"
