"""Read any table of image paths, ages (or groups) and subjects: CSV in the usual dialects, or parquet."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agecls.data.groups import ADIENCE_GROUPS, AgeGroups
from finetune.errors import DataError, UsageError, listing
from finetune.images.cells import (
    is_absent,
    is_broken,
    near_notice,
    same_identities,
    spelling_notice,
    whole_number,
)
from finetune.images.checks import (
    MissingRule,
    check_missing_rule,
    known_count,
    missing_files,
    refuse_missing,
    unlisted_notices,
)
from finetune.images.manifest import Manifest
from finetune.images.people import SLICE, refuse_target
from finetune.images.tables import Table, missing_columns, paths_under, read_table, unread_columns

OLDEST = 120
HIGHEST_FOLD = 10**9 - 1
GENDERS = {"m": "m", "male": "m", "f": "f", "female": "f", "u": "u", "unknown": "u", "": ""}


@dataclass(frozen=True)
class AgeTableReport:
    """What was read: counts of images in the manifest, and what became of the other rows.

    `in_gaps` counts rows whose age lies between two groups (`gap_ages`: each age in years and its rows).
    Where `subjects_known` is false, `subjects` is None, as is `users` without a column of them.
    `missing_images` counts listed files that are not there. `file_sha256` belongs to the table.
    """

    images: int
    rows: int
    class_names: list[str]
    per_group: list[int]
    per_fold: list[int] | None
    subjects: int | None
    users: int | None
    subjects_known: bool
    in_gaps: int
    gap_ages: dict[int, int]
    missing_images: int
    missing_first: list[str]
    missing_rule: str
    table: str
    file_sha256: str
    notices: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain numbers, strings, lists and dictionaries."""
        return asdict(self)


@dataclass(frozen=True)
class AgeTableReading:
    """The table of images and the report on how it came to be."""

    manifest: Manifest
    report: AgeTableReport


class _Row(NamedTuple):
    source: str
    path: str
    label: int | None
    age: float
    subject: str
    user: str
    gender: str
    fold: int
    slices: tuple[str, ...]


def read_age_table(
    file: Path,
    *,
    root: Path | None = None,
    groups: AgeGroups = ADIENCE_GROUPS,
    path_column: str = "path",
    age_column: str | None = "age",
    group_column: str | None = None,
    subject_column: str | None = "subject",
    user_column: str | None = None,
    gender_column: str | None = None,
    slice_columns: Sequence[str] = (),
    fold_column: str | None = None,
    missing: MissingRule = "error",
    follow: bool = False,
) -> AgeTableReading:
    """Read a .csv or .parquet table with one image per row into a manifest.

    Paths start from `root`, by default the table's own folder; a backslash is a slash. The class comes from
    `age_column` (years; rows in a gap between `groups` are left out and counted) or, where given, from
    `group_column` (a group's display name). Ages are then optional: a column of ages that holds no number is
    not read. `subject_column` names the subject; None says outright that every image is a subject of its own.
    Spellings of one number (7, 7.0, 007) or of one name are one subject, and that is reported. `user_column`
    (album; else the subject), `gender_column` (m, f, u or empty) and `fold_column` (0, 1, ...) are optional.
    `slice_columns` become columns slice_NAME of the manifest. What programs write for an absent value (nan,
    None, <NA>, null) is an empty cell. `missing` is "error", "count" or "drop" as in `read_adience`. `follow`
    allows absolute paths, `..` and links that lead out of the root.

    Raises DataError naming row and rule for invalid cells, files listed twice, missing columns
    or images; UsageError for a file type or a rule that is not known.
    """
    file = Path(file)
    check_missing_rule(missing)
    age_column = None if age_column == group_column else age_column
    class_column = group_column or age_column
    if class_column is None:
        raise UsageError("a table of ages needs an age_column or a group_column")
    optional = (subject_column, user_column, gender_column, fold_column)
    table = read_table(file)
    refuse_target(class_column, table.file)
    wanted = [path_column, class_column, *filter(None, optional), *slice_columns]
    _check_columns(table, wanted, subject_column)
    reader = _RowReader(
        groups,
        path_column,
        age_column if group_column is None or _holds_numbers(table, age_column) else None,
        group_column,
        subject_column,
        user_column,
        gender_column,
        fold_column,
        table,
        tuple(slice_columns),
    )
    rows, spellings = _one_spelling_each(_collect(table, reader.read), reader)
    base = Path(root) if root is not None else file.parent
    base, paths = paths_under(base, [row.path for row in rows], follow, [row.source for row in rows])
    rows = [row._replace(path=path) for row, path in zip(rows, paths, strict=True)]
    _check_listed_once(rows)
    inside = [row for row in rows if row.label is not None]
    absent = missing_files(base, [row.path for row in inside], follow=follow)
    gone = [row.path for row, out in zip(inside, absent, strict=True) if out]
    if missing == "error":
        refuse_missing(base, gone, len(inside))
    kept = [row for row, out in zip(inside, absent, strict=True) if not (out and missing == "drop")]
    if not kept:
        raise DataError(f"{file}: none of {len(rows)} rows is usable ({len(inside)} lie in a group)")
    found = _manifest(base, groups, kept, slice_columns)
    spellings += unlisted_notices(base, [row.path for row in rows])
    return AgeTableReading(found, _report(found, table, reader, rows, gone, missing, spellings))


