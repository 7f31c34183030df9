"""Training, validation and test rows of a data set: no image is in two of them."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from finetune.experiments.records.splits import PARTS, Split
from finetune.images.manifest import Manifest
from finetune.seeding import numpy_generator


def as_split(manifest: Manifest, train: np.ndarray, val: np.ndarray, test: np.ndarray) -> Split:
    """Return the split of these rows, sorted.

    Raises ValueError when a row or a file is in two parts.
    """
    parts = [np.sort(np.asarray(rows, dtype=np.int64)) for rows in (train, val, test)]
    seen: set[str] = set()
    for name, rows in zip(PARTS, parts, strict=True):
        paths = set(manifest["path"][rows].tolist())
        if seen & paths:
            raise ValueError(f"{len(seen & paths)} files of part {name} are in another part too")
        seen |= paths
    return Split(parts[0], parts[1], parts[2])


def split_hash(manifest: Manifest, split: Split) -> str:
    """Return the SHA-256 of which file is in which part; the order of rows plays no part."""
    digest = hashlib.sha256()
    for name, rows in split.parts():
        digest.update(json.dumps([name, sorted(manifest["path"][rows].tolist())]).encode())
    return digest.hexdigest()


def hold_out(manifest: Manifest, rows: np.ndarray, share: float, seed: int, purpose: str) -> np.ndarray:
    """Return a stratified random `share` of `rows`, sorted int64.

    In all, round(share * len(rows)) rows are held out, but at least one of a share above 0. A class of n
    rows gives share * n of them, rounded down, and the classes with the largest remainders (ties by lot) give
    one more. A class never gives its last row, so classes of one row give none. The same files give the same
    choice in whatever order they are listed; `purpose` keeps two hold-outs with one seed apart.

    Source: the shares are those of the method of largest remainders (Hamilton).
    """
    label = manifest.label[rows]
    size = np.bincount(label, minlength=manifest.num_classes)
    quota, most = share * size, np.maximum(size - 1, 0)
    wanted = np.minimum(np.floor(quota + 1e-9).astype(np.int64), most)
    remainder = np.where(wanted < most, np.round(quota - wanted, 9), -1.0)
    lots = numpy_generator(seed, purpose).random(len(size))
    asked = max(round(share * len(rows)), 1 if share > 0 else 0)
    short = max(0, min(asked - int(wanted.sum()), int((wanted < most).sum())))
    wanted[np.lexsort((lots, -remainder))[:short]] += 1
    taken = [_some(manifest, rows[label == k], int(n), seed, purpose) for k, n in enumerate(wanted) if n > 0]
    return np.sort(np.concatenate(taken)) if taken else np.array([], dtype=np.int64)


def _some(manifest: Manifest, rows: np.ndarray, count: int, seed: int, purpose: str) -> np.ndarray:
    in_order = rows[np.argsort(manifest["path"][rows])]
    name = manifest.class_names[int(manifest.label[rows[0]])]
    return numpy_generator(seed, purpose, name).permutation(in_order)[:count]
