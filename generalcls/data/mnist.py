"""Read MNIST's four idx files, packed with gzip or not."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

from finetune.errors import DataError
from generalcls.data.image_set import ImageSet, Reading, Whole, labels_within
from generalcls.data.locate import Layout, find_place

SOURCE = (
    "torchvision.datasets.MNIST(root, download=True), or http://yann.lecun.com/exdb/mnist/ (LeCun et al.)"
)
SIDE = 28
CLASS_NAMES = tuple("0123456789")
UBYTE = 8  # the idx code of unsigned bytes

# MD5 of the unpacked files: copies are packed again, and their packed checksums then differ.
CHECKSUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
LAYOUT = Layout(
    "idx",
    ("MNIST/raw", "raw", ""),
    ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"),
    "MNIST/raw/" + ", ".join(CHECKSUMS) + " (each with or without .gz)",
)


def read_mnist(root: str | None, *, subset: bool = False) -> Reading:
    """Return MNIST's 60,000 training and 10,000 test digits, grey, 28 x 28.

    Packed files are read as they are: nothing is written beside them.

    Args:
        root: a folder with MNIST/raw/, its parent or its child.
        subset: accept files in this format that are not the published ones.

    Raises:
        DataError: a file that is missing, damaged, cut short or another than the published one.
    """
    place = find_place("MNIST", root, [LAYOUT], SOURCE)
    strangers: list[str] = []
    train, test = (_read_part(place.folder, part, strangers) for part in ("train", "t10k"))
    whole = Whole("MNIST", 60_000, 10_000, SOURCE, subset)
    notes = whole.difference(len(train), len(test), tuple(strangers))
    return Reading(train, test, CLASS_NAMES, official=not notes, notes=(*place.notes, *notes))


def read_idx(file: Path, content: bytes, dimensions: int) -> np.ndarray:
    """Return the array of unsigned bytes in an idx file.

    The format: two zero bytes, the type's code (8 for unsigned bytes), the number of dimensions, each
    dimension as a big-endian 32-bit number, then the values, the last dimension running fastest.

    Args:
        file: for the message.
        content: the unpacked bytes.
        dimensions: how many there must be.

    Raises:
        DataError: another magic number, or more or fewer bytes than the header says.

    >>> read_idx(Path("labels"), bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), 1).tolist()
    [7, 9]
    """
    wanted = bytes((0, 0, UBYTE, dimensions))
    if content[:4] != wanted:
        raise DataError(
            f"{file} is no idx file of unsigned bytes with {dimensions} dimensions: it starts with "
            f"{content[:4].hex(' ') or 'nothing'}, not {wanted.hex(' ')}; fetch it again"
        )
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{file} is cut short or damaged: its header says {math.prod(shape)} values "
            f"({' x '.join(map(str, shape))}), {max(0, len(content) - start)} follow; fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _read_part(folder: Path, part: str, strangers: list[str]) -> ImageSet:
    image_file, images = _read_array(folder, f"{part}-images-idx3-ubyte", 3, strangers)
    label_file, labels = _read_array(folder, f"{part}-labels-idx1-ubyte", 1, strangers)
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(
            f"{image_file}: images are {SIDE} x {SIDE}, got {images.shape[1]} x {images.shape[2]}"
        )
    if len(images) != len(labels):
        raise DataError(f"{image_file} holds {len(images)} images, {label_file.name} {len(labels)} labels")
    return ImageSet(images[..., None], labels_within(labels, 0, 9, str(label_file)))


def _read_array(folder: Path, name: str, dimensions: int, strangers: list[str]) -> tuple[Path, np.ndarray]:
    plain, packed = folder / name, folder / f"{name}.gz"
    file = plain if plain.is_file() else packed
    if not file.is_file():
        raise DataError(f"{plain} (or {packed.name}) is missing; place it there. Where from: {SOURCE}")
    try:
        content = file.read_bytes()
        if file == packed:
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}; fetch it again") from error
    array = read_idx(file, content, dimensions)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != CHECKSUMS[name]:
        strangers.append(file.name)
    return file, array
