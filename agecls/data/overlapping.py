"""Splits that a benchmark published and that do not test every image once: a third kind of list.

The table says in column `parts` what each image is in each split: a letter a split, t for training, v for
validation, s for test and - for none. The tables of a run keep it, so that a run's parts are known for good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from agecls.data.folds import Protocol, check_parts, make_splits
from finetune.errors import DataError, listing
from finetune.experiments.records.splits import Split
from finetune.images.manifest import Manifest

PARTS_COLUMN, FAEB = "parts", "faeb"
TRAIN, VALIDATION, TEST, NONE = "t", "v", "s", "-"


def splits_of(
    manifest: Manifest, protocol: str, seed: int = 0, n_folds: int = 5, *, allow_subject_overlap: bool = False
) -> list[Split]:
    """Return the splits of a protocol: those that the table lists for "faeb", else `make_splits`.

    Raises DataError, listing the offenders, where a listed split shares a path, a subject or a user between
    its parts, lacks a part to train or to test on, or trains on fewer than two classes.
    """
    if protocol != FAEB:
        kind: Protocol = protocol  # type: ignore[assignment]
        return make_splits(manifest, kind, seed, n_folds, allow_subject_overlap=allow_subject_overlap)
    splits = listed_splits(manifest)
    check_listed(splits, manifest, allow_subject_overlap=allow_subject_overlap)
    return splits


def listed_splits(manifest: Manifest) -> list[Split]:
    """Return the splits that column `parts` lists; DataError where it is missing or not whole."""
    if PARTS_COLUMN not in manifest:
        raise DataError("the table has no column parts: it is of no benchmark with splits of its own")
    parts = manifest[PARTS_COLUMN].astype(str)
    lengths = {len(text) for text in parts.tolist()}
    if len(lengths) != 1 or lengths == {0} or set("".join(parts.tolist())) - {*"tvs-"}:
        raise DataError("column parts must hold the same number of letters t, v, s or - in every row")
    letters = parts.view(("U1", parts.dtype.itemsize // 4)).reshape(len(parts), -1)
    return [
        Split(
            np.flatnonzero(column == TRAIN),
            np.flatnonzero(column == VALIDATION),
            np.flatnonzero(column == TEST),
            FAEB,
            number,
        )
        for number, column in enumerate(letters.T)
    ]


def check_listed(splits: Sequence[Split], manifest: Manifest, *, allow_subject_overlap: bool = False) -> None:
    """Raise DataError, listing offenders, unless each split keeps people, files and classes apart.

    An image may be tested in several splits or in none.
    """
    empty = [
        f"split {split.fold}: {name}"
        for split in splits
        for name, rows in (("train", split.train), ("test", split.test))
        if not len(rows)
    ]
    if empty:
        raise DataError(f"{len(empty)} parts hold no image:\n{listing(empty)}")
    check_parts(splits, manifest, allow_subject_overlap=allow_subject_overlap)


def tested_times(splits: Sequence[Split], folder: np.ndarray) -> str:
    """Return in words which folders of a benchmark are tested several times, and which never; empty for none.

    >>> tested_times([Split(np.array([0]), np.array([]), np.array([1, 2]))] * 2, np.array([0, 1, 2]))
    'folders 1, 2 are tested twice, folders 0 never'
    """
    times = Counter({int(one): 0 for one in np.unique(folder)})
    for split in splits:
        times.update({int(one) for one in np.unique(folder[split.test])})
    words = {2: "twice", 0: "never"}
    told = []
    for count in sorted(set(times.values()) - {1}, reverse=True):
        which = ", ".join(str(one) for one in sorted(times) if times[one] == count)
        told.append(f"folders {which} {'are tested ' if count else ''}{words.get(count, f'{count} times')}")
    return ", ".join(told)
