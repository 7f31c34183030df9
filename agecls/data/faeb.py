"""The files of the CVPR 2024 benchmark of age estimation: its list of faces and its splits.

Source: Paplham and Franc, "A Call to Reflect on Evaluation Practices for Age Estimation: Comparative Analysis
of the State-of-the-Art and a Unified Benchmark", CVPR 2024, and the formats that its repository describes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from agecls.config import AgeDataConfig
from agecls.data.known.findings import Findings, KnownFace
from agecls.data.named import NamedFaces, read_faces, with_crops
from agecls.data.overlapping import (
    NONE,
    PARTS_COLUMN,
    TEST,
    TRAIN,
    VALIDATION,
    listed_splits,
    tested_times,
)
from finetune.errors import DataError, UsageError, listing
from finetune.experiments.task import TaskData
from finetune.images.cells import real_number

Parts = Mapping[str, Sequence[int]]
FIVE: tuple[Parts, ...] = tuple(
    {"trn": trn, "val": val, "tst": tst}
    for trn, val, tst in (
        ((0, 1, 2, 3, 4, 5), (6, 7), (8, 9)),
        ((2, 3, 4, 5, 6, 7), (8, 9), (0, 1)),
        ((4, 5, 6, 7, 8, 9), (0, 1), (2, 3)),
        ((5, 6, 7, 8, 9, 0), (1, 2), (3, 4)),
        ((6, 7, 8, 9, 0, 1), (2, 3), (4, 5)),
    )
)
ONE: tuple[Parts, ...] = ({"trn": (0,), "val": (1,), "tst": (2,)},)
LETTERS = {"trn": TRAIN, "val": VALIDATION, "tst": TEST}
TERMS = "those of the data set that the benchmark lists"
OLDEST = 120


def read_faeb(config: AgeDataConfig, missing: str) -> TaskData:
    """Read the benchmark's faces, cut out by their corners, and the splits that are asked for.

    `config.faeb` is a database (.json) or a benchmark (.yaml) with one database to train on; its images lie
    under `config.root`. The table's `fold` is the benchmark's folder. "faeb" keeps the published splits, in
    column `parts`; "disjoint" tests the pairs of folders 0-1 to 8-9 once each.

    Raises DataError for another form, and for folders that the splits do not know.
    """
    assert config.faeb is not None
    database, splits = _database(Path(config.faeb))
    found, title = read_database(database)
    found.settle(title, config.odd_names)
    dropped = {reason: len(names) for reason, names in found.dropped.items()}
    root = Path(str(config.root))
    unknown = ["no person is known, so that its folders may share people"]
    told = [] if any(face.subject for face in found.faces) else unknown
    named = NamedFaces("faeb", title, TERMS, root, found.faces, dropped, tuple(told))
    data = read_faces(with_crops(named, config, missing), config, missing, fold_column="folder")
    data = replace(data, report={**data.report, "faeb": database.name, "database": title})
    if config.splits == "disjoint":
        return _in_pairs(data)
    return _as_published(data, splits)


def _person(entry: Mapping[str, Any]) -> str:
    """Return the id or the name of the person on a face; nothing where neither is given."""
    known = (entry.get(key) for key in ("id_num", "name"))
    return next((str(value) for value in known if value is not None), "")


def read_database(file: Path) -> tuple[Findings, str]:
    """Return the faces of a database.json, and the name of the database in it.

    A face has img_path, age (-1 for unknown), folder, aligned_bbox or bbox (corners in pixels, the first
    pixel being 1), and perhaps gender, id_num or name, and std_age. Raises DataError for another form.
    """
    entries = _json(file)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{file} must be a list of faces, each with img_path, age, folder and aligned_bbox")
    found, titles = Findings(), {str(entry.get("database", file.stem)) for entry in entries}
    for place, entry in enumerate(entries):
        source = f"{file.name}:{place}"
        reason = _fault(entry)
        if reason:
            found.odd.append(f"{source}: {reason}")
        elif entry["age"] == -1:
            found.drop("age not known (-1)", source)
        elif not (box := _corners(entry)):
            found.drop("face not marked", source)
        else:
            gender = str(entry.get("gender") or "").lower()
            found.faces.append(
                KnownFace(
                    path=entry["img_path"],
                    source=source,
                    age=f"{entry['age']:g}",
                    subject=_person(entry),
                    gender=gender if gender in ("m", "f") else "",
                    apparent_sd="" if entry.get("std_age") is None else f"{entry['std_age']:g}",
                    folder=str(entry["folder"]),
                    box=box,
                )
            )
    return found, ", ".join(sorted(titles))


def _fault(entry: Mapping[str, Any]) -> str:
    """Return what is wrong with an entry; empty for nothing."""
    age, folder = entry.get("age"), entry.get("folder")
    if not isinstance(entry.get("img_path"), str):
        return "no img_path"
    if isinstance(age, bool) or not isinstance(age, int | float) or not (age == -1 or 0 <= age <= OLDEST):
        return f"{entry['img_path']}: age {age!r} must be years from 0 to {OLDEST}, or -1"
    if isinstance(folder, bool) or not isinstance(folder, int) or folder < 0:
        return f"{entry['img_path']}: folder {folder!r} must be a whole number from 0"
    if "gender" in entry and str(entry["gender"]).upper() not in ("M", "F", "U"):
        return f"{entry['img_path']}: gender {entry['gender']!r} must be M, F or U"
    return ""


def _corners(entry: Mapping[str, Any]) -> tuple[float, ...]:
    for name in ("aligned_bbox", "bbox"):
        values = entry.get(name)
        if isinstance(values, list) and len(values) == 8:
            numbers = [real_number(str(value)) for value in values]
            if None not in numbers:
                return tuple(float(number or 0) for number in numbers)
    return ()


def _database(file: Path) -> tuple[Path, tuple[Parts, ...] | None]:
    """Return the database to train on, and its splits where a benchmark gives them."""
    if file.suffix == ".json":
        return file, None
    if file.suffix not in (".yaml", ".yml"):
        raise UsageError(f"--data.faeb {file}: give a database (.json) or a benchmark (.yaml)")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        trained = [one for one in content if any(split["trn"] for split in one["split"])]
        splits = tuple(
            {name: tuple(map(int, split[name])) for name in LETTERS} for split in trained[0]["split"]
        )
    except (OSError, ValueError, TypeError, KeyError, IndexError, yaml.YAMLError) as error:
        raise DataError(
            f"{file} must be a list of {{database, split: [{{trn, val, tst}}]}} with one to train on: {error}"
        ) from None
    if len(trained) != 1:
        raise DataError(f"{file} trains on {len(trained)} databases; only benchmarks with one can be run")
    return file.parent / str(trained[0]["database"]), splits


def _json(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
    if text.startswith("version https://git-lfs"):
        raise DataError(f"{file} is a pointer of Git LFS and not the list itself; fetch the whole file")
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{file} is no JSON: {error}") from None


def _as_published(data: TaskData, splits: tuple[Parts, ...] | None) -> TaskData:
    folder = data.manifest["fold"]
    there = set(np.unique(folder).tolist())
    splits = splits or (ONE if there <= {0, 1, 2} else FIVE)
    known = {int(one) for split in splits for part in split.values() for one in part}
    if there - known:
        raise DataError(
            f"the published splits know folders {sorted(known)}, and the list has others:\n"
            f"{listing(sorted(map(str, there - known)))}\nGive the benchmark (.yaml) that names them"
        )
    rows = {one: "".join(_letter(split, one) for split in splits) for one in there}
    manifest = data.manifest.with_column(PARTS_COLUMN, np.array([rows[int(one)] for one in folder]))
    told = [f"{len(splits)} splits as published"]
    if times := tested_times(listed_splits(manifest), folder):
        told = [f"{told[0]}: {times}; no score is taken over all images together"]
    return replace(
        data, manifest=manifest, report={**data.report, "notices": [*data.report["notices"], *told]}
    )


def _letter(split: Parts, folder: int) -> str:
    return next((LETTERS[name] for name in LETTERS if folder in split[name]), NONE)


def _in_pairs(data: TaskData) -> TaskData:
    folder = data.manifest["fold"]
    if set(np.unique(folder).tolist()) != set(range(10)):
        raise DataError(
            f"--data.splits disjoint pairs the folders 0 to 9, and the list has "
            f"{np.unique(folder).tolist()}; say --data.splits faeb"
        )
    told = "folders 0-1 to 8-9 are tested once each, and the pair before validates"
    report = {**data.report, "notices": [*data.report["notices"], told]}
    return replace(data, manifest=data.manifest.with_column("fold", folder // 2), report=report)
