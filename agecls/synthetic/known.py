"""Synthetic published sets of faces: real file names, lists and .mat fields, images of few pixels.

Each writer puts every irregular thing that its set is known for into the folder: `IRREGULAR` of UTKFace, a
small `a` of FG-NET, unknown ages of LAGENDA. No image shows a face, and no two hold the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np

from finetune.runs.csv_file import csv_text

IRREGULAR = (  # UTKFace's names that lack a field
    "part1/61_1_20170109142408075.jpg",
    "part1/61_3_20170109150557335.jpg",
    "part2/39_1_20170116174525125.jpg",
    "part2/53__0_20170116184028385.jpg",
)
AGES = (0, 5, 17, 18, 31, 40, 52, 70)
MATLAB_DAYS = 366
MORPH_COLUMNS = ("id_num", "picture_num", "dob", "doa", "race", "gender", "facial_hair", "age", "age_diff")
FAIRFACE_AGES = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
CLEAN_COLUMNS = ("filename", "age", "gender", "x_min", "y_min", "x_max", "y_max", "head_roll", "head_yaw")
LAGENDA_COLUMNS = ("img_name", "age", "gender", "face_x0", "face_y0", "face_x1", "face_y1")
PERSON_BOX = ("person_x0", "person_y0", "person_x1", "person_y1")


def write_picture(file: Path, number: int, size: int = 8) -> None:
    """Write a square image of noise whose seed is `number`; the folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    _, coded = cv2.imencode(".jpg", pixels)
    file.write_bytes(coded.tobytes())


