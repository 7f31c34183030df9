"""Adience's fold files as records: twelve tab-separated columns, checked cell by cell, nothing guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from agecls.data.groups import normalise_age_string
from finetune.errors import DataError, listing
from finetune.images.cells import is_absent, is_broken
from finetune.images.tables import decode_text

FOLD_COUNT = 5
FOLD_FILE = re.compile(r"fold_\d+_data\.txt")  # fold_frontal_0_data.txt lists a part of fold 0
COLUMNS = (
    "user_id",
    "original_image",
    "face_id",
    "age",
    "gender",
    "x",
    "y",
    "dx",
    "dy",
    "tilt_ang",
    "fiducial_yaw_angle",
    "fiducial_score",
)
GENDERS = ("m", "f", "u", "")


class FoldRow(NamedTuple):
    """One listed face: `face` is the subject's number, `age` the normalised string, `yaw` in degrees."""

    fold: int
    line: int
    user: str
    image: str
    face: str
    age: str
    gender: str
    yaw: int

    @property
    def source(self) -> str:
        """Where the row was read: file name and line."""
        return f"{fold_file_name(self.fold)}:{self.line}"


def fold_file_name(fold: int) -> str:
    """Return the name that Adience gives a fold's file."""
    return f"fold_{fold}_data.txt"


def find_fold_files(root: Path, folds_dir: Path | None = None) -> list[Path]:
    """Return the five fold files in `folds_dir`, or else in `root`, `root/aligned` or `root/faces`.

    Raises DataError naming the files that are missing and the folders that were searched.
    """
    places = [folds_dir] if folds_dir is not None else [root, root / "aligned", root / "faces"]
    names = [fold_file_name(fold) for fold in range(FOLD_COUNT)]
    best: list[str] = names
    for place in places:
        absent = [name for name in names if not (place / name).is_file()]
        if not absent:
            return [place / name for name in names]
        best = min(best, absent, key=len)
    raise DataError(
        f"fold files missing: {', '.join(best)}; all five belong in one folder, searched were\n"
        f"{listing([str(place) for place in places])}\n"
        "give the data root that holds them, or their own folder as --data.folds_dir"
    )


def other_fold_files(root: Path, files: Sequence[Path]) -> list[str]:
    """Return sentences on fold files that are not read: more than five, or others in another folder."""
    notices = []
    used = files[0].parent
    known = {file.name for file in files}
    more = sorted(file.name for file in used.glob("fold_*_data.txt") if file.name not in known)
    more = [name for name in more if FOLD_FILE.fullmatch(name)]
    if more:
        notices.append(f"{FOLD_COUNT} fold files are read; left out are {', '.join(more)}")
    for place in (root, root / "aligned", root / "faces"):
        pairs = [(file, place / file.name) for file in files if place != used]
        differ = [
            there.name for file, there in pairs if there.is_file() and there.read_bytes() != file.read_bytes()
        ]
        if differ:
            notices.append(
                f"the fold files of {used} are read; in {place} lie others: {', '.join(differ)} "
                "(choose with --data.folds_dir)"
            )
    return notices


def read_fold_file(file: Path, fold: int) -> list[FoldRow]:
    """Read one fold file; a byte-order mark, CRLF ends and blank lines are tolerated.

    Raises DataError naming file, line and column for a wrong header, a wrong number of cells, an age or
    gender outside the format, a name that is no plain file name, or text that is not UTF-8.
    """
    lines = _text(file).split("\n")
    _check_header(file, lines[0].rstrip("\r").split("\t"))
    rows = [
        _read_row(file, fold, number, line.rstrip("\r").split("\t"))
        for number, line in enumerate(lines[1:], start=2)
        if line.strip("\r ")
    ]
    if not rows:
        raise DataError(f"{file}: the header is there, but no row follows it")
    return rows


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    return decode_text(content, file)[0]


def _check_header(file: Path, header: Sequence[str]) -> None:
    found = [cell.strip() for cell in header]
    if tuple(found) == COLUMNS:
        return
    if len(found) == 1 and found[0].count(",") >= len(COLUMNS) - 1:
        problem = "commas separate the columns; fold files use tabs, for ages hold commas"
    elif not set(found) & set(COLUMNS):
        problem = f"no header: the line begins {found[0][:40]!r}"
    else:
        missing = [name for name in COLUMNS if name not in found]
        again = sorted({name for name in found if found.count(name) > 1})
        extra = [f"column {place}: {name!r}" for place, name in enumerate(found, 1) if name not in COLUMNS]
        pairs = enumerate(zip(found, COLUMNS, strict=False), 1)
        moved = next(
            (f"column {place}: {got!r}, not {due!r}" for place, (got, due) in pairs if got != due), ""
        )
        parts = {
            "missing": ", ".join(missing),
            "extra": ", ".join(extra),
            "named twice:": ", ".join(again),
            "first difference": moved,
        }
        problem = "; ".join(f"{name} {text}" for name, text in parts.items() if text)
    raise DataError(
        f"{file}, line 1: {problem}\nexpected {len(COLUMNS)} tab-separated columns: {', '.join(COLUMNS)}"
    )


def _read_row(file: Path, fold: int, line: int, cells: Sequence[str]) -> FoldRow:
    def refuse(column: str, problem: str) -> NoReturn:
        place = COLUMNS.index(column) + 1
        raise DataError(f"{file}, line {line}, column {place} ({column}): {problem}")

    if len(cells) != len(COLUMNS):
        commas = " (the line holds commas: are they in place of tabs?)" if len(cells) == 1 else ""
        raise DataError(f"{file}, line {line}: {len(cells)} columns, expected {len(COLUMNS)}{commas}")
    record = {name: cell.strip() for name, cell in zip(COLUMNS, cells, strict=True)}
    if is_absent(record["user_id"]):
        refuse("user_id", f"{record['user_id']!r} is empty or an absent value, not an album's name")
    if is_absent(record["gender"]):
        record["gender"] = ""
    for column in ("user_id", "original_image"):
        if not _is_plain_name(record[column]):
            refuse(
                column, f"{record[column]!r} must be a plain name without slashes, '..' or control characters"
            )
    if not (record["face_id"].isascii() and record["face_id"].isdigit()):
        refuse("face_id", f"{record['face_id']!r} must be a whole number")
    if record["gender"] not in GENDERS:
        refuse("gender", f"{record['gender']!r} must be m, f, u or empty")
    try:
        age = normalise_age_string(record["age"])
    except DataError as error:
        refuse("age", str(error))
    try:
        yaw = int(record["fiducial_yaw_angle"])
    except ValueError:
        refuse("fiducial_yaw_angle", f"{record['fiducial_yaw_angle']!r} must be whole degrees")
    return FoldRow(
        fold,
        line,
        record["user_id"],
        record["original_image"],
        record["face_id"],
        age,
        record["gender"],
        yaw,
    )


def _is_plain_name(name: str) -> bool:
    return bool(name) and name not in {".", ".."} and not is_broken(name) and not set(name) & {"/", "\\"}
