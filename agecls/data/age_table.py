"""Read any table of image paths, ages (or groups) and subjects: CSV in the usual dialects, or parquet."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agecls.data.age_rows import AgeRow, CellError, RowReader
from agecls.data.groups import ADIENCE_GROUPS, AgeGroups
from finetune.errors import DataError, UsageError, listing
from finetune.images.cells import (
    near_notice,
    same_identities,
    spelling_notice,
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


def read_age_table(
    file: Path | Table,
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
    """Read a .csv or .parquet table with one image per row, or one that was read, into a manifest.

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
    check_missing_rule(missing)
    age_column = None if age_column == group_column else age_column
    class_column = group_column or age_column
    if class_column is None:
        raise UsageError("a table of ages needs an age_column or a group_column")
    optional = (subject_column, user_column, gender_column, fold_column)
    table = file if isinstance(file, Table) else read_table(Path(file))
    refuse_target(class_column, table.file)
    wanted = [path_column, class_column, *filter(None, optional), *slice_columns]
    _check_columns(table, wanted, subject_column)
    reader = RowReader(
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
    base = Path(root) if root is not None else table.file.parent
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
        raise DataError(f"{table.file}: none of {len(rows)} rows is usable ({len(inside)} lie in a group)")
    manifest = _manifest(base, groups, kept, slice_columns)
    spellings += unlisted_notices(base, [row.path for row in rows])
    content = _listed(table) if isinstance(file, Table) else table.file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return AgeTableReading(manifest, _report(manifest, table, reader, rows, gone, missing, spellings, digest))


def _listed(table: Table) -> bytes:
    """Return the cells of a table that lies in no file."""
    return json.dumps([table.header, table.rows]).encode()


def _report(
    manifest: Manifest,
    table: Table,
    reader: RowReader,
    rows: Sequence[AgeRow],
    gone: list[str],
    rule: str,
    spellings: Sequence[str],
    digest: str,
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
        file_sha256=digest,
        notices=[
            *(*table.notices, *_unread(table, reader)),
            *([] if known else [alone]),
            *spellings,
        ],
    )


def _unread(table: Table, reader: RowReader) -> list[str]:
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


def _one_spelling_each(rows: Sequence[AgeRow], reader: RowReader) -> tuple[list[AgeRow], list[str]]:
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


def _check_columns(table: Table, wanted: Sequence[str], subject: str | None) -> None:
    absent = [name for name in wanted if name not in table.header]
    hint = (
        "\nwithout subjects one subject can be in both training and test: name the column that holds them, "
        "or say --data.subject_column none if every image truly shows another subject"
    )
    if absent:
        raise DataError(f"{missing_columns(table, absent)}{hint if subject in absent else ''}")


def _collect(table: Table, read: Callable[[str, Mapping[str, str]], AgeRow]) -> list[AgeRow]:
    """Read every row, or raise DataError with all invalid cells."""
    rows, problems = [], []
    for number, cells in table.rows:
        try:
            rows.append(read(f"{table.file.name}:{number}", dict(zip(table.header, cells, strict=True))))
        except CellError as error:
            problems.append(f"row {number}: {error}")
    if problems:
        raise DataError(
            f"{table.file}: {len(problems)} of {len(table.rows)} rows are invalid:\n{listing(problems)}"
        )
    return rows


def _check_listed_once(rows: Sequence[AgeRow]) -> None:
    first: dict[str, AgeRow] = {}
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


def _manifest(root: Path, groups: AgeGroups, rows: Sequence[AgeRow], slices: Sequence[str]) -> Manifest:
    names = ("path", "label", "fold", "subject", "user", "gender", "age")
    columns = {name: np.array([getattr(row, name) for row in rows]) for name in names}
    columns["source_id"] = np.array([row.source for row in rows])
    columns |= {SLICE + name: np.array([row.slices[i] for row in rows]) for i, name in enumerate(slices)}
    return Manifest(root, groups.names, columns)
