"""Which images are trained, validated and tested on: the parts of one split, and all splits of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.errors import UsageError

PARTS = ("train", "val", "test")
ALL = -1  # the split that trains on every image and tests on none


@dataclass(frozen=True)
class Split:
    """Sorted row indices of the manifest, int64, no row in two parts; `val` may be empty.

    `fold` is the fold that is tested; a data set with one test part has fold 0. `protocol` says by which rule
    the validation part was made.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    protocol: str = ""
    fold: int = 0

    def parts(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield ("train", rows), ("val", rows) and ("test", rows)."""
        yield from zip(PARTS, (self.train, self.val, self.test), strict=True)

    def part_names(self, rows: int) -> np.ndarray:
        """Return train, validation, test or unused for every row of a manifest of `rows` rows, str (N,)."""
        names = np.full(rows, "unused", dtype="<U10")
        for name, part in (("train", self.train), ("validation", self.val), ("test", self.test)):
            names[part] = name
        return names

    def among(self, there: np.ndarray) -> Split:
        """Return the split of the rows that are `there`, bool (N,), numbered as in these rows alone."""
        place = np.cumsum(there) - 1
        train, val, test = (place[rows[there[rows]]] for _, rows in self.parts())
        return Split(train, val, test, self.protocol, self.fold)


@dataclass(frozen=True)
class Splits:
    """All splits of a run, one per test fold, and `hash`: two runs with one hash share every part."""

    splits: tuple[Split, ...]
    hash: str

    def __iter__(self) -> Iterator[Split]:
        return iter(self.splits)

    def __len__(self) -> int:
        return len(self.splits)

    @property
    def folds(self) -> list[int]:
        """The folds that can be tested, ascending."""
        return [split.fold for split in self.splits]

    def groups(self, rows: int) -> np.ndarray | None:
        """Return a group of every one of `rows` images, int64 (N,); None where there is one split.

        The rows of a group are in the same part of each split, so that no split cuts a group.
        """
        if len(self) < 2:
            return None
        parts = np.stack([split.part_names(rows) for split in self])
        _, group = np.unique(parts, axis=1, return_inverse=True)
        return group.reshape(-1).astype(np.int64)

    def of_fold(self, fold: int, rows: int) -> Split:
        """Return the split that tests `fold`; -1 trains on every one of `rows` images and tests on none.

        Raises UsageError, listing the folds there are.
        """
        if fold == ALL:
            none = np.arange(0)
            return Split(np.arange(rows), none, none, protocol="all", fold=ALL)
        found = {split.fold: split for split in self.splits}
        if fold not in found:
            raise UsageError(f"--data.fold {fold}: there are folds {sorted(found)}, or -1 to use all")
        return found[fold]

    def only(self, folds: Sequence[int], rows: int) -> Splits:
        """Return the splits that test these folds, all where none is named; unknown ones are left out.

        Whoever trains a fold asks `of_fold`, which refuses an unknown one.
        """
        known = [fold for fold in folds if fold == ALL or fold in self.folds]
        return Splits(tuple(self.of_fold(fold, rows) for fold in known), self.hash) if known else self
