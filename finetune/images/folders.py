"""Walk images laid out in one folder per class, with or without folders for the parts."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from unicodedata import normalize

from finetune.errors import DataError, listing
from finetune.images.cells import one_spelling
from finetune.images.endings import (
    SYSTEM_FOLDERS,
    UNREAD_ENDINGS,
    dead_links,
    ending,
    hidden_notice,
    is_picture,
    is_seen,
    named,
    unread_notices,
)

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
KEEPERS = (".git", ".hg", ".svn")  # what a program keeps for itself is no part of a data set
# A folder's name that says part of a data set: cars_train, test2017, my-validation.
_PART_LIKE = re.compile(
    r"(?:.*[^a-z])?(?:train|training|val|valid|validation|test|testing)(?:[^a-z].*)?", re.IGNORECASE
)

__all__ = [
    "PARTS",
    "PART_NAMES",
    "ClassFolders",
    "FolderPicture",
    "find_class_folders",
    "is_picture",
    "list_class_folders",
    "part_folders",
    "stand_in",
]


class FolderPicture(NamedTuple):
    """An image's part ("" for none), the name of its class, and its path from the root."""

    part: str
    class_name: str
    path: str


@dataclass
class Walk:
    """What was met in a part.

    Args:
        files: the sorted file names of each folder with images, by its path.
        again: other paths to folders walked.
        strange: names of files in folders without an image, by the folder's path.
        hidden: how many images each hidden file or folder holds, by its path.
        walked: every folder that was looked into, where it really lies.
        dead: links that lead nowhere, images by their ending left out.
    """

    files: dict[str, list[str]] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    strange: dict[str, list[str]] = field(default_factory=dict)
    hidden: dict[str, int] = field(default_factory=dict)
    walked: set[Path] = field(default_factory=set)
    dead: list[str] = field(default_factory=list)


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

    A folder that holds images is a class, and its path within its part is the class's name, in Unicode's
    composed form: two forms of one name are one class. Links to folders are followed; no folder is listed
    twice in one part, and a link to one that is listed is reported. So is all that is not used: files and
    folders that are hidden, no images, or in a format that is not read, and what lies beside the parts.

    Args:
        root: the data set's folder.
        parts: each part's folder in it, as `part_folders` returns them; {} where classes lie in the root.

    Raises:
        DataError: images lie among the class folders, a class lies within another, the folders are parts
            of a data set by their names, or a folder cannot be listed.
    """
    walks = {part: _walk(root / folder) for part, folder in (parts or {"": "."}).items()}
    pictures: list[FolderPicture] = []
    others: list[str] = []
    empty: dict[str, bool] = {}
    for part, walk in walks.items():
        inner = PurePosixPath(parts.get(part, ""))
        classes = _classes(root / inner, walk.files)
        for name, files in classes.items():
            paths = [(inner / name / file).as_posix() for file in files if is_picture(file)]
            pictures += [FolderPicture(part, one_spelling(name), path) for path in paths]
            others += [file for file in files if not is_picture(file)]
        bare = _empty_folders(root / inner, [*classes, *walk.again])
        empty |= {(inner / name).as_posix(): _holds_unread(walk, name) for name in bare}
        others += [
            name for names in walk.strange.values() for name in names if ending(name) in UNREAD_ENDINGS
        ]
    if not parts:
        _refuse_parts(root, pictures)
    again = [(parts.get(part, ""), name) for part, walk in walks.items() for name in walk.again]
    walked = {place for walk in walks.values() for place in walk.walked}
    around = Walk()
    if parts:  # beside them
        _count_hidden(around, root, root, [place.name for place in root.iterdir()])
    hidden = around.hidden | {
        (PurePosixPath(parts.get(part, "")) / name).as_posix(): count
        for part, walk in walks.items()
        for name, count in walk.hidden.items()
    }
    dead = [str(PurePosixPath(parts.get(part, "")) / name) for part in walks for name in walks[part].dead]
    dead += dead_links(root, os.listdir(root)) if parts else []  # noqa: PTH208
    notices = [
        *named("links lead nowhere and are left out", dead),
        *named(
            "linked folders are listed under another path already", [str(PurePosixPath(*p)) for p in again]
        ),
        *named(
            "folders hold no image and are no class there", [name for name, odd in empty.items() if not odd]
        ),
        *named(
            "folders hold images in formats that are not read alone and are no class there",
            [name for name, odd in empty.items() if odd],
        ),
        *unread_notices(others),
        *hidden_notice(hidden),
        *(_beside(root, parts, walked) if parts else []),
        *_spelling_notices(pictures),
    ]
    return ClassFolders(pictures, notices)


def _holds_unread(walk: Walk, folder: str) -> bool:
    """Return whether a folder or one below it holds images in a format that is not read."""
    return any(
        ending(name) in UNREAD_ENDINGS
        for place, names in walk.strange.items()
        if PurePosixPath(place).parts[:1] == (folder,)
        for name in names
    )


def _beside(root: Path, parts: Mapping[str, str], walked: set[Path]) -> list[str]:
    """Return notices on folders with images, and on images, that lie beside the parts and in none of them."""
    beside = " and ".join(f"{folder}/" for folder in parts.values())
    others = [
        name
        for name in sorted(_subfolders(root))
        if name.lower() not in PART_NAMES and (root / name).resolve() not in walked
    ]
    counts = {name: count for name in others if (count := _count_pictures(root / name))}
    told = [f"{name}/ ({count} images)" for name, count in counts.items()]
    loose = sum(map(is_picture, _files(root)))
    notices = named(f"folders beside {beside} belong to no part and are not used", told)
    if loose:
        notices.append(f"{loose} images beside {beside} belong to no part and no class and are not used")
    return notices


def _count_pictures(folder: Path) -> int:
    return sum(sum(map(is_picture, names)) for _, _, names in os.walk(folder))


def _spelling_notices(pictures: Iterable[FolderPicture]) -> list[str]:
    """Return notices on classes whose folders are spelled in two ways, and on folders within folders."""
    spelled: dict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        depth = len(PurePosixPath(picture.class_name).parts)
        spelled[picture.class_name].add("/".join(PurePosixPath(picture.path).parts[-depth - 1 : -1]))
    twice = [name for name, forms in spelled.items() if len(forms) > 1]
    composed = [name for name in twice if {normalize("NFC", form) for form in spelled[name]} == {name}]
    blanks = [name for name in twice if name not in composed]
    have, one = "classes have folders", "which are read as one class"
    nested = sorted({name for name in spelled if "/" in name})
    return [
        *named(f"{have} in two Unicode forms of the name, {one}", composed),
        *named(f"{have} with blanks around the name and without, {one}", blanks),
        *named("classes are folders within folders, and their paths are their names", nested),
    ]


def _refuse_parts(root: Path, pictures: Iterable[FolderPicture]) -> None:
    """Raise DataError where all the classes of a folder without parts are parts by their names."""
    names = sorted({PurePosixPath(picture.class_name).parts[0] for picture in pictures})
    if len(names) > 1 and all(map(_PART_LIKE.fullmatch, names)):
        raise DataError(
            f"{root}: its folders {', '.join(names)} are parts of a data set by their names, not classes. "
            "Put one folder per class in train/ and in test/ (or val/), or give a table (--data.table)"
        )


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
        inside = [entry for entry in place.iterdir() if entry.is_dir() and is_seen(entry.name)]
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


def _empty_folders(part: Path, classes: Iterable[str]) -> list[str]:
    """Return the folders in a part's folder in or below which no class and no known link lies."""
    used = {PurePosixPath(name).parts[0] for name in classes}
    return sorted({*_subfolders(part)} - used)


