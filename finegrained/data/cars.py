"""Read Stanford Cars where .mat files hold the labels: one folder (layout O) or train and test apart (S)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finegrained.data.mat_files import read_mat, strings, struct_rows, variable
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

SINGLE, WITH_LABELS = "cars_annos.mat", "cars_test_annos_withlabels.mat"
DEVKITS = ("devkit", "car_devkit/devkit", "devkit/devkit")
TRAIN_LIST, TEST_LIST, META = "cars_train_annos.mat", "cars_test_annos.mat", "cars_meta.mat"
BOX_FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
NUMBERINGS = (
    "the pictures of car_ims (000001.jpg, six digits, listed by cars_annos.mat) and those of cars_train and "
    "cars_test (00001.jpg, five digits, listed by devkit/) are numbered differently: a list of one with the "
    "pictures of the other gives wrong labels"
)


def read_cars_single(root: Path, rules: ReadingRules | None = None) -> FineReading:
    """Read layout O: cars_annos.mat and car_ims/, into a manifest.

    Classes count from 1 in the file and from 0 in the manifest; `test` is 1 for the test part. Boxes are the
    file's, which count pixels from 1 with both edges inside: x1 and y1 are one less in the manifest.

    Raises DataError for a file that is damaged or lacks a field, for pictures of layout S beside this list,
    for counts that are not the official ones unless `rules.subset`, and for missing pictures as the rules
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

    The list with the test labels may lie beside the picture folders, in the devkit or one folder up. The
    picture folders may be doubled (cars_train/cars_train/). The same file name in both folders is another
    picture: paths and ids carry the folder. Classes and boxes as in `read_cars_single`.

    Raises DataError where the labels of the test part are not to be found, and as `read_cars_single`.
    """
    rules = rules or ReadingRules()
    devkit = find_devkit(root)
    if devkit is None:
        raise DataError(f"{root} holds no {DEVKITS[0]}/{TRAIN_LIST} (looked in {', '.join(DEVKITS)})")
    meta = devkit / META
    names = strings(variable(meta, read_mat(meta), "class_names"))
    files = {"cars_train": devkit / TRAIN_LIST, "cars_test": _test_list(root, devkit)}
    rows = [row for part, file in files.items() for row in _split_rows(root, part, file, names)]
    lists = Lists("cars-S", root, names, rows, files=(meta, *files.values()))
    if not rules.metadata_only:
        refuse_other_numbering(root, [row.path for row in rows])
    return finish_cars(lists, rules)


def finish_cars(lists: Lists, rules: ReadingRules) -> FineReading:
    """Check the counts of a Cars list, look for its pictures and return the table."""
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


def refuse_other_numbering(root: Path, paths: Iterable[str]) -> None:
    """Raise DataError where a list's pictures are absent and the other layout's stand in their folder."""
    for folder, name in {path.rpartition("/")[::2] for path in list(paths)[:1]}:
        digits = len(Path(name).stem)
        other = {5: "000001.jpg", 6: "00001.jpg"}.get(digits, "")
        renumbered = bool(other) and not (root / folder / name).exists() and (root / folder / other).exists()
        beside = {5: "car_ims", 6: "cars_train"}.get(digits, "")
        only_other = bool(beside) and not (root / folder).is_dir() and (root / beside).is_dir()
        if renumbered or only_other:
            raise DataError(f"{root}: the list names {folder}/{name}, which is not there, but {NUMBERINGS}")


def _test_list(root: Path, devkit: Path) -> Path:
    places = (root, devkit, root.parent)
    found = next((place / WITH_LABELS for place in places if (place / WITH_LABELS).is_file()), None)
    if found is not None:
        return found
    has = f"{devkit.name}/{TEST_LIST} has no classes; " if (devkit / TEST_LIST).is_file() else ""
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
