"""Example images for the demo: a folder of them, in which a folder per class gives the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from apps.predict.inputs import PICTURE_SUFFIXES, natural_key
from finetune.errors import UsageError
from finetune.images.class_names import normalised
from finetune.images.decode import BadImageError
from finetune.images.preprocess import center_crop, resize
from finetune.images.streams.guard import decode_guarded

LIMIT = 24
THUMBNAIL = 112  # px


@dataclass(frozen=True)
class Example:
    """One image to choose from.

    Args:
        path: where it lies.
        class_name: its true class, from the folder it lies in; None where that folder is no class.
        thumbnail: uint8 (`THUMBNAIL`, `THUMBNAIL`, 3) RGB, the middle of the image.
        digest: SHA-256 of the file: the same image is known again wherever a copy of it lies.
    """

    path: Path
    class_name: str | None
    thumbnail: np.ndarray = field(repr=False)
    digest: str


@dataclass(frozen=True)
class Examples:
    """The images that one tab offers.

    Args:
        items: the images, a few of every class.
        notices: what was left out and why, one sentence each.
    """

    items: tuple[Example, ...] = ()
    notices: tuple[str, ...] = ()

    def class_of(self, path: Path) -> str | None:
        """Return the true class of a file with the content of an example; None for any other file."""
        known = {item.digest: item.class_name for item in self.items}
        return known.get(digest(path)) if known else None

    def at(self, places: object) -> list[Path]:
        """Return the images at these places; what is no place of an example is left out."""
        numbers = places if isinstance(places, list) else []
        return [self.items[n].path for n in numbers if type(n) is int and 0 <= n < len(self.items)]

    def holds(self, path: Path) -> bool:
        """Return whether `path` is one of the examples."""
        return any(item.path == path for item in self.items)


def read_examples(folder: Path, class_names: Sequence[str], limit: int = LIMIT) -> Examples:
    """Return images of a folder for a tab with these classes.

    An image in a subfolder named like a class ("-" for a "/") shows that class; one that lies in the folder
    itself has no known class. Subfolders with other names are not this tab's and are left out. With more than
    `limit` images every class in turn gives one until there are enough. Images that cannot be read are
    left out with a notice; an image that lies under two classes is shown without a true one.

    Raises UsageError where there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"--examples {folder}: there is no such folder")
    groups: list[tuple[str | None, list[Path]]] = [(None, _pictures(folder))]
    folders = [(name, normalised(name)) for name in class_names]
    groups += [(name, _pictures(folder / own)) for name, own in folders if _is_plain_folder(folder, own)]
    items: dict[str, Example] = {}
    notices = []
    for class_name, path in _in_turn(groups):
        if len(items) == limit:
            break
        try:
            item = _read(path, class_name)
        except (BadImageError, OSError) as error:
            reason = error.reason if isinstance(error, BadImageError) else str(error)
            notices.append(f"example {path.name} is left out: {reason}")
            continue
        twin = items.get(item.digest)
        if twin is None:
            items[item.digest] = item
        elif twin.class_name != class_name:
            items[item.digest] = replace(twin, class_name=None)
            notices.append(f"example {path.name} lies under two classes: it is shown without a true one")
    return Examples(tuple(items.values()), tuple(notices))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _is_plain_folder(folder: Path, name: str) -> bool:
    # A class name comes from a model file: one such as ".." must not lead out of the folder.
    return Path(name).name == name and name not in ("", ".", "..") and (folder / name).is_dir()


def _pictures(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file()]
    return sorted(
        (file for file in files if not file.name.startswith(".")), key=lambda file: natural_key(file.name)
    )


def _in_turn(groups: Sequence[tuple[str | None, list[Path]]]) -> Iterable[tuple[str | None, Path]]:
    """Yield the first image of every group, then the second of every group, and so on."""
    for place in range(max((len(files) for _, files in groups), default=0)):
        for class_name, files in groups:
            if place < len(files):
                yield class_name, files[place]


def _read(path: Path, class_name: str | None) -> Example:
    image = decode_guarded(path)
    side = min(image.shape[:2])
    thumbnail = resize(np.ascontiguousarray(center_crop(image, side)), THUMBNAIL, THUMBNAIL)
    return Example(path, class_name, thumbnail, digest(path))