def _walk(folder: Path) -> Walk:
    """Walk a folder, then what links in it lead to, each folder once however many links lead to it."""
    found = Walk()
    walked = found.walked
    starts = [folder]
    for start in starts:  # grows by the links met
        if start.resolve() in walked:
            found.again.append(start.relative_to(folder).as_posix())
            continue
        for top, inner, names in os.walk(start, onerror=_refuse_unlisted):
            place = Path(top)
            found.dead += [(place / name).relative_to(folder).as_posix() for name in dead_links(place, names)]
            _count_hidden(found, folder, place, [*inner, *names])
            inner[:] = [name for name in sorted(filter(is_seen, inner)) if not _leads_back(place / name)]
            if place.resolve() in walked:
                inner.clear()
                found.again.append(place.relative_to(folder).as_posix())
                continue
            walked.add(place.resolve())
            starts += [place / name for name in inner if (place / name).is_symlink()]
            seen = sorted(filter(is_seen, names))
            kept = found.files if any(map(is_picture, seen)) else found.strange
            kept[place.relative_to(folder).as_posix()] = seen
    found.files = {name: found.files[name] for name in sorted(found.files, key=_steps)}
    found.again.sort(key=_steps)
    return found


def _refuse_unlisted(error: OSError) -> None:
    """Raise DataError for a folder that cannot be listed: what lies in it would be passed over."""
    told = f"{error.filename} cannot be listed: {error.strerror}"
    raise DataError(f"{told}; make it readable, or move it elsewhere") from None


def _count_hidden(found: Walk, folder: Path, place: Path, names: Iterable[str]) -> None:
    """Add what is hidden in a folder and holds images; the "._" files of macOS are no images."""
    for name in sorted(name for name in names if not (is_seen(name) or name.startswith("._"))):
        if name in KEEPERS:
            continue
        path = place / name
        count = _count_pictures(path) if path.is_dir() else int(is_picture(name))
        if count and (name not in SYSTEM_FOLDERS or _holds_whole(path)):
            found.hidden[path.relative_to(folder).as_posix()] = count


def _holds_whole(folder: Path) -> bool:
    """Return whether a folder of macOS's archives holds more than the "._" files that belong there."""
    whole = (name for _, _, names in os.walk(folder) for name in names if not name.startswith("._"))
    return any(map(is_picture, whole))


def _steps(name: str) -> tuple[str, ...]:
    return PurePosixPath(name).parts


def _leads_back(folder: Path) -> bool:
    """Return whether a link leads to a folder that it lies in: it holds nothing new."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _above(name: str) -> list[str]:
    return [str(path) for path in PurePosixPath(name).parents][:-1]


def _subfolders(root: Path) -> list[str]:
    return [name for name in os.listdir(root) if is_seen(name) and os.path.isdir(root / name)]  # noqa: PTH112, PTH208


def _files(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if is_seen(name) and os.path.isfile(folder / name)]  # noqa: PTH113, PTH208
