"""Read the cropped digits of Street View House Numbers from their three .mat files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune.errors import DataError
from generalcls.data.image_set import ImageSet, Reading, Whole, labels_within
from generalcls.data.locate import Layout, find_place

SOURCE = "http://ufldl.stanford.edu/housenumbers/ (Netzer), or torchvision.datasets.SVHN(download=True)"
SIDE = 32
CLASS_NAMES = tuple("0123456789")
FILES = {"train": "train_32x32.mat", "test": "test_32x32.mat", "extra": "extra_32x32.mat"}
COUNTS = {"train": 73_257, "test": 26_032, "extra": 531_131}
LAYOUT = Layout(
    "mat",
    ("", "SVHN", "svhn"),
    (FILES["train"], FILES["test"]),
    ", ".join(FILES.values()) + " (the last one is optional)",
)


def read_svhn(
    root: str | None,
    checksums: Callable[[], Mapping[str, str]],
    *,
    extra: bool | Literal["required"] = True,
    subset: bool = False,
) -> Reading:
    """Return the 73,257 training and 26,032 test digits, RGB, 32 x 32; the 531,131 extra ones join training.

    The files' label 10 means the digit 0.

    Args:
        root: a folder with the three files, its parent or its child.
        checksums: returns the files' published MD5 by file name.
        extra: use the extra part where it is there (a note says so where it is not), leave it out, or
            refuse to go on without it.
        subset: accept files in this format that are not the published ones.

    Raises:
        DataError: a file that is missing, damaged, cut short or another than the published one.
    """
    place = find_place("SVHN", root, [LAYOUT], SOURCE)
    there = (place.folder / FILES["extra"]).is_file()
    parts = ["train", "test", *(["extra"] if extra == "required" or (extra and there) else [])]
    files = {part: place.folder / FILES[part] for part in parts}
    published = checksums()
    strangers = tuple(file.name for file in files.values() if _checksum(file) != published[file.name])
    sets = {part: _read_part(file) for part, file in files.items()}
    joins = "extra" in parts
    whole = Whole("SVHN", COUNTS["train"] + joins * COUNTS["extra"], COUNTS["test"], SOURCE, subset)
    train = _join(sets.pop("train"), sets.pop("extra")) if joins else sets.pop("train")
    notes = whole.difference(len(train), len(sets["test"]), strangers)
    told = _told_of_extra(bool(extra), there, place.folder)
    return Reading(train, sets["test"], CLASS_NAMES, not notes, (*place.notes, *told, *notes))


def _told_of_extra(wanted: bool, there: bool, folder: Path) -> tuple[str, ...]:
    if not wanted:
        return ("SVHN's extra part is left out (--data.extra false); the papers trained on it too",)
    if not there:
        return (f"{folder / FILES['extra']} is not there: training is on the training part alone",)
    return ()


def _checksum(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(
            f"{file} cannot be read: {error.strerror}; place it there. Where from: {SOURCE}"
        ) from None


def _read_part(file: Path) -> ImageSet:
    content = _load(file)
    pixels, labels = (np.asarray(content[name]) for name in ("X", "y"))
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (SIDE, SIDE, 3):
        raise DataError(f"{file}: X is uint8 ({SIDE}, {SIDE}, 3, N), got {pixels.dtype} {pixels.shape}")
    target = labels_within(labels.reshape(-1), 1, 10, f"{file} (10 stands for the digit 0)")
    if len(target) != pixels.shape[3]:
        raise DataError(f"{file} holds {pixels.shape[3]} images and {len(target)} labels; fetch it again")
    return ImageSet(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), target % 10)


def _load(file: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(str(file), variable_names=["X", "y"])
    except NotImplementedError:
        raise DataError(f"{file} is of MATLAB's version 7.3; the published file is of version 5") from None
    except Exception as error:  # damaged bytes make the decoder raise anything; the cause stays attached
        raise DataError(f"{file} is no whole .mat file: {error}; fetch it again") from error
    absent = [name for name in ("X", "y") if name not in content]
    if absent:
        raise DataError(
            f"{file} holds no variable {' and no '.join(absent)}; is it of the full-number format? "
            f"The cropped digits are read here: {SOURCE}"
        )
    return content


def _join(first: ImageSet, second: ImageSet) -> ImageSet:
    return ImageSet(
        np.concatenate([first.images, second.images]), np.concatenate([first.target, second.target])
    )
