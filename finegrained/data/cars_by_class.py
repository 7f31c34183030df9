"""Read Stanford Cars from folders by class with lists in CSV (layout K)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from finegrained.data.cars import finish_cars
from finegrained.data.class_names import normalised
from finegrained.data.reading import FineReading, ListedImage, Lists, ReadingRules
from finetune.errors import DataError, listing

NAMES, LISTS = "names.csv", {"train": "anno_train.csv", "test": "anno_test.csv"}
PICTURE_FOLDERS = ("car_data/car_data", "car_data", "")


def read_cars_by_class(root: Path, rules: ReadingRules | None = None) -> FineReading:
    """Read layout K: names.csv, anno_train.csv, anno_test.csv and car_data/car_data/{train,test}/<class>/.

    The lists have no header: file, x1, y1, x2, y2, class; classes count from 1 in the order of names.csv.
    That order holds, not the folders': sorted folders put most classes elsewhere. A class with "/" in its
    name lies in a folder with "-" there, or in a folder within a folder; both are found. Boxes as in
    `finegrained.data.cars.read_cars_single`.

    Raises DataError naming file and line for what cannot be right, for counts that are not the official ones
    unless `rules.subset`, and for missing pictures as the rules say.

    Source: Krause, Stark, Deng, Fei-Fei, "3D Object Representations for Fine-Grained Categorization", 2013,
    as laid out by class on public mirrors.
    """
    rules = rules or ReadingRules()
    files = tuple(root / name for name in (NAMES, *LISTS.values()))
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise DataError(f"{root} lacks {', '.join(absent)} beside the other lists of Stanford Cars by class")
    names = _read_names(root / NAMES)
    base = next(name for name in PICTURE_FOLDERS if not name or (root / name / "train").is_dir())
    rows = [
        row
        for part, name in LISTS.items()
        for row in _read_list(root, root / name, names, f"{base}/{part}".strip("/"))
    ]
    return finish_cars(Lists("cars-K", root, names, rows, files=files), rules)


def _read_names(file: Path) -> tuple[str, ...]:
    return tuple(",".join(cells).strip() for _, cells in _cells(file))


def _cells(file: Path) -> list[tuple[int, list[str]]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            return [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def _read_list(root: Path, file: Path, names: tuple[str, ...], part: str) -> list[ListedImage]:
    folder_of = _class_folders(root / part, names)
    rows, problems = [], []
    for line, cells in _cells(file):
        try:
            name, (x1, y1, x2, y2), number = cells[0].strip(), map(float, cells[1:5]), int(cells[5])
        except (ValueError, IndexError):
            problems.append(f"line {line}: {','.join(cells)} is not file, x1, y1, x2, y2, class")
            continue
        if not 1 <= number <= len(names):
            problems.append(f"line {line}: class {number} is not one of 1 to {len(names)}")
            continue
        path = f"{part}/{folder_of[names[number - 1]]}/{name}"
        split = part.rpartition("/")[2]
        rows.append(ListedImage(path, number - 1, split, f"{split}/{name}", (x1 - 1, y1 - 1, x2, y2)))
    if problems:
        raise DataError(f"{file}: {len(problems)} lines cannot be right:\n{listing(problems)}")
    return rows


def _class_folders(folder: Path, names: tuple[str, ...]) -> Mapping[str, str]:
    """Return each class's folder under `folder`; where none is found, the one it should have."""
    present = {}
    if folder.is_dir():
        present = {normalised(entry.name): entry.name for entry in folder.iterdir() if entry.is_dir()}
    nested = {name: name for name in names if "/" in name and (folder / name).is_dir()}
    return {name: present.get(normalised(name), normalised(name)) for name in names} | nested
