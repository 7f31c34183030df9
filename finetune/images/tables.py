"""A table's cells as text, from CSV in the usual dialects or from parquet, and the root of its paths.

No cell is interpreted here: `finetune.images.cells` says what cells mean.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from finetune.errors import DataError, UsageError, listing
from finetune.images.cells import SpelledPaths, bare, is_broken, real_number, slashes
from finetune.runs.csv_file import plain_cell

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
MOST_NAMED, LONGEST_SHOWN = 10, 40  # columns, and letters of each, that a sentence shows
TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
PLAIN_PATH = re.compile(r"[^/\\.:][^/\\:]*(?:/[^/\\.][^/\\]*)*")  # as PurePosixPath would write it
DRIVE = re.compile(r"[A-Za-z]:/")
COMMA_NUMBER = re.compile(r"[+-]?\d*,\d+")
SEP_LINE = re.compile(r"\"?sep=(.)\"?[,;\t]*", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """Cells without blanks and signs of no width at their ends.

    `rows` holds (number, cells) pairs, the number being the line of a text file.

    In parquet files rows count from 1, and an absent value is an empty cell. `notices` reports a dialect
    other than plain CSV. `decimal_comma` is whether a number may have a comma (0,5): where semicolons or tabs
    separate the columns. `nested` names columns that hold lists or records, which are no cells.
    """

    file: Path
    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    notices: tuple[str, ...] = ()
    decimal_comma: bool = False
    nested: tuple[str, ...] = ()

    def number(self, cell: str) -> float:
        """Return a cell as a number, NaN where it is none."""
        if self.decimal_comma and COMMA_NUMBER.fullmatch(cell):
            cell = cell.replace(",", ".")
        found = real_number(cell)
        return math.nan if found is None else found

    def comma_hint(self, *cells: str) -> str:
        """Return what to say where one of these cells has a comma that is read as no decimal sign here."""
        if self.decimal_comma or not any(map(COMMA_NUMBER.fullmatch, cells)):
            return ""
        return (
            "; a decimal comma is read only where semicolons or tabs separate the columns: write 0.5, or "
            "save the table with semicolons"
        )


def read_table(file: Path) -> Table:
    """Read a .csv, .tsv, .txt or .parquet table; comma, semicolon or tab are recognised by the first line.

    UTF-8 is read, and UTF-16 that begins with its byte-order mark. CRLF line ends, blank lines, Excel's first
    line "sep=;" and empty cells behind the last column are tolerated; columns without a name are left out.
    Raises DataError naming file and line when the file is missing, is not UTF-8, has ragged rows, repeats a
    column's name or holds no row; UsageError for another file type.
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
    if not table.rows:
        raise DataError(f"{file}: no row follows the header")
    return _named_columns(table)


def decode_text(content: bytes, file: Path | str) -> tuple[str, list[str]]:
    """Return the text of a table or list, and a notice where it is UTF-16.

    Raises DataError, naming the encoding where it is known, for bytes that are neither UTF-8 nor UTF-16 with
    a byte-order mark.

    >>> decode_text("a,b".encode("utf-16"), "t.csv")
    ('a,b', ['t.csv is UTF-16 text'])
    """
    name = Path(file).name
    if content.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        raise DataError(f"{file} is UTF-32 text; save it as UTF-8")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16"), [f"{name} is UTF-16 text"]
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: byte {error.start} is not UTF-16 text; save it as UTF-8") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: byte {error.start} is not UTF-8 text; save the table as UTF-8") from None
    if "\0" in text:
        raise DataError(
            f"{file} holds zero bytes, as UTF-16 text without a byte-order mark does; save it as UTF-8"
        )
    return text, []


def _refuse_doubled(file: Path, header: Sequence[str]) -> None:
    doubled = sorted(name for name, count in Counter(header).items() if name and count > 1)
    if doubled:
        raise DataError(f"{file}, line 1: columns named twice: {', '.join(doubled)}")


