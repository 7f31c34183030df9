"""What a card says of errors across the age of 18: the young named adults, and adults named young."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.experiments.exported.card import NOT_MEASURED, ends, percent
from finetune.figures.markdown import escape, table

Facts = Mapping[str, Any]


def crossings(card: Facts) -> str:
    """Return the table of the young named adults and of adults named young; a sentence where not defined."""
    if not card.get("false_adult") or not card.get("false_minor"):
        return f"Young subjects named adults, or adults named young: {NOT_MEASURED}."
    sisters = card.get("cross_validation") or {}
    several = bool(sisters.get("false_adult"))
    header = ["error", "this model" if several else "fraction"]
    header += [f"all {sisters['members']} models"] if several else []
    own = _crossing_rows(card)
    others = _crossing_rows(sisters) if several else [[]] * len(own)
    words = [f"{escape(text)}" for text in _crossing_words(card)]
    rows = [[word, *left, *right] for word, left, right in zip(words, own, others, strict=True)]
    return table(header, rows)


def _crossing_rows(card: Facts) -> list[list[str]]:
    found = (card["false_adult"], card["false_adult"]["oldest"], card["false_minor"])
    return [[_share(rate)] for rate in found]


def _crossing_words(card: Facts) -> list[str]:
    adult, minor = card["false_adult"], card["false_minor"]
    young, old = _span(adult["of"]), _span(minor["of"])
    first, oldest = adult["named"][0], adult["oldest"]["of"][0]
    return [
        f"false adult: subjects of {young} named {first} or older",
        f"of these, subjects of {oldest} alone",
        f"false minor: subjects of {old} named {oldest} or younger",
    ]


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _share(rate: Facts) -> str:
    subjects = f", {rate['subjects']:,} subjects" if "subjects" in rate else ""
    if not rate["images"]:
        return "no image"
    if rate["rate"] is None:
        return f"{rate['count']:,} of {rate['images']:,} images{subjects}"
    return f"{percent(rate['rate'])} of {rate['images']:,} images ({marked(rate, 'interval')}){subjects}"


def marked(row: Facts, key: str) -> str:
    """Return an interval as words, and how it was made where resampling could not move."""
    method = row.get(f"{key}_method")
    return ends(row.get(key)) + (f", {escape(method)} interval" if method else "")
