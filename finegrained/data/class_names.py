"""The official class lists of CUB-200-2011 and Stanford Cars; names match exactly, but for "/" as "-"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np

from finetune.errors import DataError, UsageError, listing
from finetune.images.cells import one_spelling

CUB, CARS = "cub_200_2011", "stanford_cars"
TITLES = {CUB: "CUB-200-2011", CARS: "Stanford Cars"}
_NUMBER = re.compile(r"^\d{3}\.")


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


def normalised(name: str) -> str:
    """Return the name that folders and lists share: "/" cannot stand in a folder's name and is "-" there.

    Two Unicode forms of one name (NFC, NFD) are one name. Nothing else is folded: some classes differ in one
    word only, so that no looser match is safe.

    >>> normalised("Ram C/V Cargo Van Minivan 2012")
    'Ram C-V Cargo Van Minivan 2012'
    """
    return one_spelling(name).replace("/", "-")


def display_name(name: str) -> str:
    """Return a class name for people: without CUB's number, spaces for underscores.

    >>> display_name("001.Black_footed_Albatross"), display_name("Acura TL Sedan 2012")
    ('Black footed Albatross', 'Acura TL Sedan 2012')
    """
    return _NUMBER.sub("", name).replace("_", " ")


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


def class_map(found: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Return the index in `wanted` of each class of `found`, int64 (len(found),): labels are moved by name.

    Every name of `found` must be in `wanted` (which may hold more). Raises DataError listing the names that
    are not, or names that are equal once "/" is "-".

    >>> class_map(["b", "x-y"], ["x/y", "a", "b"]).tolist()
    [2, 0]
    """
    place = {normalised(name): index for index, name in enumerate(wanted)}
    if len(place) != len(wanted):
        raise DataError("two classes have the same name once / is written as -; rename one of them")
    strangers = [name for name in found if normalised(name) not in place]
    if strangers:
        raise DataError(
            f"{len(strangers)} of {len(found)} classes are not among the {len(wanted)} known ones "
            f"(names are compared exactly, / as -):\n{listing(strangers)}"
        )
    return np.array([place[normalised(name)] for name in found], dtype=np.int64)
