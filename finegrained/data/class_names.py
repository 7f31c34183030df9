"""The official class lists of CUB-200-2011 and Stanford Cars; names match exactly, but for "/" as "-"."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from finetune.errors import UsageError
from finetune.images.class_names import normalised

CUB, CARS = "cub_200_2011", "stanford_cars"
TITLES = {CUB: "CUB-200-2011", CARS: "Stanford Cars"}


@cache
def class_table(name: str) -> tuple[str, ...]:
    """Return the official class names in the official order: 200 of CUB-200-2011, 196 of Stanford Cars.

    A class's zero-based index is its place here; the data sets' own files count from 1. The names stand as
    the data sets' own lists spell them: "001.Black_footed_Albatross", "Ram C/V Cargo Van Minivan 2012".

    Raises UsageError for a name that is no table's.

    >>> class_table(CARS)[173]
    'Ram C/V Cargo Van Minivan 2012'

    Source: classes.txt of CUB-200-2011 (Wah et al., "The Caltech-UCSD Birds-200-2011 Dataset", 2011);
    cars_meta.mat of Stanford Cars (Krause et al., "3D Object Representations for Fine-Grained
    Categorization", 2013).
    """
    if name not in TITLES:
        raise UsageError(f"no class table is called {name!r}; choose one of {', '.join(TITLES)}")
    text = files("finegrained.data").joinpath("class_lists", f"{name}.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def official_order(names: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    """Return the table in which every one of `names` stands, and these names in its order and spelling.

    None where no table holds all of them, or two names are one class. Class folders sorted by name are not
    in the official order for Cars: 143 of its 196 places differ.
    """
    wanted = {normalised(name) for name in names}
    if not wanted or len(wanted) != len(names):
        return None
    for table in TITLES:
        found = tuple(name for name in class_table(table) if normalised(name) in wanted)
        if len(found) == len(wanted):
            return table, found
    return None