def _named_columns(table: Table) -> Table:
    """Return the table without columns that have no name, and say so; two of them with cells are refused."""
    nameless = [place for place, name in enumerate(table.header) if not name]
    if not nameless:
        return table
    filled = [str(place + 1) for place in nameless if any(cells[place] for _, cells in table.rows)]
    if len(filled) > 1:
        raise DataError(
            f"{table.file}, line 1: columns {', '.join(filled)} have no name; name each, or remove it"
        )
    kept = [place for place, name in enumerate(table.header) if name]
    rows = tuple((number, tuple(cells[place] for place in kept)) for number, cells in table.rows)
    listed = ", ".join(str(place + 1) for place in nameless)
    empty = "" if filled else " and no cell"
    told = f"{table.file.name}: columns without a name{empty} are left out: {listed}"
    header = tuple(filter(None, table.header))
    return replace(table, header=header, rows=rows, notices=(*table.notices, told))


def _read_text(file: Path) -> Table:
    text, notices = decode_text(file.read_bytes(), file)
    first, _, rest = text.partition("\n")
    declared = SEP_LINE.fullmatch(first.strip())
    skipped = 0
    if declared:  # Excel's own line; the header follows it
        text, skipped, separator = rest, 1, declared[1]
    else:
        separator = max(SEPARATORS, key=first.count)
    called = SEPARATORS.get(separator, f"{separator!r}")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, tuple[str, ...]]] = []
    try:
        header = tuple(plain_cell(bare(name)) for name in next(reader, []))
        _refuse_doubled(file, header)
        for cells in reader:
            if not any(map(bare, cells)):
                continue
            line = reader.line_num + skipped
            beyond = cells[len(header) :]
            if len(cells) < len(header) or any(map(bare, beyond)):
                raise DataError(f"{file}, line {line}: {_ragged(cells, header, called)}")
            rows.append((line, tuple(plain_cell(bare(cell)) for cell in cells[: len(header)])))
    except csv.Error as error:
        line = reader.line_num + skipped
        raise DataError(f"{file}, line {line}: not readable as CSV: {error}") from None
    if separator != ",":
        notices.append(f"{file.name}: columns are separated by {called}{'s' if called.isalpha() else ''}")
    return Table(file, header, tuple(rows), tuple(notices), decimal_comma=separator in ";\t")


def _ragged(cells: Sequence[str], header: Sequence[str], called: str) -> str:
    """Return what is wrong with a row that has more or fewer cells than the header."""
    if any(words[0].startswith("#") for words in (cells, header) if words):
        return "a line that begins with # is no comment in a table; remove such lines"
    return (
        f"{len(cells)} cells under {len(header)} columns; a cell that holds a {called} must stand in double "
        "quotes"
    )


