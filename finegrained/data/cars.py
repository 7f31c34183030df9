"""Read Stanford Cars: labels in .mat files (layouts O and S), or folders by class with lists in CSV (K).

In layout O all images lie in one folder, in layout S training and test images lie apart.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finegrained.data.reading import (
    OFFICIAL_CARS,
    FineReading,
    ListedImage,
    Lists,
    ReadingRules,
    check_official,
    finish,
)
from finetune.errors import DataError, listing
from finetune.images.class_names import normalised
from finetune.images.mat_files import read_mat, strings, struct_rows, variable
from finetune.images.tables import decode_text

SINGLE, WITH_LABELS = "cars_annos.mat", "cars_test_annos_withlabels.mat"
DEVKITS = ("devkit", "car_devkit/devkit", "devkit/devkit", "")  # the last: beside the image folders
TRAIN_LIST, TEST_LIST, META = "cars_train_annos.mat", "cars_test_annos.mat", "cars_meta.mat"
BOX_FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
NUMBERINGS = (
    "the images of car_ims (000001.jpg, six digits, listed by cars_annos.mat) and those of cars_train and "
    "cars_test (00001.jpg, five digits, listed by devkit/) are numbered differently: a list of one with the "
    "images of the other gives wrong labels"
)
NAMES, LISTS = "names.csv", {"train": "anno_train.csv", "test": "anno_test.csv"}
PICTURE_FOLDERS = ("car_data/car_data", "car_data", "")


def read_cars_single(root: Path, rules: ReadingRules | None = None) -> FineReading:
    """Read layout O: cars_annos.mat and car_ims/, into a manifest.

    Classes count from 1 in the file and from 0 in the manifest; `test` is 1 for the test part. Boxes are the
    file's, which count pixels from 1 with both edges inside: x1 and y1 are one less in the manifest.

    Raises DataError for a file that is damaged or lacks a field, for images of layout S beside this list,
    for counts that are not the official ones unless `rules.subset`, and for missing images as the rules
    say.

    Source: Krause, Stark, Deng, Fei-Fei, "3D Object Representations for Fine-Grained Categorization", 2013.
    """
    rules = rules or ReadingRules()
    file = root / SINGLE
    content = read_mat(file)
    names = strings(variable(file, content, "class_names"))
    annotations = variable(file, content, "annotations")
    structs = struct_rows(str(file), annotations, (*BOX_FIELDS, "class", "test"), ("relative_im_path",))
    _check_parts(file, structs)
    if not rules.metadata_only:
        refuse_other_numbering(root, [str(row["relative_im_path"]) for row in structs])
    rows = [
        ListedImage(
            path=str(row["relative_im_path"]),
            label=_label(f"{file.name}, {row['relative_im_path']}", row["class"], names),
            split="test" if int(row["test"]) else "train",
            source=str(row["relative_im_path"]),
            box=_box(row),
        )
        for row in structs
    ]
    return finish_cars(Lists("cars-O", root, names, rows, files=(file,)), rules)


def read_cars_split(root: Path, rules: ReadingRules | None = None) -> FineReading:
    """Read layout S: devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat, into a manifest.

    The list with the test labels may lie beside the image folders, in the devkit or one folder up. The
    image folders may be doubled (cars_train/cars_train/). The same file name in both folders is another
    image: paths and ids carry the folder. Classes and boxes as in `read_cars_single`.

    Raises DataError where the labels of the test part are not to be found, and as `read_cars_single`.
    """
    rules = rules or ReadingRules()
    devkit = find_devkit(root)
    if devkit is None:
        raise DataError(f"{root} holds no {DEVKITS[0]}/{TRAIN_LIST} (looked in {devkit_places()})")
    meta = devkit / META
    if not meta.is_file():
        raise DataError(
            f"{meta} is not there: it holds the class names. Where to get it: {OFFICIAL_CARS.source}"
        )
    names = strings(variable(meta, read_mat(meta), "class_names"))
    files = {"cars_train": devkit / TRAIN_LIST, "cars_test": _test_list(root, devkit)}
    rows = [row for part, file in files.items() for row in _split_rows(root, part, file, names)]
    lists = Lists("cars-S", root, names, rows, files=(meta, *files.values()))
    if not rules.metadata_only:
        refuse_other_numbering(root, [row.path for row in rows])
    return finish_cars(lists, rules)


def finish_cars(lists: Lists, rules: ReadingRules) -> FineReading:
    """Check the counts of a Cars list, look for its images and return the table."""
    whole, notices = check_official(
        OFFICIAL_CARS, lists.rows, len(lists.class_names), lists.root, subset=rules.subset
    )
    checked = Lists(
        lists.layout,
        lists.root,
        lists.class_names,
        lists.rows,
        OFFICIAL_CARS.title,
        whole,
        lists.files,
        [*lists.notices, *notices],
    )
    return finish(checked, rules)


def find_devkit(root: Path) -> Path | None:
    """Return the folder under `root` that holds cars_train_annos.mat, None where there is none."""
    return next((root / name for name in DEVKITS if (root / name / TRAIN_LIST).is_file()), None)


def devkit_places() -> str:
    """Return the folders of a data set in which its lists are looked for, in words."""
    return ", ".join(f"{name}/" if name else "beside the images" for name in DEVKITS)


def refuse_lists_missing(root: Path) -> None:
    """Raise DataError, saying what is missing, where Cars' image folders or lists stand without the others.

    Its folders of images, cars_train/ and cars_test/ or car_ims/, are parts and no classes.
    """
    folders = [name for name in ("cars_train", "cars_test", "car_ims") if (root / name).is_dir()]
    lists = [name for name in (SINGLE, TRAIN_LIST, META, WITH_LABELS, TEST_LIST) if _lies_in(root, name)]
    if not (len(folders) > 1 or "car_ims" in folders or (folders and lists)):
        return
    needed = (SINGLE,) if "car_ims" in folders else (TRAIN_LIST, META, WITH_LABELS)
    absent = [name for name in needed if name not in lists]
    found = ", ".join([*(f"{name}/" for name in folders), *lists])
    raise DataError(
        f"{root} holds {found}: so lies Stanford Cars, whose image folders are parts, not classes. Missing: "
        f"{', '.join(absent) or 'nothing else'} (looked in {devkit_places()}). "
        f"Where to get it: {OFFICIAL_CARS.source}"
    )


def _lies_in(root: Path, name: str) -> bool:
    return any((root / folder / name).is_file() for folder in DEVKITS)


def refuse_other_numbering(root: Path, paths: Iterable[str]) -> None:
    """Raise DataError where a list's images are absent and the other layout's stand in their folder."""
    for folder, name in {path.rpartition("/")[::2] for path in list(paths)[:1]}:
        digits = len(Path(name).stem)
        other = {5: "000001.jpg", 6: "00001.jpg"}.get(digits, "")
        renumbered = bool(other) and not (root / folder / name).exists() and (root / folder / other).exists()
        beside = {5: "car_ims", 6: "cars_train"}.get(digits, "")
        only_other = bool(beside) and not (root / folder).is_dir() and (root / beside).is_dir()
        if renumbered or only_other:
            raise DataError(f"{root}: the list names {folder}/{name}, which is not there, but {NUMBERINGS}")


def _test_list(root: Path, devkit: Path) -> Path:
    places = tuple(dict.fromkeys((root, devkit, root.parent)))
    found = next((place / WITH_LABELS for place in places if (place / WITH_LABELS).is_file()), None)
    if found is not None:
        return found
    has = f"{devkit / TEST_LIST} has no classes; " if (devkit / TEST_LIST).is_file() else ""
    looked = listing([str(place / WITH_LABELS) for place in places])
    raise DataError(
        f"{root}: the test part has no labels: {has}put {WITH_LABELS} in one of these places:\n{looked}\n"
        f"Where to get it: {OFFICIAL_CARS.source}"
    )


def _split_rows(root: Path, part: str, file: Path, names: tuple[str, ...]) -> list[ListedImage]:
    folder = f"{part}/{part}" if (root / part / part).is_dir() else part
    annotations = variable(file, read_mat(file), "annotations")
    structs = struct_rows(str(file), annotations, (*BOX_FIELDS, "class"), ("fname",))
    return [
        ListedImage(
            path=f"{folder}/{row['fname']}",
            label=_label(f"{file.name}, {row['fname']}", row["class"], names),
            split=part.removeprefix("cars_"),
            source=f"{part}/{row['fname']}",
            box=_box(row),
        )
        for row in structs
    ]


def _label(where: str, number: Any, names: tuple[str, ...]) -> int:
    """Return a class number of the files, 1 ... K, as an index from 0."""
    if not (float(number).is_integer() and 1 <= number <= len(names)):
        raise DataError(f"{where}: class {number} is not one of 1 to {len(names)}")
    return int(number) - 1


def _check_parts(file: Path, structs: list[dict[str, Any]]) -> None:
    odd = [f"{row['relative_im_path']}: {row['test']}" for row in structs if row["test"] not in (0, 1)]
    if odd:
        raise DataError(f"{file}: test is 1 for the test part and else 0, but:\n{listing(odd)}")


def _box(row: dict[str, Any]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(row[name]) for name in BOX_FIELDS)
    return (x1 - 1, y1 - 1, x2, y2)


def read_cars_by_class(root: Path, rules: ReadingRules | None = None) -> FineReading:
    """Read layout K: names.csv, anno_train.csv, anno_test.csv and car_data/car_data/{train,test}/<class>/.

    The lists have no header: file, x1, y1, x2, y2, class; classes count from 1 in the order of names.csv.
    That order holds, not the folders': sorted folders put most classes elsewhere. A class with "/" in its
    name lies in a folder with "-" there, or in a folder within a folder; both are found. Boxes as in
    `finegrained.data.cars.read_cars_single`.

    Raises DataError naming file and line for what is invalid, for counts that are not the official ones
    unless `rules.subset`, and for missing images as the rules say.

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
        text, _ = decode_text(file.read_bytes(), file)
        reader = csv.reader(io.StringIO(text, newline=""))
        return [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except (OSError, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def _read_list(root: Path, file: Path, names: tuple[str, ...], part: str) -> list[ListedImage]:
    folder_of = _class_folders(root / part, names)
    rows, problems = [], []
    for line, cells in _cells(file):
        try:
            name, (x1, y1, x2, y2), number, *more = (
                cells[0].strip(),
                map(float, cells[1:5]),
                int(cells[5]),
                *cells[6:],
            )
            if any(map(str.strip, more)) or "_" in "".join(cells[1:6]):
                raise ValueError
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
        raise DataError(f"{file}: {len(problems)} lines are invalid:\n{listing(problems)}")
    return rows


def _class_folders(folder: Path, names: tuple[str, ...]) -> Mapping[str, str]:
    """Return each class's folder under `folder`; where none is found, the one it should have."""
    present = {}
    if folder.is_dir():
        present = {normalised(entry.name): entry.name for entry in folder.iterdir() if entry.is_dir()}
    nested = {name: name for name in names if "/" in name and (folder / name).is_dir()}
    return {name: present.get(normalised(name), normalised(name)) for name in names} | nested
