"""What a model card says of age groups: facts of `agecls.report.card` -> Markdown, nothing computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agecls.data.years import years_of
from agecls.exported.crossings import crossings, marked
from agecls.report.card_facts import NOT_MEASURED as NOT_MEASURED_CROP
from agecls.scores import FEWEST_SUBJECTS
from finetune.experiments.exported.card import NOT_MEASURED, UNKNOWN, amount, ends, notes, one_of, percent
from finetune.experiments.exported.model import CardText, ExportedFacts
from finetune.experiments.measures import PERCENT, Measure, shown_in
from finetune.figures.markdown import escape, number, table

Facts = Mapping[str, Any]


def age_text(facts: ExportedFacts, measures: Sequence[Measure]) -> CardText:
    """Return what the card of an age model says beside what every card does."""
    data = facts.card.get("data") or {}
    years = years_of(facts.class_names)
    does = f"names the age group that the person *appears* to belong to, {one_of(facts.class_names)}."
    if years is not None:
        first, last = facts.class_names[0], facts.class_names[-1]
        does = f"says how old the person *appears* to be, in years from {first} to {last}."
    return CardText(
        does=f"This model takes an image of one face and {does}",
        scored=_in_one_sentence(facts.metrics),
        measured=_how_well(facts, shown_in(measures, "card", facts.class_names)),
        warnings=age_warnings(facts),
        anything_else="no face",
        data=tuple(_data_rows(data, facts.card.get("training") or {})) if data else (),
    )


def _in_one_sentence(metrics: Facts) -> str:
    if metrics.get("n") is None:
        return f"How well it does was {NOT_MEASURED}."
    members = metrics.get("scope") == "members"
    exact, one_off, near, error = (
        metrics.get(f"{key}_mean" if members else key) for key in ("exact", "one_off", "cs5", "mae_years")
    )
    if (exact is None or one_off is None) and (near is None or error is None):
        return ""
    own = "subjects" if metrics.get("subjects") else "images"
    who = f"Its members, each tested on its own {own}," if members else "It"
    people = f" of {metrics['subjects']:,} subjects" if metrics.get("subjects") else ""
    if near is not None:
        return (
            f"{who} came within five years of the labelled age for {near:.0f} in 100 of "
            f"{metrics['n']:,} test images{people}; the mean absolute error is {error:.1f} years."
        )
    return (
        f"{who} named the labelled group for {exact:.0f} in 100 of {metrics['n']:,} test images{people}, and "
        f"that group or one next to it for {one_off:.0f} in 100."
    )


def _how_well(facts: ExportedFacts, measures: Sequence[Measure]) -> str:
    """Return what was measured: whole and in parts, the errors across 18, and the probabilities."""
    metrics, card = facts.metrics, facts.card
    parts = [results(metrics, card, measures)]
    parts += notes(facts, facts.test_crops) if metrics else []
    if card.get("groups") and metrics:
        parts += [
            "### By age group",
            slices("labelled group", card["groups"], card.get("cross_validation")),
            _how_to_read(card["groups"]),
        ]
        parts += ["### Across the age of 18", crossings(card)]
    if card.get("decades") and metrics:
        parts += ["### By decade of age", _decades(card["decades"])]
        parts += ["### Across the age of 18", crossings(card)]
    for name, title in (("gender", "By gender"), ("yaw", "By head pose")):
        if card.get(name):
            parts += [f"### {title}", slices(name if name == "gender" else "head", card[name])]
    if card.get("detector"):
        parts += ["### On faces cut out by a detector", detector(card["detector"], facts.crop)]
    return "\n\n".join([*parts, "### Its probabilities", calibration(metrics)])


def _decades(rows: Sequence[Facts]) -> str:
    units = ["images", *(["subjects"] if _count_subjects(rows) else [])]
    cells = [
        [
            f"{escape(row['name'])} years",
            *(f"{row[unit]:,}" for unit in units),
            *(_in_years(row, key) for key in ("mae", "bias")),
        ]
        for row in rows
    ]
    header = ["true age", *units, "mean absolute error (years)", "bias: answer minus truth (years)"]
    return f"{table(header, cells)}\n\n{_how_to_read(rows)}"


def _in_years(row: Facts, key: str) -> str:
    told, ends_of = f"{row[key]:+.1f}" if key == "bias" else f"{row[key]:.1f}", row[f"{key}_interval"]
    return told if ends_of is None else f"{told} ({ends_of[0]:.1f} to {ends_of[1]:.1f})"


def _how_to_read(cells: Sequence[Facts]) -> str:
    units = "subjects" if _count_subjects(cells) else "images"
    whole = "whole subjects" if units == "subjects" else "single images, for subjects are not known"
    return (
        f"“12 of 20” means fewer than {FEWEST_SUBJECTS} {units}: a count, no conclusion. Intervals (95 %) "
        f"resample {whole}."
    )


def _count_subjects(cells: Sequence[Facts]) -> bool:
    """Return whether cells count subjects: where these are not known they count images alone."""
    return all("subjects" in cell for cell in cells)


def age_warnings(facts: ExportedFacts) -> tuple[str, ...]:
    """Return what limits the model, as Markdown: ages without a group, subjects, how faces are cut out."""
    lines = []
    data = facts.card.get("data") or {}
    if facts.card.get("holes"):
        holes = ", ".join(map(escape, facts.card["holes"]))
        lines.append(f"No group covers the ages {holes}: the model will force a neighbour on such a subject.")
    shared = data.get("shared_people")
    if isinstance(shared, int) and shared:
        lines.append(f"**{shared:,} subjects are in both training and test: the scores are too high.**")
    if data.get("subjects_known") is False:
        lines.append("The subject of each image was not known: if subjects repeat, the scores are too high.")
    if facts.data.get("face_crop") == NOT_MEASURED_CROP:
        lines.append(
            "**How faces are cut out of photographs for this model is a default that nobody measured**, "
            "which may cost many points: give it cropped faces framed like its training images, or export "
            "it again with a face detector at hand."
        )
    return tuple(lines)


def results(metrics: Facts, card: Facts, measures: Sequence[Measure]) -> str:
    """Return the accuracy tables: of the model and its sister models, or of the members of an average."""
    if not metrics:
        return f"Accuracy: {NOT_MEASURED}."
    whom = "subjects whom" if metrics.get("subjects") else "images that"
    if metrics.get("scope") == "members":
        return (
            "**The averaged model itself was not tested.** The scores are those of its members, each tested "
            f"on {whom} only that member had not seen.\n\n{_members_table(metrics, measures)}"
        )
    parts = [_own_table(metrics, measures), _own_note(metrics)]
    sisters = card.get("cross_validation")
    if sisters:
        parts += [
            f"The recipe as a whole: {sisters['members']} models, of which this is one, each tested on the "
            f"{whom.replace(' ', ' of its own fold, ')} it had not seen.\n\n"
            f"{_members_table(sisters, measures)}"
        ]
    return "\n\n".join(part for part in parts if part)


def _own_table(metrics: Facts, measures: Sequence[Measure]) -> str:
    baseline = metrics.get("baseline") or {}
    header = [images_and_people(metrics), "this model", "95 % interval"]
    header += [f"naming {escape(' / '.join(baseline['groups']))} always"] if baseline else []
    few = metrics.get("subjects", FEWEST_SUBJECTS) < FEWEST_SUBJECTS
    missing = "too few subjects" if few else NOT_MEASURED
    rows = []
    for measure in measures:
        key, words = measure.facts_name, measure.label_in("card")
        interval = metrics.get(f"{key}_interval")
        if measure.over == "folds":
            row = [
                words,
                in_unit(metrics.get(key), measure),
                missing if interval is None else marked(metrics, f"{key}_interval"),
            ]
        elif metrics.get(key) is not None:
            row = [words, in_unit(metrics[key], measure), ""]
        else:
            continue
        rows.append(row + ([percent(baseline[key]) if key in baseline else ""] if baseline else []))
    return table(header, rows)


def _own_note(metrics: Facts) -> str:
    subjects = metrics.get("subjects", FEWEST_SUBJECTS)
    if subjects >= FEWEST_SUBJECTS:
        return ""
    return f"{subjects} subjects are too few for an interval: take these numbers as a rough sign."


def _members_table(metrics: Facts, measures: Sequence[Measure]) -> str:
    baseline = metrics.get("baseline") or {}
    header = [
        images_and_people(metrics),
        f"mean ± sd over {metrics['members']} folds",
        "95 % interval of the mean",
        "pooled",
    ]
    header += [f"naming {escape(' / '.join(baseline['groups']))} always"] if baseline else []
    rows = []
    for measure in measures:
        key, words = measure.facts_name, measure.label_in("card")
        if measure.over == "folds":
            mean, sd, pooled = (metrics[f"{key}_{part}"] for part in ("mean", "sd", "pooled"))
            spread = in_unit(mean, measure) if sd is None else f"{number(mean, 1)} ± {in_unit(sd, measure)}"
            row = [words, spread, marked(metrics, f"{key}_mean_interval"), in_unit(pooled, measure)]
        else:
            row = [words, "", "", in_unit(metrics.get(key), measure)]
        rows.append(row + ([percent(baseline[key]) if key in baseline else ""] if baseline else []))
    return table(header, rows)


def in_unit(value: float | None, measure: Measure) -> str:
    """Return a score as text: per cent, or the plain number."""
    return percent(value) if measure.unit == PERCENT else number(value)


def images_and_people(metrics: Facts) -> str:
    """Return on what was measured, as the corner of a table: "147 test images of 17 subjects"."""
    images, subjects = metrics.get("n"), metrics.get("subjects")
    told = "test images, number unknown" if images is None else f"{images:,} test images"
    return told if subjects is None else f"{told} of {subjects:,} subjects"


def slices(title: str, cells: Sequence[Facts], sisters: Facts | None = None) -> str:
    """Return the table of a slice, and the same of all models of the recipe where `sisters` has one."""
    parts = [_slice_table(title, cells)]
    if sisters and sisters.get("groups"):
        parts += [f"All {sisters['members']} models of the recipe:", _slice_table(title, sisters["groups"])]
    notes = [_mostly(cell) for cell in cells if cell.get("mostly")]
    return "\n\n".join([*parts, *filter(None, notes)])


def _slice_table(title: str, cells: Sequence[Facts]) -> str:
    rows = []
    for cell in cells:
        scores = [
            _score(cell, "exact", cell["right"]),
            _score(cell, "one_off", cell["one_off_right"]),
        ]
        people = [f"{cell['subjects']:,}"] if "subjects" in cell else []
        rows.append([escape(cell["name"]), f"{cell['images']:,}", *people, *scores])
    counted = ["images", *(["subjects"] if _count_subjects(cells) else [])]
    return table([title, *counted, "correct group", "correct or next to it"], rows)


def _score(cell: Facts, key: str, right: int) -> str:
    if cell[key] is None:
        return f"{right:,} of {cell['images']:,}" if cell["images"] else "no image"
    return f"{percent(cell[key])} ({marked(cell, f'{key}_interval')})"


def _mostly(cell: Facts) -> str:
    most = cell["mostly"]
    if 2 * most["images"] <= cell["images"]:
        return ""
    return (
        f"{most['images']:,} of the {cell['images']:,} images of {escape(cell['name'])} are of group "
        f"{escape(most['group'])}: compare it with that group, not with the other rows."
    )


def detector(found: Facts, crop_of_file: Facts | None) -> str:
    """Return what the crops of a face detector cost, and whether this file has its faces cut out so."""
    words = ", ".join(f"{key} {value}" for key, value in (found.get("crop") or {}).items())
    crop = f" ({escape(words)})" if words else ""
    other = " **This file has faces cut out otherwise, for which nothing was measured.**"
    other = other if crop_of_file is not None and found.get("crop") != dict(crop_of_file) else ""
    scores = []
    for key, words in (("exact", "exact"), ("one_off", "one-off")):
        cost = found[key]
        change = f"{cost['difference']:+.1f} points, {ends(cost['interval'])}"
        scores.append(f"{words} {percent(cost['detector'])} instead of {percent(cost['own'])} ({change})")
    people = f" of {found['subjects']:,} subjects" if found["subjects"] is not None else ""
    return (
        f"A detector found the face in {found['found']:,} of {found['n']:,} test images{people} "
        f"(each model of the run on its own test images). On its crops{crop}: "
        f"{'; '.join(scores)}. "
        f"{percent(found['equal_predictions'])} of the answers stay the same.{other}"
    )


def calibration(metrics: Facts) -> str:
    """Return how far the probabilities can be trusted, as a sentence or two."""
    if metrics.get("ece") is None:
        return f"How far the probabilities can be trusted: {NOT_MEASURED}."
    others = (
        ("Brier score", "brier", 3),
        ("negative log-likelihood", "nll", 3),
        ("ranked probability score", "rps", 4),
    )
    told = ", ".join(f"{words} {number(metrics.get(key), digits)}" for words, key, digits in others)
    return (
        "The probability of the named group and the fraction that is correct differ by "
        f"{number(100 * metrics['ece'], 1)} points on average (expected calibration error, 15 bins). Losses: "
        f"{told}; 0 is best in each."
    )


def _data_rows(data: Mapping[str, Any], training: Mapping[str, Any]) -> list[tuple[str, str]]:
    images = amount(data.get("images"), "images") + ", " + amount(data.get("subjects"), "subjects")
    groups = ", ".join(f"{name}: {count:,}" for name, count in (data.get("per_group") or {}).items())
    rule = f"{data.get('policy') or UNKNOWN}" + (
        f": {data['policy_summary']}" if data.get("policy_summary") else ""
    )
    if data.get("kind") == "table":
        rule = "ages or groups of the table"
    left = ", ".join(f"{count:,} {reason}" for reason, count in (data.get("left_out") or {}).items())
    fold = {None: "every fold's model, averaged", -1: "no test fold"}.get(
        data.get("fold"), f"tested on fold {data.get('fold')}"
    )
    split = f"{data.get('protocol_words') or UNKNOWN}; {fold}"
    trained = [
        amount(training.get(key), words)
        for key, words in (("n_train", "training images"), ("n_validation", "validation images"))
        if training.get(key)
    ]
    rows = [("data", f"{data.get('name') or UNKNOWN}; {images}"), ("images per group", groups or UNKNOWN)]
    rows += [("labels", rule)] + ([("left out", left)] if left else [])
    rows += [
        ("split", "; ".join([split, *trained])),
        ("subjects in both training and test", _people(data.get("shared_people"))),
    ]
    return [(name, escape(text)) for name, text in rows]


def _people(shared: int | None) -> str:
    return UNKNOWN if shared is None else f"{shared:,}" if shared else "none"
