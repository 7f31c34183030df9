"""Names of classes: how folders, lists and models spell one class alike, and labels moved between lists."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from finetune.errors import DataError, listing
from finetune.images.cells import one_spelling

_NUMBER = re.compile(r"^\d{3}\.")


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
