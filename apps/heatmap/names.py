"""What classes are called where people read: without a data set's numbers, short, and never two alike."""

from __future__ import annotations

from collections.abc import Sequence

from finegrained.data.class_names import display_name
from finetune.figures.canvas import distinct_short_names


def names_for_people(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the class names as pages, pictures and terminals show them; files for programs keep their own.

    A leading number such as "001." goes, underscores become spaces. Where that would leave a name empty or
    make two classes look the same, all keep the names that they have.

    >>> names_for_people(["001.Black_footed_Albatross", "25-32"])
    ('Black footed Albatross', '25-32')
    >>> names_for_people(["001.Gull", "002.Gull"])
    ('001.Gull', '002.Gull')
    """
    shown = tuple(display_name(name).strip() for name in class_names)
    return shown if all(shown) and len(set(shown)) == len(shown) else tuple(class_names)


def short_names(names: Sequence[str], limit: int) -> tuple[str, ...]:
    """Return the names cut to `limit` characters, different ones different (`canvas.distinct_short_names`).

    >>> short_names(["Silverado 1500 Regular Cab", "Silverado 2500HD Regular Cab", "Volt"], 18)
    ('… 1500 Regular Cab', '…500HD Regular Cab', 'Volt')
    """
    return tuple(distinct_short_names(names, limit))
