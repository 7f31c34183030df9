"""Read CIFAR's official python batches: pickled dictionaries, of which nothing but arrays is let in."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import DataError
from generalcls.data.image_set import ImageSet, array_of, check_class_names, labels_within

SIDE = 32
ROW = 3 * SIDE * SIDE  # an image in a batch: its red, then green, then blue values, row by row

# What a pickled numpy array imports, whichever numpy wrote it; anything else could be a program.
ALLOWED = frozenset(
    (module, name)
    for module, name in (
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("_codecs", "encode"),
    )
)


class _Arrays(pickle.Unpickler):
    """Loads dictionaries, lists, text, numbers and arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """Return an array's building block; refuse any other import."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it wants to import {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


@dataclass(frozen=True)
class Batches:
    """Where the batches lie and what is in them.

    Args:
        folder: their folder.
        train: the training batches' files.
        test: the test batch's file.
        meta: the file of class names.
        labels: the labels' key in a batch.
        names: the class names' key in `meta`.
        class_names: the official classes, in the order of the labels.
    """

    folder: Path
    train: Sequence[str]
    test: str
    meta: str
    labels: str
    names: str
    class_names: Sequence[str]


def read_batches(
    batches: Batches, checksums: Mapping[str, str], *, subset: bool = False
) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Return the training and the test images, and the files whose checksums are not the published ones.

    Args:
        batches: what to read.
        checksums: the published MD5 by file name.
        subset: go on with other files than the published ones.

    Raises:
        DataError: a file is missing, no pickle of plain arrays, or does not hold what it should; without
            `subset` any other bytes than the published ones, before they are unpickled.
    """
    folder, meta = batches.folder, batches.folder / batches.meta
    files = (*batches.train, batches.test, batches.meta)
    contents = {name: _bytes_of(folder / name) for name in files}
    strangers = tuple(
        name
        for name, content in contents.items()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != checksums.get(name)
    )
    if strangers and not subset:
        raise DataError(
            f"{folder}: {', '.join(strangers)} differ from the published files (MD5): damaged, cut short or "
            "changed; unpack the archive again, or fetch it again. If they are meant to be a part, or "
            "another data set in this format, say --data.subset true"
        )
    check_class_names(_load(meta, contents[batches.meta]).get(batches.names, ()), batches.class_names, meta)

    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        return _read(folder / name, contents[name], batches.labels, len(batches.class_names))

    return _joined([read(name) for name in batches.train]), _joined([read(batches.test)]), strangers


def _bytes_of(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; place it there, whole") from None


def _load(file: Path, content: bytes) -> dict[str, Any]:
    try:
        loaded = _Arrays(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # damaged bytes make a pickle raise anything; the cause stays attached
        raise DataError(f"{file} is no whole batch of arrays: {error}; fetch it again") from error
    if not isinstance(loaded, dict):
        raise DataError(f"{file} holds no dictionary but {type(loaded).__name__}; fetch it again")
    return loaded


def _read(file: Path, content: bytes, labels_key: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch's rows, uint8 (N, 3072), and labels."""
    batch = _load(file, content)
    absent = [key for key in ("data", labels_key) if key not in batch]
    if absent:
        found = ", ".join(map(str, batch)) or "nothing"
        raise DataError(f"{file} has no {' and no '.join(absent)}; found {found}: is it the other CIFAR?")
    rows = array_of(batch["data"], f"{file}: data")
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != ROW:
        raise DataError(f"{file}: data are uint8 (N, {ROW}), got {rows.dtype} {rows.shape}")
    labels = labels_within(array_of(batch[labels_key], f"{file}: {labels_key}"), 0, classes - 1, str(file))
    if len(labels) != len(rows):
        raise DataError(f"{file} holds {len(rows)} images and {len(labels)} labels; fetch it again")
    return rows, labels


def _joined(batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> ImageSet:
    rows = np.concatenate([rows for rows, _ in batches])
    images = rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return ImageSet(np.ascontiguousarray(images), np.concatenate([labels for _, labels in batches]))
