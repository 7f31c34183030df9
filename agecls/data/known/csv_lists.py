"""Sets with CSV lists: MORPH, FairFace, APPA-REAL, CLAP2016, LAGENDA and IMDB-Clean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from agecls.data.groups import AgeGroups
from agecls.data.known.findings import (
    Box,
    Findings,
    KnownFace,
    beside,
    find_lists,
    rows_of,
    vary_within,
)
from finetune.images.cells import is_absent, real_number

FAIRFACE_GROUPS = "0-2,3-9,10-19,20-29,30-39,40-49,50-59,60-69,70+"
GENDERS = {"male": "m", "m": "m", "female": "f", "f": "f", "": ""}
SPLITS = {"train": "train", "valid": "val", "test": "test"}
IMDB_PERSON = re.compile(r"(?:^|/)nm(\d+)_rm")
OLDEST = 120
CLEAN_BOXES = (("x0", "y0", "x1", "y1"), ("x_min", "y_min", "x_max", "y_max"))
FACE_BOX = ("face_x0", "face_y0", "face_x1", "face_y1")


def read_morph(root: Path, found: Findings) -> None:
    """Read morph_2008_nonCommercial.csv: photo, age, id_num (a text: zeros lead it), gender, race and dob."""
    (file,) = find_lists(root, ["morph_2008_nonCommercial.csv"], "MORPH").values()
    born = []
    for source, cells in rows_of(file, ["photo", "age", "id_num", "gender", "race", "dob"]):
        age, gender = _years(cells["age"]), GENDERS.get(cells["gender"].lower())
        if age is None or gender is None or not cells["id_num"]:
            found.odd.append(f"{source}: age {cells['age']!r}, gender {cells['gender']!r}, id_num missing?")
            continue
        path = beside(root, file.parent, cells["photo"])
        person = cells["id_num"]
        found.faces.append(
            KnownFace(path, source, age=age, subject=person, gender=gender, race=cells["race"])
        )
        born.append(cells["dob"])
    for column, values in (
        ("date of birth", born),
        ("gender", [face.gender for face in found.faces]),
        ("race", [face.race for face in found.faces]),
    ):
        found.notices += vary_within(found.faces, column, values)


def read_fairface(root: Path, found: Findings) -> None:
    """Read fairface_label_train.csv and fairface_label_val.csv: file, age (a group), gender and race."""
    lists = {"fairface_label_train.csv": "train", "fairface_label_val.csv": "val"}
    groups = AgeGroups.parse(FAIRFACE_GROUPS)
    for name, file in find_lists(root, list(lists), "FairFace").items():
        for source, cells in rows_of(file, ["file", "age", "gender", "race"]):
            index, gender = groups.index_of_name(cells["age"]), GENDERS.get(cells["gender"].lower())
            if index is None or gender is None:
                found.odd.append(f"{source}: age {cells['age']!r}, gender {cells['gender']!r}")
                continue
            path = beside(root, file.parent, cells["file"])
            found.faces.append(
                KnownFace(
                    path,
                    source,
                    group=groups.names[index],
                    gender=gender,
                    race=cells["race"],
                    split=lists[name],
                )
            )


def read_appa_real(root: Path, found: Findings) -> None:
    """Read gt_avg_train.csv, gt_avg_valid.csv and gt_avg_test.csv: real age, apparent age and its spread.

    Each picture is there whole and as NAME_face.jpg; the faces are taken where any is there.
    """
    lists = {f"gt_avg_{part}.csv": part for part in SPLITS}
    needed = ["file_name", "real_age", "apparent_age_avg", "apparent_age_std"]
    cut: set[bool] = set()
    for name, file in find_lists(root, list(lists), "APPA-REAL").items():
        part = lists[name]
        folder = beside(root, file.parent, part)
        as_faces = any((root / folder).glob("*_face.jpg"))
        cut.add(as_faces)
        for source, cells in rows_of(file, needed):
            real, apparent, spread = (_years(cells[column]) for column in needed[1:])
            if real is None or apparent is None or spread is None:
                found.odd.append(f"{source}: {', '.join(f'{one} {cells[one]!r}' for one in needed[1:])}")
                continue
            path = f"{folder}/{cells['file_name']}{'_face.jpg' if as_faces else ''}"
            face = KnownFace(path, source, age=real, apparent_age=apparent, apparent_sd=spread)
            found.faces.append(face._replace(split=SPLITS[part]))
    found.notices.append(
        f"{'the cut-out faces (NAME_face.jpg)' if True in cut else 'whole pictures'} are read"
    )
    found.notices += _flat_votes(found)


def read_clap(root: Path, found: Findings) -> None:
    """Read train_gt.csv, valid_gt.csv and test_gt.csv: image, mean of the guesses, and their spread."""
    lists = {f"{part}_gt.csv": part for part in SPLITS}
    for name, file in find_lists(root, list(lists), "CLAP2016").items():
        part = lists[name]
        for source, cells in rows_of(file, ["image", "mean", "stdv"]):
            mean, spread = _years(cells["mean"]), _years(cells["stdv"])
            if mean is None or spread is None:
                found.odd.append(f"{source}: mean {cells['mean']!r}, stdv {cells['stdv']!r}")
                continue
            path = beside(root, file.parent, f"{part}/{cells['image']}")
            face = KnownFace(path, source, age=mean, apparent_age=mean, apparent_sd=spread)
            found.faces.append(face._replace(split=SPLITS[part]))
    found.notices += _flat_votes(found)


def read_lagenda(root: Path, found: Findings) -> None:
    """Read a list of img_name, age, gender and face box, where -1 is not known; several faces an image."""
    names = sorted(file.name for file in root.glob("*.csv"))
    (file,) = find_lists(
        root, names[:1] if len(names) == 1 else ["lagenda_annotation.csv"], "LAGENDA"
    ).values()
    for source, cells in rows_of(file, ["img_name", "age", "gender", *FACE_BOX]):
        age, corners = cells["age"], _corners(cells, FACE_BOX)
        if real_number(age) == -1:
            found.drop("age not known (-1)", source)
        elif corners is not None and -1 in corners:
            found.drop("face not marked (-1)", source)
        elif _years(age) is None or corners is None:
            found.odd.append(f"{source}: age {age!r}, box {[cells[name] for name in FACE_BOX]}")
        else:
            gender = GENDERS.get(cells["gender"].lower(), "")
            path = beside(root, file.parent, cells["img_name"])
            found.faces.append(KnownFace(path, source, age=str(_years(age)), gender=gender, box=corners))


def read_imdb_clean(root: Path, found: Findings) -> None:
    """Read imdb_train_new.csv, imdb_valid_new.csv and imdb_test_new.csv; the person is nm... in the name."""
    lists = {f"imdb_{part}_new.csv": part for part in SPLITS}
    for name, file in find_lists(root, list(lists), "IMDB-Clean").items():
        for source, cells in rows_of(file, ["filename", "age", "gender"]):
            columns = next((names for names in CLEAN_BOXES if set(names) <= cells.keys()), CLEAN_BOXES[0])
            corners = _corners(cells, columns)
            person, age = IMDB_PERSON.search(cells["filename"]), _years(cells["age"])
            gender = GENDERS.get(cells["gender"].lower())
            if person is None or age is None or gender is None or corners is None:
                found.odd.append(
                    f"{source}: {cells['filename']} (no nm..._rm in it?), age {cells['age']!r}, gender "
                    f"{cells['gender']!r}, box {columns}"
                )
                continue
            path = beside(root, file.parent, cells["filename"])
            face = KnownFace(path, source, age=age, subject=person[1], gender=gender, box=corners)
            found.faces.append(face._replace(split=SPLITS[lists[name]]))
    found.notices += shared_people(found)


def shared_people(found: Findings) -> list[str]:
    """Return a sentence on people that the set's own parts share; none for none."""
    of_part: dict[str, set[str]] = {}
    for face in found.faces:
        of_part.setdefault(face.split, set()).add(face.subject)
    parts = list(of_part)
    told = []
    for place, one in enumerate(parts):
        for other in parts[place + 1 :]:
            shared = len(of_part[one] & of_part[other])
            told += [f"the set's own {one} and {other} parts share {shared} people"] if shared else []
    return told


def _flat_votes(found: Findings) -> list[str]:
    flat = sum(real_number(face.apparent_sd) == 0 for face in found.faces)
    if not flat:
        return []
    return [
        f"{flat} faces have guesses without any spread (apparent_sd 0): an error divided by it has no value"
    ]


def _years(text: str) -> str | None:
    """Return a cell as a number of years from 0 to 120 in its own words; None for anything else."""
    number = None if is_absent(text) else real_number(text)
    return None if number is None or not 0 <= number <= OLDEST else f"{number:.10g}"


def _corners(cells: Mapping[str, str], columns: tuple[str, ...]) -> Box | None:
    numbers = [real_number(cells.get(name, "")) for name in columns]
    return None if None in numbers else tuple(float(number or 0) for number in numbers)
