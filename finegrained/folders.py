"""Read pictures laid out in one folder per class, with or without folders for the parts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from finegrained.class_tables import TITLES, class_table, normalised, official_order
from finegrained.reading import SPLITS, FineReading, ListedImage, Lists, ReadingRules, finish
from finetune.errors import DataError, listing

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


def read_class_folders(root: Path, rules: ReadingRules | None = None) -> FineReading:
    """Read train/, val/ (or valid/), test/ with one folder per class, or the class folders alone.

    A folder that holds pictures is a class, and its path within its part is the class's name; so the class
    "C/V Van" that a copy script put in C/V Van/ is whole again. Classes stand in the order of their names,
    upper case first, unless all of them are classes of CUB-200-2011 or Stanford Cars: then in the official
    order and spelling, since sorted car folders are not in it. Without parts, `split` is empty throughout.

    Raises DataError where there is no class folder, where pictures lie among the class folders or a class
    lies within another, where two folders are one class, and for links that lead out of the root.
    """
    rules = rules or ReadingRules()
    parts = part_folders(root)
    found = {part: dict(_classes(root / folder)) for part, folder in (parts or {"": "."}).items()}
    names, notices = _class_list(root, found)
    place = {normalised(name): index for index, name in enumerate(names)}
    rows = []
    others: Counter[str] = Counter()
    for part, classes in found.items():
        for name, files in classes.items():
            folder = PurePosixPath(parts.get(part, "")) / name
            paths = [(folder / file).as_posix() for file in files if _is_picture(file)]
            others.update(PurePosixPath(file).suffix or file for file in files if not _is_picture(file))
            rows += [ListedImage(path, place[normalised(name)], part, path) for path in paths]
    empty = [
        name for part, classes in found.items() for name in _empty_folders(root, parts.get(part, ""), classes)
    ]
    if empty:
        notices.append(
            f"{len(empty)} folders hold no picture and are no class there: {', '.join(empty[:10])}"
        )
    if others:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(5))
        notices.append(f"{others.total()} files are no pictures by their ending and are left out: {kinds}")
    return finish(Lists("folders", root, names, rows, notices=notices), rules)


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
    return {part: parts[part] for part in SPLITS if part in parts} if "train" in parts else {}


def holds_class_folders(root: Path) -> bool:
    """Tell whether some folder in `root` holds a picture."""
    return any(any(map(_is_picture, _files(root / name))) for name in _subfolders(root))


def _class_list(
    root: Path, found: Mapping[str, Mapping[str, list[str]]]
) -> tuple[tuple[str, ...], list[str]]:
    names = sorted({name for classes in found.values() for name in classes})
    if not names:
        raise DataError(
            f"{root} holds no folder with pictures; put each class's pictures in a folder of its own"
        )
    same = [" and ".join(twins) for twins in _twins(names)]
    if same:
        raise DataError(f"{root}: two folders are one class once / is written as -:\n{listing(same)}")
    official = official_order(names)
    if official is None:
        return tuple(names), []
    table, ordered = official
    total = len(class_table(table))
    told = (
        f"all {len(ordered)} classes are {TITLES[table]}'s ({total} in all) and stand in its official order; "
        "folders do not say whether the parts are the official ones, so no published score is on them"
    )
    return ordered, [told]


def _empty_folders(root: Path, part: str, classes: Mapping[str, list[str]]) -> list[str]:
    """Return the folders of a part, from the root, in or below which no picture lies."""
    used = {PurePosixPath(name).parts[0] for name in classes}
    return [(PurePosixPath(part) / name).as_posix() for name in sorted({*_subfolders(root / part)} - used)]


def _twins(names: list[str]) -> Iterator[list[str]]:
    for key, count in Counter(map(normalised, names)).items():
        if count > 1:
            yield [name for name in names if normalised(name) == key]


def _classes(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the path and the sorted file names of every folder under `folder` that holds pictures."""
    found = dict(_walk(folder))
    loose = found.pop(".", [])
    if loose:
        files = listing([f"{folder / name}" for name in loose])
        raise DataError(f"{len(loose)} pictures lie beside the class folders, in no class:\n{files}")
    inner = [name for name in found if any(map(found.__contains__, _above(name)))]
    if inner:
        raise DataError(f"{folder}: classes lie within classes; move them apart:\n{listing(inner)}")
    yield from found.items()


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for top, inner, files in os.walk(folder, followlinks=True):
        inner[:] = sorted(name for name in inner if _is_seen(name) and not _leads_back(Path(top, name)))
        seen = sorted(filter(_is_seen, files))
        if any(map(_is_picture, seen)):
            yield Path(top).relative_to(folder).as_posix(), seen


def _leads_back(folder: Path) -> bool:
    """Tell whether a link leads to a folder that it lies in: it holds nothing new."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _above(name: str) -> list[str]:
    return [str(path) for path in PurePosixPath(name).parents][:-1]


def _subfolders(root: Path) -> list[str]:
    return [entry.name for entry in os.scandir(root) if entry.is_dir() and _is_seen(entry.name)]


def _files(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if _is_seen(entry.name) and entry.is_file()]


def _is_seen(name: str) -> bool:
    return not name.startswith(".") and name not in UNSEEN


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES)
