"""Find out which data set lies in a folder, and where in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finegrained.data import cars, cub, folders
from finegrained.data.reading import OFFICIAL_CARS, OFFICIAL_CUB, FineReading, ReadingRules
from finetune.errors import DataError, UsageError, listing
from finetune.images.folders import PART_NAMES, find_class_folders, stand_in

# Folders that lie inside CUB-200 of 2010, and a line of its lists.
INNER_2010 = ("lists", "annotations-mat")
LINE_2010 = re.compile(r"\ufeff?\d{3}\.[^/\s]+/[^/\s]+\.jpg\s*$", re.IGNORECASE)

# Folders that lie inside a data set: where one of them is given, the data set is looked for around it.
INNER = frozenset(
    (
        "images",
        "parts",
        "attributes",
        "devkit",
        "car_devkit",
        "car_ims",
        "cars_train",
        "cars_test",
        "car_data",
    )
) | frozenset(PART_NAMES)


@dataclass(frozen=True)
class Layout:
    """A layout by name ("cub", "cars-O", "cars-S", "cars-K", "folders") and the folder it starts at.

    `notices` say where it was found when that is not the folder given.
    """

    name: str
    root: Path
    notices: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Kind:
    """How a layout is recognised and read; `looked_for` is what the error says."""

    looked_for: str
    stands_in: Callable[[Path], bool]
    read: Callable[[Path, ReadingRules], FineReading]


def _is_cub(folder: Path) -> bool:
    return (folder / "images.txt").is_file() and (folder / "image_class_labels.txt").is_file()


def _is_cars_single(folder: Path) -> bool:
    return (folder / cars.SINGLE).is_file()


def _is_cars_split(folder: Path) -> bool:
    """Return whether layout S stands here; where O's list does too, S needs its images."""
    alone = not _is_cars_single(folder) or (folder / "cars_train").is_dir()
    return alone and cars.find_devkit(folder) is not None


def _is_cars_by_class(folder: Path) -> bool:
    return (folder / cars.LISTS["train"]).is_file() and (folder / cars.NAMES).is_file()


KINDS = {
    "cub": _Kind("images.txt and image_class_labels.txt (CUB-200-2011)", _is_cub, cub.read_cub),
    "cars-S": _Kind(
        "devkit/cars_train_annos.mat (Stanford Cars, train and test apart)",
        _is_cars_split,
        cars.read_cars_split,
    ),
    "cars-O": _Kind("cars_annos.mat (Stanford Cars, one folder)", _is_cars_single, cars.read_cars_single),
    "cars-K": _Kind(
        "anno_train.csv and names.csv (Stanford Cars by class)",
        _is_cars_by_class,
        cars.read_cars_by_class,
    ),
    "folders": _Kind(
        "a folder of images for each class, alone or under train/, val/, test/",
        stand_in,
        folders.read_class_folders,
    ),
}


def detect_layout(root: Path, wanted: str = "auto") -> Layout:
    """Return the layout of the data set in `root` and where it starts.

    `root` may be the data set's folder, a folder around it (also one doubled by unpacking, such as
    CUB_200_2011/CUB_200_2011), or one of the folders inside it (images/, cars_train/, ...). `wanted` names a
    layout to look for; "auto" takes lists before mere folders, and layout S of Stanford Cars before O.

    Raises DataError where nothing is found, saying what was looked for, what was found instead and where
    such data come from; where several data sets lie in `root`; for CUB-200 of 2010; for the list of one Cars
    layout with the images of the other. UsageError for a layout that is not known.
    """
    choices = ("auto", *KINDS)
    if wanted not in choices:
        raise UsageError(f"layout {wanted!r} is not known; choose one of {', '.join(choices)}")
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder of data")
    if wanted != "folders":
        _refuse_cub_2010(_around(root))
    kinds = {name: kind for name, kind in KINDS.items() if wanted in ("auto", name)}
    for near in _places(root):
        found = _listed_in(near, kinds)
        if found is not None:
            return Layout(found[0], found[1], _where(root, *found))
    if wanted != "folders":
        _refuse_cub_2010([folder for near in _places(root) for folder in near])
    if wanted == "auto":
        for near in _places(root):
            for folder in near:
                cars.refuse_lists_missing(folder)
    place = find_class_folders(root) if "folders" in kinds else None
    if place is None:
        raise DataError(_nothing_found(root, kinds))
    return Layout("folders", place, _where(root, "folders", place))


def read_layout(layout: Layout, rules: ReadingRules) -> FineReading:
    """Read the data set of a layout that `detect_layout` returned."""
    reading = KINDS[layout.name].read(layout.root, rules)
    reading.report["notices"] = [*layout.notices, *reading.report["notices"]]
    return reading


def _places(root: Path) -> Iterator[list[Path]]:
    """Yield the folders to look in, nearest first; those of one list are equally near."""
    yield [root]
    inside = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    yield inside
    yield [entry / entry.name for entry in inside if (entry / entry.name).is_dir()]
    above = root.absolute()
    while above.name in INNER:
        above = above.parent
        yield [above]


def _listed_in(near: list[Path], kinds: Mapping[str, _Kind]) -> tuple[str, Path] | None:
    """Return the data set with lists in one of the folders `near`: its layout and its folder."""
    lists = {name: kind for name, kind in kinds.items() if name != "folders"}
    found = [(name, place) for place in near for name, kind in lists.items() if kind.stands_in(place)]
    places = list(dict.fromkeys(place for _, place in found))
    if len(places) > 1:
        raise DataError(
            f"several data sets lie here; give one of them as --data.root:\n{listing(list(map(str, places)))}"
        )
    return found[0] if found else None


def _where(root: Path, name: str, found: Path) -> tuple[str, ...]:
    notices = [] if found == root else [f"the data set was found in {found}"]
    if name == "cars-S" and _is_cars_single(found):
        notices.append("both cars_annos.mat and devkit/ are there; layout cars-S is used (--data.layout)")
    return tuple(notices)


def _around(root: Path) -> list[Path]:
    """Return `root`, and the folder around it where it is one of the folders within a data set."""
    above = root.absolute()
    return [root, above.parent] if above.name in (*INNER, *INNER_2010) else [root]


def _refuse_cub_2010(places: Iterable[Path]) -> None:
    for place in filter(_is_cub_2010, places):
        raise DataError(
            f"{place} holds lists/train.txt and lists/test.txt of birds: so lies CUB-200 of 2010 (6,033 "
            "images), whose scores do not compare. To train on its class folders as data of your own, say "
            f"--data.layout folders. CUB-200-2011 comes from {OFFICIAL_CUB.source}"
        )


def _is_cub_2010(folder: Path) -> bool:
    """Return whether lists/ holds CUB's lists of 2010, 001.Black_footed_Albatross/NAME.jpg in every line."""
    lists = [folder / "lists" / name for name in ("train.txt", "test.txt")]
    if not all(map(Path.is_file, lists)):
        return False
    with lists[0].open(encoding="utf-8", errors="replace") as stream:
        return LINE_2010.match(stream.readline(1000)) is not None


def _nothing_found(root: Path, kinds: Mapping[str, _Kind]) -> str:
    entries = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in root.iterdir())
    looked = listing([f"{name}: {kind.looked_for}" for name, kind in kinds.items()])
    return (
        f"no data set was found in {root}. Looked there, in its folders and around it for:\n{looked}\n"
        f"found:\n{listing(entries) or '  nothing'}\n"
        f"CUB-200-2011: {OFFICIAL_CUB.source}\nStanford Cars: {OFFICIAL_CARS.source}"
    )
