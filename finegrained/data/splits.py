"""Training, validation and test rows of a fine-grained data set; no image is in two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np

from finegrained.data.reading import SPLITS
from finetune.images.checks import equal_files
from finetune.images.manifest import Manifest
from finetune.seeding import numpy_generator


@dataclass(frozen=True)
class FineSplit:
    """Sorted row indices of the manifest, int64; `val` is empty where nothing is held out.

    `hash` is the SHA-256 of which file is in which part: two runs with one hash trained and tested on the
    same files, in whatever order the table held them.
    """

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    hash: str

    def parts(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield ("train", rows), ("val", rows) and ("test", rows)."""
        yield from zip(SPLITS, (self.train, self.val, self.test), strict=True)


def as_split(manifest: Manifest, train: np.ndarray, val: np.ndarray, test: np.ndarray) -> FineSplit:
    """Return the split of these rows, sorted, with its hash.

    Raises ValueError when a row or a file is in two parts.
    """
    parts = [np.sort(np.asarray(rows, dtype=np.int64)) for rows in (train, val, test)]
    digest = hashlib.sha256()
    seen: set[str] = set()
    for name, rows in zip(SPLITS, parts, strict=True):
        paths = sorted(manifest["path"][rows].tolist())
        if seen & set(paths):
            raise ValueError(f"{len(seen & set(paths))} files of part {name} are in another part too")
        seen |= set(paths)
        digest.update(json.dumps([name, paths]).encode())
    return FineSplit(parts[0], parts[1], parts[2], digest.hexdigest())


def hold_out(manifest: Manifest, rows: np.ndarray, share: float, seed: int, purpose: str) -> np.ndarray:
    """Return a stratified random `share` of `rows`, sorted int64.

    In all, round(share * len(rows)) rows are held out; a class of n rows gives share * n of them, rounded
    down, and the classes with the largest remainders (ties by lot) give one more. A class never gives its
    last row, so classes of one row give none. The same files give the same choice in whatever order they
    are listed; `purpose` keeps two hold-outs with one seed apart.

    Source: the shares are those of the method of largest remainders (Hamilton).
    """
    label = manifest.label[rows]
    size = np.bincount(label, minlength=manifest.num_classes)
    quota, most = share * size, np.maximum(size - 1, 0)
    wanted = np.minimum(np.floor(quota + 1e-9).astype(np.int64), most)
    remainder = np.where(wanted < most, np.round(quota - wanted, 9), -1.0)
    lots = numpy_generator(seed, purpose).random(len(size))
    short = max(0, min(round(share * len(rows)) - int(wanted.sum()), int((wanted < most).sum())))
    wanted[np.lexsort((lots, -remainder))[:short]] += 1
    taken = [_some(manifest, rows[label == k], int(n), seed, purpose) for k, n in enumerate(wanted) if n > 0]
    return np.sort(np.concatenate(taken)) if taken else np.array([], dtype=np.int64)


def _some(manifest: Manifest, rows: np.ndarray, count: int, seed: int, purpose: str) -> np.ndarray:
    in_order = rows[np.argsort(manifest["path"][rows])]
    name = manifest.class_names[int(manifest.label[rows[0]])]
    return numpy_generator(seed, purpose, name).permutation(in_order)[:count]


Pairs = list[tuple[str, str]]


class EqualContents(NamedTuple):
    """Pairs of files with equal bytes, sorted.

    `tested` pairs a file learned from (training or validation) with a tested one, `validated` a training file
    with a validation one; `relabelled` pairs a file with another that has another class.
    """

    tested: Pairs
    validated: Pairs
    relabelled: Pairs


def equal_contents(manifest: Manifest, split: FineSplit) -> EqualContents:
    """Return the pairs of files with equal bytes that no two parts and no two classes should share.

    Raises DataError when a listed file cannot be read.
    """
    train, val, test = (set(rows.tolist()) for _, rows in split.parts())
    path, label, groups = manifest["path"], manifest.label, list(equal_files(manifest))

    def across(one: set[int], other: set[int]) -> Pairs:
        rows = (
            (a, b) for twins in groups for a in one.intersection(twins) for b in other.intersection(twins)
        )
        return sorted((str(path[a]), str(path[b])) for a, b in rows)

    changed = chain.from_iterable(
        ((twins[0], row) for row in twins[1:] if label[row] != label[twins[0]]) for twins in groups
    )
    relabelled = sorted((str(path[a]), str(path[b])) for a, b in changed)
    return EqualContents(across(train | val, test), across(train, val), relabelled)