def write_list(file: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a list as its authors do, as plain CSV; the folder is made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(csv_text(header, rows), encoding="utf-8", newline="")


def write_utkface(root: Path, *, irregular: bool = False) -> None:
    """Write eight aligned faces; `irregular` adds the four published names that lack a field."""
    for place, age in enumerate(AGES):
        name = f"{age}_{place % 2}_{place % 5}_2017011222{place:07d}.jpg.chip.jpg"
        write_picture(root / "UTKFace" / name, place)
    for place, path in enumerate(IRREGULAR if irregular else ()):
        write_picture(root / path, 100 + place)


def write_agedb(root: Path) -> None:
    """Write two images of each of four people."""
    people = ("MariaCallas", "CarlosSantana", "HeinrichHertz", "GaryO'Neil")
    for place, age in enumerate(AGES):
        name = people[place // 2]
        write_picture(root / "AgeDB" / f"{place}_{name}_{age}_{'fm'[place % 2]}.jpg", place)


def write_fgnet(root: Path) -> None:
    """Write two images of each of four people, some with a small a, some of one age with a letter."""
    for place, age in enumerate(AGES):
        letter = "b" if place == 3 else ""
        name = f"{place // 2 + 1:03d}{'aA'[place % 2]}{age:02d}{letter}.{('JPG', 'jpg')[place % 2]}"
        write_picture(root / "images" / name, place)


def write_morph(root: Path) -> None:
    """Write four people of two images; ids begin with zeros, and one person has two dates of birth."""
    rows = []
    for place, age in enumerate(AGES):
        person, photo = f"{place // 2:06d}", f"Album2/{place // 2:06d}_{place % 2}M{age}.JPG"
        born = "01/02/1960" if place else "01/03/1960"
        rows.append([person, place % 2, born, "01/02/2004", "BW"[place // 2 % 2], "M", 0, age, 1, 0, photo])
        write_picture(root / photo, place)
    write_list(root / "morph_2008_nonCommercial.csv", [*MORPH_COLUMNS, "glasses", "photo"], rows)


def write_fairface(root: Path) -> None:
    """Write the nine groups in training, and the youngest and the oldest in validation."""
    number = 0
    for part, ages in (("train", FAIRFACE_AGES), ("val", FAIRFACE_AGES[::8])):
        rows = []
        for place, age in enumerate(ages, start=1):
            rows.append([f"{part}/{place}.jpg", age, ("Male", "Female")[place % 2], "East Asian", "True"])
            write_picture(root / rows[-1][0], number := number + 1)
        header = ["file", "age", "gender", "race", "service_test"]
        write_list(root / f"fairface_label_{part}.csv", header, rows)


def write_appa_real(root: Path) -> None:
    """Write two faces a part, each whole and cut out (NAME_face.jpg)."""
    for place, part in enumerate(("train", "valid", "test")):
        rows = []
        for row in range(2):
            name, age = f"{place}{row:05d}.jpg", AGES[2 * place + row]
            rows.append([name, 38, age + 0.5, 4.25, age])
            write_picture(root / part / name, 10 * place + row)
            write_picture(root / part / f"{name}_face.jpg", 10 * place + row + 5)
        header = ["file_name", "num_ratings", "apparent_age_avg", "apparent_age_std", "real_age"]
        write_list(root / f"gt_avg_{part}.csv", header, rows)


def write_clap(root: Path) -> None:
    """Write two faces a part; the first of training has guesses without spread."""
    for place, part in enumerate(("train", "valid", "test")):
        rows = [
            [f"{place}{row:05d}.jpg", AGES[2 * place + row] + 0.5, 4.6 * bool(place + row)] for row in (0, 1)
        ]
        for row, cells in enumerate(rows):
            write_picture(root / part / str(cells[0]), 10 * place + row)
        write_list(root / f"{part}_gt.csv", ["image", "mean", "stdv"], rows)


def write_lagenda(root: Path) -> None:
    """Write an image of two faces, one of a face of unknown age, and one of an unmarked face."""
    rows = [
        ["a.jpg", 31, "M", 1, 1, 9, 9, -1, -1, -1, -1],
        ["a.jpg", 5.0, "F", 8, 4, 15, 14, 0, 0, 16, 16],
        ["b.jpg", -1, "-1", 1, 1, 9, 9, 0, 0, 16, 16],
        ["c.jpg", 40, "F", -1, -1, -1, -1, 0, 0, 16, 16],
    ]
    for place, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        write_picture(root / name, place, 16)
    write_list(root / "lagenda_annotation.csv", [*LAGENDA_COLUMNS, *PERSON_BOX], rows)


def write_imdb_clean(root: Path) -> None:
    """Write three parts of two faces; training and validation share a person, the test part none."""
    people = {
        "train": ("0000001", "0000002"),
        "valid": ("0000002", "0000003"),
        "test": ("0000004", "0000005"),
    }
    for place, (part, both) in enumerate(people.items()):
        rows = []
        for row, person in enumerate(both):
            name = f"{person[-2:]}/nm{person}_rm{place}{row}_1969-2-11_2009.jpg"
            rows.append([name, AGES[2 * place + row], "MF"[row], 2, 2, 10, 12, 0.1, 0.2])
            write_picture(root / name, 10 * place + row, 16)
        write_list(root / f"imdb_{part}_new.csv", CLEAN_COLUMNS, rows)


def write_imdb_wiki(root: Path, lists: Sequence[str] = ("imdb", "wiki")) -> None:
    """Write imdb.mat and wiki.mat with a face for every rule that drops one, and two that stay."""
    from scipy.io import savemat

    inf = math.inf
    for which in lists:
        shift = 10 * (which == "wiki")
        rows = [  # date of birth, year, face score, second score, gender
            (date(1980, 6, 30), 2000, 3.5, math.nan, 1.0),  # 20
            (date(1980, 7, 1), 2000, 3.5, 0.5, math.nan),  # 19
            (date(1980, 1, 1), 2000, -inf, math.nan, 0.0),
            (date(1980, 1, 1), 2000, 1.0, math.nan, 0.0),
            (date(1980, 1, 1), 2000, 3.5, 2.5, 0.0),
            (date(1880, 1, 1), 2000, 3.5, math.nan, 0.0),
        ]
        count, names = len(rows), ["Fred Astaire", "Lauren Bacall"] * 3
        paths = [f"{place:02d}/nm{place:07d}_rm{shift}_1980-1-1_2000.jpg" for place in range(count)]
        fields: dict[str, Any] = {
            "dob": np.array([[row[0].toordinal() + MATLAB_DAYS for row in rows]], dtype=np.int32),
            "photo_taken": np.array([[row[1] for row in rows]], dtype=np.uint16),
            "full_path": _cells(paths),
            "gender": np.array([[row[4] for row in rows]]),
            "name": _cells(names),
            "face_location": _cells([np.array([[1.0, 1.0, 8.0, 8.0]])] * count),
            "face_score": np.array([[row[2] for row in rows]]),
            "second_face_score": np.array([[row[3] for row in rows]]),
        }
        if which == "imdb":
            fields["celeb_names"] = _cells(["Fred Astaire", "Lauren Bacall"])
            fields["celeb_id"] = np.array([[1 + place % 2 for place in range(count)]], dtype=np.uint16)
        for place, path in enumerate(paths):
            write_picture(root / f"{which}_crop" / path, shift + place)
        (root / f"{which}_crop").mkdir(parents=True, exist_ok=True)
        savemat(root / f"{which}_crop" / f"{which}.mat", {which: _struct(fields)})


def write_cacd(root: Path) -> None:
    """Write a face of each official part, one with an accent that the archive lost, one with a wrong age."""
    from scipy.io import savemat

    rows = [  # file in the list, file on the disk, identity, age, birth, rank, year
        ("53_Robin_Williams_0001.jpg", None, 1, 53, 1951, 1, 2004),
        ("33_Ren\u00e9e_Zellweger_0001.jpg", "33_Ren\u00c3\u00a9e_Zellweger_0001.jpg", 2, 33, 1971, 4, 2004),
        ("20_Emma_Stone_0001.jpg", None, 3, 20, 1988, 30, 2008),
        ("21_Emma_Stone_0002.jpg", None, 3, 21, 1988, 30, 2008),
    ]
    for place, row in enumerate(rows):
        write_picture(root / "CACD2000" / (row[1] or row[0]), place)
    columns = ("identity", "age", "birth", "rank", "year")
    numbers = {name: np.array([[row[2 + place]] for row in rows]) for place, name in enumerate(columns)}
    fields = {"name": _cells([row[0] for row in rows]).T, **numbers, "lfw": np.zeros((len(rows), 1))}
    savemat(root / "celebrity2000_meta.mat", {"celebrityImageData": _struct(fields)})


WRITERS: Mapping[str, Callable[[Path], None]] = MappingProxyType(
    {
        "utkface": write_utkface,
        "agedb": write_agedb,
        "fgnet": write_fgnet,
        "morph": write_morph,
        "imdb-wiki": write_imdb_wiki,
        "imdb-clean": write_imdb_clean,
        "cacd": write_cacd,
        "fairface": write_fairface,
        "appa-real": write_appa_real,
        "clap2016": write_clap,
        "lagenda": write_lagenda,
    }
)


def _cells(values: Sequence[Any]) -> np.ndarray:
    """Return a MATLAB cell row."""
    cells = np.empty((1, len(values)), dtype=object)
    for place, value in enumerate(values):
        cells[0, place] = value
    return cells


def _struct(fields: Mapping[str, Any]) -> np.ndarray:
    """Return a MATLAB struct of one element whose fields are columns."""
    struct = np.empty((1, 1), dtype=[(name, object) for name in fields])
    for name, value in fields.items():
        struct[0, 0][name] = value
    return struct
