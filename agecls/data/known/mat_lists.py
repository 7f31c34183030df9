"""Sets with MATLAB files: IMDB-WIKI and CACD2000."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from agecls.data.known.findings import Findings, KnownFace, beside, find_lists
from finetune.errors import DataError
from finetune.images.mat_files import plain, read_mat, variable

MATLAB_DAYS = 366  # MATLAB counts days from the year 0, Python from the year 1
HALF_YEAR = 7  # the month from which a birthday counts as not yet had when the photograph was taken
FACE_SCORE = 1.0  # at most this: no face to rely on; a second face above it: which one is meant?
OLDEST = 100
NON_ASCII = re.compile(r"[^\x00-\x7f]+|\?+|#U[0-9a-fA-F]{4}")


def read_imdb_wiki(root: Path, found: Findings) -> None:
    """Read imdb.mat and wiki.mat: the age is the year of the photograph less the date of birth.

    A birthday from July on counts as not yet had. Dropped are faces without a date of birth or a year, faces
    whose detector's score is 1 or less (-inf: none found), photographs with a second face above that score,
    and ages outside 0 to 100. The person is the celebrity's id or, where both lists are read, the name, which
    both have.
    """
    files = find_lists(root, ["imdb.mat", "wiki.mat"], "IMDB-WIKI")
    for name, file in files.items():
        which = name.removesuffix(".mat")
        columns = _fields(file, which)
        person = "celeb_id" if which == "imdb" and len(files) == 1 else "name"
        needed = ["dob", "photo_taken", "full_path", "gender", "face_score", "second_face_score", person]
        for place, row in enumerate(_rows(file, columns, needed), start=1):
            source = f"{name}:{place}"
            path = beside(root, file.parent, str(row["full_path"]))
            subject = _text(row[person])
            born, taken = _birth(row["dob"]), _number(row["photo_taken"])
            if reason := _unusable(row, born, taken, subject):
                found.drop(reason, path)
                continue
            assert born is not None
            age = completed_years(born, int(taken))
            if not 0 <= age <= OLDEST:
                found.drop(f"age not between 0 and {OLDEST}", path)
                continue
            gender = {0.0: "f", 1.0: "m"}.get(_number(row["gender"]), "")
            found.faces.append(KnownFace(path, source, age=str(age), subject=subject, gender=gender))
    if len(files) == 2:
        found.notices.append(
            "both lists are read: a person is a name, for the two have no other id in common"
        )
    found.notices.append("wrong people and years are common: the labels were collected by a program")


def completed_years(born: date, taken: int) -> int:
    """Return the age at the middle of the year in which a photograph was taken.

    >>> completed_years(date(1980, 6, 30), 2000), completed_years(date(1980, 7, 1), 2000)
    (20, 19)
    """
    return taken - born.year - (born.month >= HALF_YEAR)


def read_cacd(root: Path, found: Findings) -> None:
    """Read celebrity2000_meta.mat: name (the file), identity, age, birth, rank and year.

    The official parts go by rank: up to 2 validates, up to 5 tests, the rest trains. Accents in file names
    come out of archives in several ways: a file whose name differs in nothing else is taken.
    """
    (file,) = find_lists(root, ["celebrity2000_meta.mat"], "CACD2000").values()
    columns = _fields(file, "celebrityImageData")
    folder = next((one for one in (file.parent / "CACD2000", file.parent) if one.is_dir()), file.parent)
    spelled = _Accents(folder)
    needed = ["name", "identity", "age", "birth", "rank", "year"]
    for place, row in enumerate(_rows(file, columns, needed), start=1):
        numbers = {name: _number(row[name]) for name in needed[1:]}
        name = _text(row["name"])
        if not name or any(map(math.isnan, numbers.values())):
            found.odd.append(f"{file.name}, image {place} ({name or 'no name'}): a field holds no value")
            continue
        age, rank = int(numbers["age"]), numbers["rank"]
        if age != numbers["year"] - numbers["birth"]:
            found.drop("age is not the year less the year of birth", name)
            continue
        split = "val" if rank <= 2 else "test" if rank <= 5 else "train"
        path, person = beside(root, folder, spelled.find(name)), str(int(numbers["identity"]))
        found.faces.append(KnownFace(path, f"{file.name}:{place}", age=str(age), subject=person, split=split))
    found.notices.append("only the val and test parts were looked through by people: train has wrong faces")
    if spelled.respelled:
        found.notices.append(
            f"{spelled.respelled} files are found by their names but for accents, which archives change"
        )


class _Accents:
    """Finds files whose names have other accents on disk than in a list, where just one file has the rest."""

    def __init__(self, folder: Path) -> None:
        self.respelled = 0
        self._folder = folder
        self._there: set[str] | None = None
        self._plain: dict[str, list[str]] = {}

    def find(self, name: str) -> str:
        """Return the name on disk; the given one where it is there, or no single file answers to it."""
        if self._there is None:
            self._there = {one.name for one in self._folder.iterdir()}
            for one in sorted(self._there):
                self._plain.setdefault(NON_ASCII.sub("", one), []).append(one)
        if name in self._there:
            return name
        alike = self._plain.get(NON_ASCII.sub("", name), [])
        if len(alike) != 1 or name.isascii() or alike[0].isascii():
            return name
        self.respelled += 1
        return alike[0]


def _fields(file: Path, name: str) -> np.ndarray:
    struct = variable(file, read_mat(file), name)
    if struct.dtype.names is None:
        raise DataError(f"{file}: {name} is no struct")
    return struct


def _rows(file: Path, struct: np.ndarray, needed: Sequence[str]) -> Iterator[dict[str, Any]]:
    absent = [name for name in needed if name not in (struct.dtype.names or ())]
    if absent:
        raise DataError(f"{file}: no field {', '.join(absent)}; found {', '.join(struct.dtype.names or ())}")
    columns = {name: np.asarray(struct.reshape(-1)[0][name]).reshape(-1) for name in needed}
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) != 1:
        raise DataError(f"{file}: fields differ in length: {sizes}")
    for place in range(len(columns[needed[0]])):
        yield {name: plain(values[place]) for name, values in columns.items()}


def _unusable(row: dict[str, Any], born: date | None, taken: float, subject: str) -> str:
    score, second = _number(row["face_score"]), _number(row["second_face_score"])
    rules = [
        (score == -math.inf, "no face found (face_score -inf)"),
        (not score > FACE_SCORE, f"face_score of {FACE_SCORE:g} or less"),
        (second > FACE_SCORE, f"a second face (second_face_score above {FACE_SCORE:g})"),
        (born is None, "date of birth not known"),
        (math.isnan(taken), "year of the photograph not known"),
        (not subject, "person not known"),
    ]
    return next((reason for broken, reason in rules if broken), "")


def _birth(value: object) -> date | None:
    days = _number(value) - MATLAB_DAYS
    return date.fromordinal(int(days)) if 1 <= days < date.max.toordinal() else None


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _text(value: object) -> str:
    """Return a name or an id as text; empty for none."""
    if isinstance(value, float):
        return "" if math.isnan(value) else str(int(value))
    return "" if value is None else str(value).strip()