def _read_parquet(file: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Opened here: pyarrow cannot open a name that is no UTF-8, and reads a folder's name as a key.
        with file.open("rb") as stream, pq.ParquetFile(stream) as opened:
            names = tuple(map(bare, opened.schema_arrow.names))
            _refuse_doubled(file, names)
            table = opened.read()
    except pa.ArrowException as error:
        raise DataError(f"{file} is not readable as parquet: {error}") from None
    nested = [
        name for name, column in zip(names, table.columns, strict=True) if pa.types.is_nested(column.type)
    ]
    kept = [name for name in names if name not in nested]
    columns = [_parquet_cells(table.column(place)) for place, name in enumerate(names) if name in kept]
    rows = tuple(enumerate(zip(*columns, strict=True), start=1))
    return Table(file, tuple(kept), rows, nested=tuple(nested))


def _parquet_cells(column: Any) -> list[str]:
    """Return a column's cells as text; a time that Python cannot hold is the number that stands for it."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        return list(map(_parquet_cell, column.to_pylist()))
    except (ValueError, OverflowError, LookupError):
        whole = pa.int32() if column.type.bit_width == 32 else pa.int64()
        return list(map(_parquet_cell, column.cast(whole).to_pylist()))


def _parquet_cell(value: object) -> str:
    if value is None:
        return ""
    return bare(value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value))


def unread_columns(table: Table, read: Sequence[str], how: str = "") -> list[str]:
    """Return a sentence on the columns of a table that play no part; none where all are read.

    Args:
        table: the table.
        read: the columns that are read.
        how: what is added, such as the options that name further columns.
    """
    unread = [name for name in (*table.header, *table.nested) if name not in read]
    if not unread:
        return []
    names = ", ".join(name[:LONGEST_SHOWN] for name in unread[:MOST_NAMED])
    more = f", ... ({len(unread)} in all)" if len(unread) > MOST_NAMED else ""
    return [f"{table.file.name}: columns that are not read: {names}{more}{how}"]


def refuse_misspelt(table: Table, optional: Sequence[str]) -> None:
    """Raise DataError for a column that is an optional one but for its capitals: it would be passed over."""
    exact = {name.casefold(): name for name in optional if name not in table.header}
    odd = [f"{name}: {exact[name.casefold()]}" for name in table.header if name.casefold() in exact]
    if odd:
        raise DataError(
            f"{table.file}, line 1: names of columns are exact, capitals too; rename them:\n{listing(odd)}"
        )


def missing_columns(table: Table, absent: Sequence[str]) -> str:
    """Return a sentence on columns that a table lacks, for people who may have left out the header."""
    nested = f"; lists or records are no cells: {', '.join(table.nested)}" if table.nested else ""
    return (
        f"{table.file}, line 1: missing columns: {', '.join(absent)}; found: {', '.join(table.header)}. "
        f"The first line must name the columns{nested}"
    )


def paths_under(
    root: Path, paths: Sequence[str], follow: bool, rows: Sequence[str] | None = None
) -> tuple[Path, list[str]]:
    """Return a root, and the paths of a table relative to it, with forward slashes, as they lie on disk.

    A backslash is a slash. A file whose name on disk is in another Unicode form than in the table is found.
    With `follow` the root may move up to hold every file. `rows` name the row of each path in messages.

    Raises DataError, listing them, for paths that leave the root without `follow`, paths with a drive's
    letter, and paths that hold control characters.
    """
    told = list(paths) if rows is None else list(map(": ".join, zip(rows, paths, strict=True)))
    _refuse_broken(told, paths)
    pure = [path if PLAIN_PATH.fullmatch(path) else PurePosixPath(slashes(path)) for path in paths]
    outside = [
        line
        for line, path in zip(told, pure, strict=True)
        if not isinstance(path, str) and (path.is_absolute() or ".." in path.parts or DRIVE.match(str(path)))
    ]
    if not outside:
        spelled = SpelledPaths(root)
        return root, [spelled.find(str(path)) for path in pure]
    if not follow:
        raise DataError(
            f"{len(outside)} paths leave the data root {root} (absolute, or with ..); write them relative to "
            f"it, or allow it with --data.follow true:\n{listing(outside)}"
        )
    files = [os.path.normpath(root.absolute() / path) for path in pure]
    base = Path(os.path.commonpath([os.path.dirname(name) for name in files]))  # noqa: PTH120
    spelled = SpelledPaths(base)
    return base, [spelled.find(Path(name).relative_to(base).as_posix()) for name in files]


def _refuse_broken(told: Sequence[str], paths: Sequence[str]) -> None:
    odd = [
        line.encode("unicode_escape", "backslashreplace").decode() if is_broken(path) else line
        for line, path in zip(told, paths, strict=True)
        if is_broken(path)
    ]
    if odd:
        raise DataError(
            f"{len(odd)} paths hold control characters, or bytes that are no UTF-8; rename the files:\n"
            f"{listing(odd)}"
        )