def _report(
    manifest: Manifest,
    table: Table,
    reader: _RowReader,
    rows: Sequence[_Row],
    gone: list[str],
    rule: str,
    spellings: Sequence[str],
) -> AgeTableReport:
    gaps, known = [math.floor(row.age) for row in rows if row.label is None], reader.subject is not None
    alone = "NO SUBJECTS: every image counts as a subject of its own, so repeats of a subject may leak"
    return AgeTableReport(
        images=len(manifest),
        rows=len(rows),
        class_names=list(manifest.class_names),
        per_group=manifest.class_counts().tolist(),
        per_fold=np.unique(manifest["fold"], return_counts=True)[1].tolist() if reader.fold else None,
        subjects=known_count(manifest["subject"], known=known),
        users=known_count(manifest["user"], known=known or reader.user is not None),
        subjects_known=known,
        in_gaps=len(gaps),
        gap_ages={age: gaps.count(age) for age in sorted(set(gaps))},
        missing_images=len(gone),
        missing_first=gone[:5],
        missing_rule=rule,
        table=table.file.name,
        file_sha256=hashlib.sha256(table.file.read_bytes()).hexdigest(),
        notices=[
            *(*table.notices, *_unread(table, reader)),
            *([] if known else [alone]),
            *spellings,
        ],
    )


def _unread(table: Table, reader: _RowReader) -> list[str]:
    """Return a sentence on the columns that are not read, and the options that name those which could be."""
    columns = {name: column for name, column in vars(reader).items() if name not in ("groups", "slices")}
    free = [name for name in ("subject", "user", "gender", "fold") if columns[name] is None]
    options = ", ".join(f"--data.{name}_column" for name in free)
    how = f" ({options} name columns to read)" if free else ""
    return unread_columns(table, [*filter(None, columns.values()), *reader.slices], how)


def _holds_numbers(table: Table, column: str | None) -> bool:
    """Return whether a column that is there has a number in any row: one of group names has none."""
    place = table.header.index(column) if column in table.header else None
    return place is not None and any(math.isfinite(table.number(cells[place])) for _, cells in table.rows)


def _one_spelling_each(rows: Sequence[_Row], reader: _RowReader) -> tuple[list[_Row], list[str]]:
    """Return the rows with each subject and user in one spelling, and sentences on those that had several."""
    subjects, found = same_identities([row.subject for row in rows])
    users, more = same_identities([row.user for row in rows])
    if reader.subject is None:  # paths: each is a file of its own
        subjects, found = [row.subject for row in rows], {}
    if reader.user is None:
        users, more = subjects, {}
    merged = [
        row._replace(subject=subject, user=user)
        for row, subject, user in zip(rows, subjects, users, strict=True)
    ]
    told = [*spelling_notice("subjects", found), *spelling_notice("users", more)]
    told += [] if reader.subject is None else near_notice("subjects", subjects)
    return merged, told + ([] if reader.user is None else near_notice("users", users))


class _CellError(ValueError):
    """An invalid cell: the message names the column and the rule."""


