"""A table's cells as text, from CSV in the usual dialects or from parquet, and the root of its paths.

No cell is interpreted here.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from finetune.errors import DataError, UsageError, listing

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
TEXT_SUFFIXES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class Table:
    """Stripped cells: `rows` holds (number, cells) pairs, the number being the line of a text file.

    In parquet files rows count from 1, and an absent value is an empty cell. `notices` reports a dialect
    other than plain CSV.
    """

    file: Path
    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    notices: tuple[str, ...] = ()


def read_table(file: Path) -> Table:
    """Read a .csv, .tsv, .txt or .parquet table; comma, semicolon or tab are recognised by the first line.

    A byte-order mark, CRLF line ends and blank lines are tolerated. Raises DataError naming file and line
    when the file is missing, is not UTF-8, has ragged rows, repeats a column's name or holds no row;
    UsageError for another file type.
    """
    if not file.is_file():
        raise DataError(f"{file} is not there (or is no file); give a .csv or .parquet table of images")
    suffix = file.suffix.lower()
    if suffix != ".parquet" and suffix not in TEXT_SUFFIXES:
        raise UsageError(f"{file}: a table must be {', '.join(TEXT_SUFFIXES)} or .parquet, not {suffix!r}")
    try:
        table = _read_parquet(file) if suffix == ".parquet" else _read_text(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None
    doubled = sorted({name for name in table.header if table.header.count(name) > 1})
    if doubled:
        raise DataError(f"{file}, line 1: columns named twice: {', '.join(doubled)}")
    if not table.rows:
        raise DataError(f"{file}: no row follows the header")
    return table


def _read_text(file: Path) -> Table:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: byte {error.start} is not UTF-8 text; save the table as UTF-8") from None
    first = text.split("\n", 1)[0]
    separator = max(SEPARATORS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, tuple[str, ...]]] = []
    try:
        header = tuple(name.strip() for name in next(reader, []))
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{file}, line {reader.line_num}: {len(cells)} cells under {len(header)} columns; a cell "
                    f"that holds a {SEPARATORS[separator]} must stand in double quotes"
                )
            rows.append((reader.line_num, tuple(cell.strip() for cell in cells)))
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: not readable as CSV: {error}") from None
    notices = () if separator == "," else (f"{file.name}: columns are separated by {SEPARATORS[separator]}s",)
    return Table(file, header, tuple(rows), notices)


def _read_parquet(file: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except pa.ArrowException as error:
        raise DataError(f"{file} is not readable as parquet: {error}") from None
    columns = [
        ["" if value is None else str(value).strip() for value in table[name].to_pylist()]
        for name in table.column_names
    ]
    rows = tuple(enumerate(zip(*columns, strict=True), start=1))
    return Table(file, tuple(table.column_names), rows)


def paths_under(
    root: Path, paths: Sequence[str], follow: bool, rows: Sequence[str] | None = None
) -> tuple[Path, list[str]]:
    """Return a root, and the paths of a table relative to it, with forward slashes.

    With `follow` the root may move up to hold every file. `rows` name the row of each path in messages.

    Raises DataError, listing them, for paths that leave the root without `follow`.
    """
    pure = [PurePosixPath(path) for path in paths]
    told = [str(path) for path in pure] if rows is None else map(": ".join, zip(rows, paths, strict=True))
    outside = [
        line for line, path in zip(told, pure, strict=True) if path.is_absolute() or ".." in path.parts
    ]
    if not outside:
        return root, [path.as_posix() for path in pure]
    if not follow:
        raise DataError(
            f"{len(outside)} paths leave the data root {root} (absolute, or with ..); write them relative to "
            f"it, or allow it with --data.follow true:\n{listing(outside)}"
        )
    files = [os.path.normpath(root.absolute() / path) for path in pure]
    base = Path(os.path.commonpath([os.path.dirname(name) for name in files]))  # noqa: PTH120
    return base, [Path(name).relative_to(base).as_posix() for name in files]
