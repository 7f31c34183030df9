"""`crl general verify`: what a data set holds, before an hour is spent on it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from finetune.cli.console import say, table
from finetune.images.checks import tell_classes
from generalcls.config import GeneralDataConfig
from generalcls.data.datasets import read_general_data
from generalcls.data.image_set import GeneralData, ImageSet

MOST_BYTES = 1_000_000_000  # of pixels that are looked through before a training: a second or two
LISTED = 10  # sets of equal images that are listed one by one

Row = tuple[str, int]


def verify_general_data(
    config: GeneralDataConfig, cache: str = "auto", *, quick: bool = False
) -> dict[str, Any]:
    """Read, count and check a data set; print what was found and return it.

    Args:
        config: which data set, from where, how much of it.
        cache: where decoded images of imagenet and folders are kept.
        quick: do not look for equal images (which reads every pixel).

    Returns:
        JSON values: name, fingerprint, official_test, notes, image_shape, class_names, counts (part -> images
        of each class), and unless `quick` equal_images (see `equal_images`).

    Raises:
        DataError: as `generalcls.data.datasets.read_general_data`.
    """
    data = read_general_data(config, cache)
    parts = {"train": data.train, "test": data.test}
    counts = {name: part.class_counts(len(data.class_names)) for name, part in parts.items()}
    result: dict[str, Any] = {
        "name": data.name,
        "fingerprint": data.fingerprint,
        "official_test": data.official_test,
        "notes": list(data.notes),
        "image_shape": list(data.train.images.shape[1:]),
        "class_names": list(data.class_names),
        "counts": {name: count.tolist() for name, count in counts.items()},
    }
    _print_counts(data, counts)
    if not quick:
        result["equal_images"] = equal_images(data.train, data.test)
        _tell_equal(result["equal_images"])
    return result


def read_checked(config: GeneralDataConfig, cache: str) -> GeneralData:
    """Return a data set whose notes also tell of equal images, unless looking would read over a gigabyte."""
    data = read_general_data(config, cache)
    if data.train.images.nbytes + data.test.images.nbytes > MOST_BYTES:
        return data
    equal = equal_images(data.train, data.test)
    told = [text for kind, text in _told(equal).items() if equal[kind]["images"]]
    return replace(data, notes=(*data.notes, *told))


def equal_images(train: ImageSet, test: ImageSet) -> dict[str, Any]:
    """Return where images are equal pixel by pixel.

    Returns:
        For the pairs "within_train", "within_test" and "between" (a test image that is also learned from):
        images (how many test images, or repetitions within a part), other_class (how many of them under
        another class), and first (up to ten sets of (part, row, class)).

    >>> twice = ImageSet(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1]))
    >>> other = ImageSet(np.ones((1, 8, 8, 1), np.uint8), np.array([0]))
    >>> found = equal_images(twice, other)
    >>> found["within_train"]["images"], found["within_train"]["other_class"], found["between"]["images"]
    (1, 1, 0)
    """
    sets: dict[bytes, list[Row]] = defaultdict(list)
    for name, part in (("train", train), ("test", test)):
        for row in range(len(part)):
            pixels = np.ascontiguousarray(part.images[row])
            sets[hashlib.blake2b(pixels.data, digest_size=16).digest()].append((name, row))
    target = {"train": train.target, "test": test.target}
    found = {kind: _Tally(target) for kind in ("within_train", "within_test", "between")}
    for rows in (rows for rows in sets.values() if len(rows) > 1):
        learned = [row for row in rows if row[0] == "train"]
        tested = [row for row in rows if row[0] == "test"]
        found["within_train"].add(learned[:1], learned[1:])
        found["within_test"].add(tested[:1], tested[1:])
        found["between"].add(learned, tested)
    return {kind: tally.told() for kind, tally in found.items()}


class _Tally:
    """Counts images that are equal to others, and those of them under another class."""

    def __init__(self, target: dict[str, np.ndarray]) -> None:
        self._target = target
        self.images = 0
        self.other_class = 0
        self.first: list[list[list[str | int]]] = []

    def add(self, known: list[Row], again: list[Row]) -> None:
        """Count the rows `again`, which are equal to the rows `known`."""
        if not known or not again:
            return
        classes = {self._class(row) for row in known}
        self.images += len(again)
        self.other_class += sum(classes != {self._class(row)} for row in again)
        if len(self.first) < LISTED:
            self.first.append([[*row, self._class(row)] for row in (*known, *again)])

    def told(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {"images": self.images, "other_class": self.other_class, "first": self.first}

    def _class(self, row: Row) -> int:
        return int(self._target[row[0]][row[1]])


def _print_counts(data: GeneralData, counts: dict[str, np.ndarray]) -> None:
    height, width, channels = data.train.images.shape[1:]
    kind = "grey" if channels == 1 else "RGB"
    say(
        f"{data.name}: {len(data.train)} training and {len(data.test)} test images of "
        f"{len(data.class_names)} classes, {width} x {height} {kind}"
    )
    spread = [[name, int(c.min()), float(np.median(c)), int(c.max())] for name, c in counts.items()]
    table("images per class", ["part", "min", "median", "max"], spread)
    tell_classes(data.class_names, {"train": data.train.target, "test": data.test.target})
    say(
        "the test part is the published one, whole"
        if data.official_test
        else "the test part is not the published one: set no published score beside scores on it"
    )
    for note in data.notes:
        say(f"note: {note}")
    say(f"fingerprint {data.fingerprint}")


def _tell_equal(equal: dict[str, Any]) -> None:
    for text in _told(equal).values():
        say(text)


def _told(equal: dict[str, Any]) -> dict[str, str]:
    """Return a sentence for each kind of equal images."""
    where = {
        "within_train": "training images repeat another one",
        "within_test": "test images repeat another one",
        "between": "test images are also learned from",
    }
    found = {}
    for kind, told in where.items():
        other = f", {equal[kind]['other_class']} of them under another class" if equal[kind]["images"] else ""
        found[kind] = f"{equal[kind]['images']} {told}, pixel by pixel{other}"
    return found
