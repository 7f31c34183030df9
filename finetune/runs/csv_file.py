"""The one writer of CSV: no cell is a formula to a spreadsheet, and the names come back as they were."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

FORMULA_STARTS = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")  # the last four are the wide forms of the first
APOSTROPHE = "'"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*(e[+-]?\d+)?|inf|nan)")


class CsvWriter:
    """Writes rows to a stream of text (opened with newline="") by RFC 4180.

    Words that a spreadsheet would run as a formula get an apostrophe before them; numbers stay numbers, and
    None is an empty cell.

    Args:
        stream: where the rows go.
        line_end: what ends a line.
    """

    def __init__(self, stream: IO[str], line_end: str = "\n") -> None:
        self._rows = csv.writer(stream, lineterminator=line_end)

    def row(self, cells: Iterable[Any]) -> None:
        """Write one row."""
        self._rows.writerow([safe_cell(cell) if isinstance(cell, str) else cell for cell in cells])

    def rows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Write one row after the other."""
        for cells in rows:
            self.row(cells)


def csv_text(header: Sequence[str], rows: Iterable[Iterable[Any]], line_end: str = "\n") -> str:
    """Return a whole table as CSV.

    >>> csv_text(["class", "images"], [["=1+1", -3]])
    "class,images\\n'=1+1,-3\\n"
    """
    text = io.StringIO(newline="")
    writer = CsvWriter(text, line_end)
    writer.row(header)
    writer.rows(rows)
    return text.getvalue()


def read_csv(stream: Iterable[str]) -> Iterator[list[str]]:
    """Yield the rows of a file that `CsvWriter` wrote, its words as they were.

    >>> list(read_csv(["'=1+1,-3,it's"]))
    [['=1+1', '-3', "it's"]]
    """
    for row in csv.reader(stream):
        yield [plain_cell(cell) for cell in row]


def safe_cell(text: str) -> str:
    """Return `text` so that a spreadsheet shows it: never a formula, and writable as UTF-8.

    >>> safe_cell("=1+1"), safe_cell("25-32"), safe_cell("-0.5"), safe_cell("cat")
    ("'=1+1", '25-32', '-0.5', 'cat')
    """
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")
    return f"{APOSTROPHE}{text}" if _is_formula(text) else text


def plain_cell(cell: str) -> str:
    """Return a cell without the apostrophe that `safe_cell` put before it.

    >>> plain_cell(safe_cell("@cat")), plain_cell("'tis")
    ('@cat', "'tis")
    """
    return cell[1:] if cell.startswith(APOSTROPHE) and _is_formula(cell[1:]) else cell


def _is_formula(text: str) -> bool:
    """Return whether a spreadsheet may run a cell, or would take an apostrophe of its own for ours."""
    return text.lstrip(" '").startswith(FORMULA_STARTS) and not _NUMBER.fullmatch(text)