@dataclass(frozen=True)
class _RowReader:
    """Turns the cells of a row into a `_Row`; the fields are the names of the columns."""

    groups: AgeGroups
    path: str
    age: str | None
    group: str | None
    subject: str | None
    user: str | None
    gender: str | None
    fold: str | None
    table: Table
    slices: tuple[str, ...] = ()

    def read(self, source: str, cells: Mapping[str, str]) -> _Row:
        """Return the row; _CellError names the first invalid cell."""
        path = self._filled(cells, self.path)
        label, age = self._label_and_age(cells)
        subject = self._filled(cells, self.subject) if self.subject is not None else path
        user = self._filled(cells, self.user) if self.user is not None else subject
        gender = cells[self.gender].lower() if self.gender is not None else ""
        gender = "" if is_absent(gender) else gender
        if gender not in GENDERS:
            raise _CellError(f"{self.gender} {gender!r} must be m, f, u or empty")
        slices = tuple("" if is_absent(cells[name]) else cells[name] for name in self.slices)
        return _Row(source, path, label, age, subject, user, GENDERS[gender], self._fold(cells), slices)

    def _filled(self, cells: Mapping[str, str], column: str) -> str:
        cell = cells[column]
        if is_absent(cell):
            says = " (an absent value, not a name)" if cell else ""
            raise _CellError(f"{column} {cell!r} is empty{says}; give each row one, or leave the row out")
        if is_broken(cell):
            raise _CellError(f"{column} {cell!r} holds control characters")
        return cell

    def _fold(self, cells: Mapping[str, str]) -> int:
        if self.fold is None:
            return -1
        number = whole_number(cells[self.fold])
        if number is None:
            raise _CellError(f"{self.fold} {cells[self.fold]!r} must be a whole number from 0")
        if number > HIGHEST_FOLD:
            raise _CellError(
                f"{self.fold} {cells[self.fold]!r} is no fold's number (0 to {HIGHEST_FOLD}); "
                "name another column"
            )
        return number

    def _label_and_age(self, cells: Mapping[str, str]) -> tuple[int | None, float]:
        if self.group is None:
            age = self._years(cells[str(self.age)])
            return self.groups.index_of(age), age
        label = self.groups.index_of_name(cells[self.group])
        if label is None:
            raise _CellError(
                f"{self.group} {cells[self.group]!r} must be one of {', '.join(self.groups.names)}"
            )
        text = cells.get(self.age, "") if self.age is not None else ""
        return label, math.nan if is_absent(text) else self._years(text)

    def _years(self, text: str) -> float:
        age = self.table.number(text)
        if not 0 <= age <= OLDEST:
            hint = self.table.comma_hint(text)
            raise _CellError(f"{self.age} {text!r} must be a number of years from 0 to {OLDEST}{hint}")
        return age


def _check_columns(table: Table, wanted: Sequence[str], subject: str | None) -> None:
    absent = [name for name in wanted if name not in table.header]
    hint = (
        "\nwithout subjects one subject can be in both training and test: name the column that holds them, "
        "or say --data.subject_column none if every image truly shows another subject"
    )
    if absent:
        raise DataError(f"{missing_columns(table, absent)}{hint if subject in absent else ''}")


def _collect(table: Table, read: Callable[[str, Mapping[str, str]], _Row]) -> list[_Row]:
    """Read every row, or raise DataError with all invalid cells."""
    rows, problems = [], []
    for number, cells in table.rows:
        try:
            rows.append(read(f"{table.file.name}:{number}", dict(zip(table.header, cells, strict=True))))
        except _CellError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        raise DataError(
            f"{table.file}: {len(problems)} of {len(table.rows)} rows are invalid:\n{listing(problems)}"
        )
    return rows


def _check_listed_once(rows: Sequence[_Row]) -> None:
    first: dict[str, _Row] = {}
    again = []
    for row in rows:
        before = first.setdefault(row.path, row)
        if before is not row:
            same = (before.label, before.subject) == (row.label, row.subject)
            kind = "the same row twice" if same else "two labels or two subjects"
            again.append(f"{row.path}: {before.source} and {row.source} ({kind})")
    if again:
        raise DataError(
            f"{len(again)} rows list a file again; each file belongs in one row:\n{listing(again)}"
        )


def _manifest(root: Path, groups: AgeGroups, rows: Sequence[_Row], slices: Sequence[str]) -> Manifest:
    names = ("path", "label", "fold", "subject", "user", "gender", "age")
    columns = {name: np.array([getattr(row, name) for row in rows]) for name in names}
    columns["source_id"] = np.array([row.source for row in rows])
    columns |= {SLICE + name: np.array([row.slices[i] for row in rows]) for i, name in enumerate(slices)}
    return Manifest(root, groups.names, columns)
