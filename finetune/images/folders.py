"""Walk images laid out in one folder per class, with or without folders for the parts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from finetune.errors import DataError, listing

PARTS = ("train", "val", "test")
PART_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif")
UNSEEN = ("__MACOSX",)


class FolderPicture(NamedTuple):
    """An image's part ("" for none), the name of its class, and its path from the root."""

    part: str
    class_name: str
    path: str


class Walk(NamedTuple):
    """The sorted file names of each folder with images, by its path, and other paths to folders walked."""

    files: dict[str, list[str]]
    again: list[str]


@dataclass(frozen=True)
class ClassFolders:
    """The images in class folders, and what should be reported of what lies beside them."""

    pictures: list[FolderPicture]
    notices: list[str]

    @property
    def class_names(self) -> list[str]:
        """The classes of all parts, sorted, upper case first."""
        return sorted({picture.class_name for picture in self.pictures})


def list_class_folders(root: Path, parts: Mapping[str, str]) -> ClassFolders:
    """Return every image in the class folders of these parts, part by part, sorted by path.

    A folder that holds images is a class, and its path within its part is the class's name. Links to
    folders are followed; no folder is listed twice in one part, and a link to one that is listed is reported.

    Args:
        root: the data set's folder.
        parts: each part's folder in it, as `part_folders` returns them; {} where classes lie in the root.

    Raises:
        DataError: images lie among the class folders, or a class lies within another.
    """
    walks = {part: _walk(root / folder) for part, folder in (parts or {"": "."}).items()}
    pictures: list[FolderPicture] = []
    others: Counter[str] = Counter()
    empty: list[str] = []
    again: list[str] = []
    for part, walk in walks.items():
        inner = parts.get(part, "")
        classes = _classes(root / (inner or "."), walk.files)
        for name, files in classes.items():
            folder = PurePosixPath(inner) / name
            paths = [(folder / file).as_posix() for file in files if is_picture(file)]
            pictures += [FolderPicture(part, name, path) for path in paths]
            others.update(PurePosixPath(file).suffix or file for file in files if not is_picture(file))
        empty += _empty_folders(root, inner, [*classes, *walk.again])
        again += [(PurePosixPath(inner) / name).as_posix() for name in walk.again]
    notices = []
    if again:
        told = ", ".join(again[:10])
        notices.append(f"{len(again)} linked folders are listed under another path already: {told}")
    if empty:
        told = ", ".join(empty[:10])
        notices.append(f"{len(empty)} folders hold no image and are no class there: {told}")
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        notices.append(f"{others.total()} files are no images by their ending and are left out: {kinds}")
    return ClassFolders(pictures, notices)


def part_folders(root: Path) -> dict[str, str]:
    """Return the folders of a data set's parts, {"train": "train", "val": "valid", ...}; {} for no parts.

    There are parts where there is a training folder. Raises DataError when two folders are one part.
    """
    parts: dict[str, str] = {}
    for name in sorted(_subfolders(root)):
        part = PART_NAMES.get(name.lower())
        if part is not None and part in parts:
            raise DataError(f"{root}: both {parts[part]}/ and {name}/ are the {part} part; keep one")
        if part is not None:
            parts[part] = name
    return {part: parts[part] for part in PARTS if part in parts} if "train" in parts else {}


def stand_in(root: Path) -> bool:
    """Return whether class folders stand in `root`, with or without folders for the parts."""
    return bool(part_folders(root)) or any(
        any(map(is_picture, _files(root / name))) for name in _subfolders(root)
    )


def find_class_folders(root: Path) -> Path | None:
    """Return where class folders start: around a part's folder, at `root`, or below single folders."""
    parent = root.absolute().parent
    if root.absolute().name.lower() in PART_NAMES and len(part_folders(parent)) > 1:
        return parent
    place = root
    for _ in range(3):
        if stand_in(place):
            return place
        inside = [entry for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        if len(inside) != 1:
            return None
        place = inside[0]
    return None


def _classes(folder: Path, files: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the folders of a walk, refused where they are no classes side by side."""
    found = dict(files)
    loose = found.pop(".", [])
    if loose:
        lines = listing([f"{folder / name}" for name in loose])
        raise DataError(f"{len(loose)} images lie beside the class folders, in no class:\n{lines}")
    inner = [name for name in found if any(map(found.__contains__, _above(name)))]
    if inner:
        raise DataError(f"{folder}: classes lie within classes; move them apart:\n{listing(inner)}")
    return found


def _empty_folders(root: Path, part: str, classes: Iterable[str]) -> list[str]:
    """Return the folders of a part, from the root, in or below which no class and no known link lies."""
    used = {PurePosixPath(name).parts[0] for name in classes}
    return [(PurePosixPath(part) / name).as_posix() for name in sorted({*_subfolders(root / part)} - used)]


def is_picture(name: str) -> bool:
    """Return whether a file is an image by its ending."""
    return name.lower().endswith(PICTURES)


def _walk(folder: Path) -> Walk:
    """Walk a folder, then what links in it lead to, each folder once however many links lead to it."""
    files: dict[str, list[str]] = {}
    again: list[str] = []
    walked: set[Path] = set()
    starts = [folder]
    for start in starts:  # grows by the links met
        if start.resolve() in walked:
            again.append(start.relative_to(folder).as_posix())
            continue
        for top, inner, names in os.walk(start):
            place = Path(top)
            inner[:] = [name for name in sorted(filter(_is_seen, inner)) if not _leads_back(place / name)]
            if place.resolve() in walked:
                inner.clear()
                again.append(place.relative_to(folder).as_posix())
                continue
            walked.add(place.resolve())
            starts += [place / name for name in inner if (place / name).is_symlink()]
            if any(map(is_picture, filter(_is_seen, names))):
                files[place.relative_to(folder).as_posix()] = sorted(filter(_is_seen, names))
    return Walk({name: files[name] for name in sorted(files, key=_steps)}, sorted(again, key=_steps))


def _steps(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts


def _leads_back(folder: Path) -> bool:
    """Return whether a link leads to a folder that it lies in: it holds nothing new."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _above(name: str) -> list[str]:
    return [str(path) for path in PurePosixPath(name).parents][:-1]


def _subfolders(root: Path) -> list[str]:
    return [entry.name for entry in os.scandir(root) if entry.is_dir() and _is_seen(entry.name)]


def _files(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if _is_seen(entry.name) and entry.is_file()]


def _is_seen(name: str) -> bool:
    return not name.startswith(".") and name not in UNSEEN
