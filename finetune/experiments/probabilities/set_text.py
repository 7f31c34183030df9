"""What a report says of sets: what they promise, for whom, what they held, and which classes have none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.figures.markdown import escape, number, table

Record = Mapping[str, Any]


def range_text(entry: Record) -> str:
    """Return between which numbers of 100 the coverage of a model's sets lies, 9 draws of 10."""
    if entry["sets"]["q"] is None:
        return "whole sets"
    low, high = (100 * end for end in entry["sets"]["range"])
    return f"{low:.0f} to {high:.0f}"


def sets_text(found: Record) -> str:
    """Return what the sets of a calibrated run promise and held, and a table of its classes where asked for.

    Args:
        found: calibration.json, in which every model was calibrated by the same unit.
    """
    sets, entry = found["measured"]["sets"], next(iter(found["models"].values()))
    held, level = sets["coverage"], f"{100 * found['level']:g}"
    if entry["unit"] == "image":
        whom, told = (
            "a new image",
            f"{number(held['pictures'], 1)} % of {found['measured']['raw']['n']:,} images",
        )
    else:
        who = "person" if entry["unit"] == "person" else escape(entry["unit"])
        whom = f"a picture of a new {who}, drawn at random"
        told = f"{number(held['persons'], 1)} % of those ({number(held['pictures'], 1)} % of all pictures)"
    text = (
        f"Sets at level {level} % are promised for {whom}. They held the true class for {told}, "
        f"with {number(sets['mean_size'])} classes on average; {number(sets['single'], 1)} % name one class "
        f"alone, {number(sets['whole'], 1)} % all. The range is where the fraction lies for 9 of 10 draws of "
        "the calibrating ones."
    )
    groups = _groups_table(found)
    return f"{text}\n\n{groups}" if groups else text


def _groups_table(found: Record) -> str:
    """Return a row per class: who calibrated it, what held, and in how many models it has no quantile."""
    measured = found["measured"].get("per_group")
    entries = [entry["per_group"] for entry in found["models"].values() if entry.get("per_group")]
    if not measured or not entries:
        return ""
    rows = []
    for place, one in enumerate(measured):
        people = [entry["people"][place] for entry in entries]
        short = sum(entry["q"][place] is None for entry in entries)
        fewest = f"{min(people)} to {max(people)}" if min(people) < max(people) else str(people[0])
        refused = f"{short} of {len(entries)}" if short else "none"
        held = (number(one[key], 1) for key in ("persons", "pictures"))
        rows.append([escape(one["name"]), fewest, refused, *held])
    unit = next(iter(found["models"].values()))["unit"]
    head = ["sets per class", f"{escape(unit)}s that calibrated", "models without a quantile"]
    text = (
        "A class without a quantile has too few to calibrate it. It is in every set of such a model. "
        "What held is measured as above, by the quantiles of other parts."
    )
    return f"{table([*head, f'held, per {escape(unit)} (%)', 'held, all images (%)'], rows)}\n\n{text}"
