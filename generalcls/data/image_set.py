"""Images of one size as arrays: what the readers of general data sets return."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune.errors import DataError, listing

HASHED_ROWS = 4096  # images that are copied at once while a digest runs over them


@dataclass(frozen=True)
class ImageSet:
    """One part of a data set.

    Args:
        images: uint8 (N, H, W, C), C 1 (grey) or 3 (RGB); may be a read-only memory map.
        target: zero-based classes, int64 (N,).

    Raises:
        DataError: shapes, types or lengths that differ from these.
    """

    images: np.ndarray
    target: np.ndarray

    def __post_init__(self) -> None:
        images, target = self.images, self.target
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise DataError(
                f"images are uint8 (N, H, W, 1 or 3), got {images.dtype} {images.shape}; convert them first"
            )
        if target.dtype != np.int64 or target.shape != images.shape[:1]:
            raise DataError(
                f"targets are int64 ({len(images)},), one for each image, got {target.dtype} {target.shape}"
            )

    def __len__(self) -> int:
        return len(self.target)

    def select(self, rows: np.ndarray) -> ImageSet:
        """Return these rows (rising indices); neighbours are a view, anything else is a copy in memory."""
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            whole = slice(int(rows[0]), int(rows[-1]) + 1)
            return ImageSet(self.images[whole], self.target[whole])
        return ImageSet(self.images[rows], self.target[rows])

    def class_counts(self, num_classes: int) -> np.ndarray:
        """Return the number of images of each class, int64 (K,)."""
        return np.bincount(self.target, minlength=num_classes)


@dataclass(frozen=True)
class GeneralData:
    """A data set that is ready for a study.

    Args:
        name: its name among the readers.
        train: the images that are learned from.
        test: the images that every loss is tested on; nothing is selected by them.
        class_names: K names, in the order of the targets.
        fingerprint: SHA-256, hexadecimal, over pixels, labels, class names and split; of images in folders
            over the files' bytes and the resize rule instead of the pixels.
        official_test: whether the test part is the published one: whole, its pixels not compressed again, and
            in the size that published scores are on.
        notes: sentences that belong beside every result.
    """

    name: str
    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    fingerprint: str
    official_test: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What a reader found: the parts as they lie on disk, before shares are taken.

    Args:
        train: the training part.
        test: the test part, None where the data name none.
        class_names: K names.
        official: whether the test part is the published one, as `GeneralData.official_test` means it.
        notes: what should be reported.
        content: a digest that stands for the pixels where reading all of them again would be slow.
    """

    train: ImageSet
    test: ImageSet | None
    class_names: tuple[str, ...]
    official: bool
    notes: tuple[str, ...] = ()
    content: str = ""


@dataclass(frozen=True)
class Whole:
    """The published counts of a data set, and what happens to files that differ from the published ones.

    Args:
        title: the data set's name.
        train: published training images.
        test: published test images.
        subset: accept other counts and checksums (a note says so) instead of refusing them.
        source: where the data come from.
    """

    title: str
    train: int
    test: int
    source: str
    subset: bool = False

    def difference(self, train: int, test: int, strangers: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return notes on how what was read differs from the published files; none where it does not.

        Args:
            train: training images read.
            test: test images read.
            strangers: files whose checksums are not the published ones.

        Raises:
            DataError: it differs, and no subset was asked for.
        """
        told = []
        if (train, test) != (self.train, self.test):
            told.append(f"{train} of {self.train} training and {test} of {self.test} test images")
        if strangers:
            told.append(f"checksums that are not the published ones: {', '.join(strangers)}")
        if not told:
            return ()
        if self.subset:
            return (f"not the published {self.title}, no published score is on it: {'; '.join(told)}",)
        raise DataError(
            f"this is not {self.title} as published: {'; '.join(told)}. If it is meant to be a part of it, "
            "or another data set in its format, say --data.subset true; else the files are damaged or cut: "
            f"fetch them again. Where from: {self.source}"
        )


def array_of(values: object, what: str) -> np.ndarray:
    """Return values that a file holds as an array.

    Args:
        values: an array, or lists in lists.
        what: their file and name, for the message.

    Raises:
        DataError: lists of unequal lengths, which are no array.

    >>> array_of([[1, 2], [3, 4]], "file").shape
    (2, 2)
    """
    try:
        return np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"{what} are no array but lists of unequal lengths ({error}); fetch it again"
        ) from error


def labels_within(labels: np.ndarray, lowest: int, highest: int, where: str) -> np.ndarray:
    """Return labels as int64 (N,).

    Args:
        labels: whole numbers, (N,), of any number type.
        lowest: the least label allowed.
        highest: the greatest label allowed.
        where: the file, for the message.

    Raises:
        DataError: a label that is no whole number of [lowest, highest], with the first rows named.

    >>> labels_within(np.array([0.0, 9.0]), 0, 9, "file")
    array([0, 9])
    """
    values = np.asarray(labels)
    if values.dtype.kind not in "iuf" or values.ndim != 1:
        raise DataError(f"{where}: labels are numbers in one column, got {values.dtype} {values.shape}")
    odd = np.flatnonzero(~((values >= lowest) & (values <= highest) & (values == np.floor(values))))
    if len(odd):
        rows = [f"row {row}: {values[row]}" for row in odd.tolist()]
        raise DataError(
            f"{where}: {len(odd)} labels are no whole numbers of [{lowest}, {highest}]:\n{listing(rows)}"
        )
    return values.astype(np.int64)


def fingerprint(reading: Reading, train: ImageSet, test: ImageSet, rows: tuple[np.ndarray, ...]) -> str:
    """Return the SHA-256, hexadecimal, that tells two studies' data apart.

    Args:
        reading: where the parts come from; its `content` stands for the pixels where it is not empty.
        train: the training images in use.
        test: the test images in use.
        rows: which rows of the reading's parts these are.
    """
    digest = hashlib.sha256(json.dumps(reading.class_names).encode())
    for part in (train, test):
        digest.update(f"\n{part.images.shape}\n".encode())
        digest.update(np.ascontiguousarray(part.target).data)
        if not reading.content:
            for start in range(0, len(part), HASHED_ROWS):
                digest.update(np.ascontiguousarray(part.images[start : start + HASHED_ROWS]).data)
    if reading.content:
        digest.update(reading.content.encode())
        for chosen in rows:
            digest.update(np.ascontiguousarray(chosen, dtype=np.int64).data)
    return digest.hexdigest()


def check_class_names(found: object, wanted: Sequence[str], file: Path) -> None:
    """Raise DataError, naming the first difference, unless a file lists the classes in the official order."""
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        told = f"its class names are no list of texts but {found!r:.60}"
    elif list(found) == list(wanted):
        return
    else:
        pairs = enumerate(zip(found, wanted, strict=False))
        odd = (f"label {at} is {here}, not {there}" for at, (here, there) in pairs if here != there)
        told = next(odd, f"{len(found)} classes, not {len(wanted)}")
    raise DataError(f"{file} does not list the official classes in their order: {told}; fetch it again")
