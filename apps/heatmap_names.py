"""What classes are called where people read: without a data set's numbers, short, and never two alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from finegrained.class_tables import display_name
from finetune.canvas import shorten


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
    """Return the names, each of at most `limit` characters, different ones different where that can be done.

    A long name loses its middle. Where two would then read alike, they lose their beginning instead, or else
    their end: makes and model years are what long names share.

    >>> short_names(["Silverado 1500 Regular Cab", "Silverado 2500HD Regular Cab", "Volt"], 18)
    ('… 1500 Regular Cab', '…500HD Regular Cab', 'Volt')
    """
    cuts: tuple[Callable[[str], str], ...] = (
        lambda name: shorten(name, limit),
        lambda name: name if len(name) <= limit else f"…{name[1 - limit :]}",
        lambda name: name if len(name) <= limit else f"{name[: limit - 1]}…",
    )
    short = {name: cuts[0](name) for name in names}
    for cut in cuts[1:]:
        counts = Counter(short.values())
        short = {name: cut(name) if counts[told] > 1 else told for name, told in short.items()}
    return tuple(short[name] for name in names)
