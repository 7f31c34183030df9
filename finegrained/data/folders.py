"""Read images laid out in one folder per class, with or without folders for the parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from finegrained.data.class_names import TITLES, class_table, official_order
from finegrained.data.reading import FineReading, ListedImage, Lists, ReadingRules, finish
from finetune.errors import DataError, listing
from finetune.images.class_names import normalised
from finetune.images.folders import list_class_folders, part_folders


def read_class_folders(root: Path, rules: ReadingRules | None = None) -> FineReading:
    """Read train/, val/ (or valid/), test/ with one folder per class, or the class folders alone.

    A folder that holds images is a class, and its path within its part is the class's name; so the class
    "C/V Van" that a copy script put in C/V Van/ is whole again. Classes stand in the order of their names,
    upper case first, unless all of them are classes of CUB-200-2011 or Stanford Cars: then in the official
    order and spelling, since sorted car folders are not in it. Without parts, `split` is empty throughout.

    Raises DataError where there is no class folder, where images lie among the class folders or a class
    lies within another, where two folders are one class, and for links that lead out of the root.
    """
    found = list_class_folders(root, part_folders(root))
    names, notices = _class_list(root, found.class_names)
    place = {normalised(name): index for index, name in enumerate(names)}
    rows = [ListedImage(path, place[normalised(name)], part, path) for part, name, path in found.pictures]
    lists = Lists("folders", root, names, rows, notices=[*notices, *found.notices])
    return finish(lists, rules or ReadingRules())


def _class_list(root: Path, names: list[str]) -> tuple[tuple[str, ...], list[str]]:
    if not names:
        raise DataError(f"{root} holds no folder with images; put each class's images in a folder of its own")
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


def _twins(names: list[str]) -> Iterator[list[str]]:
    for key, count in Counter(map(normalised, names)).items():
        if count > 1:
            yield [name for name in names if normalised(name) == key]
