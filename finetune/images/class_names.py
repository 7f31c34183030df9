"""Names of classes: how folders, lists and models spell one class alike, and labels moved between lists."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from finetune.errors import DataError, ModelFileError, listing
from finetune.images.cells import one_spelling
from finetune.images.manifest import Manifest

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


def labels_in(manifest: Manifest, class_names: Sequence[str], model: str) -> np.ndarray:
    """Return a table's labels as indices of a model's classes, int64 (N,): moved by name, "/" read as "-".

    The data may lack classes of the model, which then have no sample.

    Args:
        manifest: the table of images.
        class_names: the model's, in order.
        model: what the message calls the model.

    Raises ModelFileError, naming them, for classes of the data that the model does not know.
    """
    wanted = {normalised(name): name for name in class_names}
    own = {normalised(name): name for name in manifest.class_names}
    unknown = [name for key, name in own.items() if key not in wanted]
    if unknown:
        absent = [name for key, name in wanted.items() if key not in own]
        raise ModelFileError(
            f"{model} has other classes than the data: only in the data {short_list(unknown)}; only in the "
            f"model {short_list(absent)}. Leave out the images of classes that the model does not know, or "
            "use the data set and label policy that it was trained with"
        )
    moved: np.ndarray = class_map(manifest.class_names, class_names)[manifest.label]
    return moved


def without_samples(class_names: Sequence[str], target: np.ndarray) -> str:
    """Return the sentence on classes that no image is of; empty where each has one.

    >>> without_samples(["auk", "owl", "tit"], np.array([1, 1]))
    'no samples of 2 of 3 classes, which no score covers: 2 (auk, tit)'
    >>> without_samples(["auk"], np.array([0]))
    ''
    """
    counts = np.bincount(target, minlength=len(class_names))
    absent = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if not absent:
        return ""
    told = f"{len(absent)} of {len(class_names)} classes"
    return f"no samples of {told}, which no score covers: {short_list(absent)}"


def short_list(names: Sequence[str]) -> str:
    """Return how many names there are and the first twelve of them."""
    return f"{len(names)} ({', '.join(names[:12])}{' ...' if len(names) > 12 else ''})"
