"""Training, validation and test rows of a data set: no image is in two of them, or tested that was seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finegrained.data.reading import SPLITS
from finetune.cli.console import say
from finetune.cli.machine import core_count
from finetune.errors import DataError, listing
from finetune.images.cache_file import UNREADABLE, hash_files
from finetune.images.checks import equal_files
from finetune.images.manifest import Manifest
from finetune.seeding import numpy_generator

SEEN_PARTS = ("train", "validation")
HASHES = "sha256"


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


def content_hashes(manifest: Manifest) -> np.ndarray:
    """Return the SHA-256 of every row's file, hexadecimal; empty where it cannot be read."""
    found = hash_files([manifest.file(row) for row in range(len(manifest))], core_count())
    return np.array(["" if name.startswith(UNREADABLE) else name for name in found], dtype=str)


def refuse_seen_pictures(trained: Manifest, manifest: Manifest, rows: np.ndarray, run: Path) -> None:
    """Raise DataError when any of these rows is a picture the run was trained or selected on, by its bytes.

    Args:
        trained: the run's own table, with the column part (train, validation, test) and, as runs keep it, the
            column sha256 of the files' contents.
        manifest: the table of the pictures to be shown.
        rows: which of them.
        run: the run's folder, for the message.

    Where the run kept no hashes, its files are read where they still are; how many of them can be compared is
    told unless it is all. Of those that cannot, names are all there is: DataError where the pictures to be
    shown are by path and class the very list of the training part, of the validation part, or of both.
    """
    part = trained["part"]
    seen = trained.select(np.isin(part, SEEN_PARTS))
    hashes = seen[HASHES] if HASHES in seen else content_hashes(seen)
    known = set(hashes.tolist()) - {""}
    comparable = int((hashes != "").sum())
    shown = manifest.select(rows)
    if known:
        found = content_hashes(shown)
        _refuse([str(path) for path in shown["path"][[name in known for name in found.tolist()]]], shown, run)
    if comparable == len(seen):
        return
    lists = [_listed(trained.select(np.isin(part, names))) for names in (SEEN_PARTS, *zip(SEEN_PARTS))]
    if _listed(shown) in lists:
        raise DataError(
            f"{run} was trained or validated on a list of pictures with the very paths and classes of these "
            f"{len(shown)}, so that scores on them mean nothing. Name other data, or leave --data.* out: "
            "then the run's own test pictures are scored"
        )
    say(
        f"warning: {comparable} of {len(seen)} training and validation pictures of {run} are still there: "
        f"whether the new pictures were among {'the others' if comparable else 'them'} cannot be told"
    )


def _listed(manifest: Manifest) -> list[tuple[str, str]]:
    names = [manifest.class_names[label] for label in manifest.label.tolist()]
    return sorted(zip(manifest["path"].tolist(), names, strict=True))


def _refuse(shared: list[str], shown: Manifest, run: Path) -> None:
    if shared:
        raise DataError(
            f"{run} was trained or validated on {len(shared)} of these {len(shown)} pictures (equal bytes), "
            f"so that scores on them mean nothing:\n{listing(shared)}\nName other data, or leave --data.* "
            "out: then the run's own test pictures are scored"
        )
