"""Answers as rows of a CSV, JSONL or parquet file: written as they come, there only once they are whole."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from apps.predict.predict import Answer
from finetune.cli.console import on_one_line as on_one_line
from finetune.errors import UsageError
from finetune.runs.csv_file import CsvWriter
from finetune.runs.files import atomic_file

SUFFIXES = (".csv", ".jsonl", ".parquet")
METADATA_KEY = "crl_toolkit.models"
ROWS_AT_ONCE = 4096
FACE_COLUMNS = ("face", "x", "y", "width", "height", "face_score", "warnings")
SET_RANGE, SET_NAMES, SET_SIZE = ("set_low", "set_high"), "set", "set_size"
WHOLE_NUMBERS = ("face", SET_SIZE)
NUMBERS = ("time", "x", "y", "width", "height", "face_score")

Write = Callable[[Answer], None]


@dataclass(frozen=True)
class Layout:
    """What the rows of one file hold.

    Args:
        models: title and SHA-256 of each model, in the order of `Answer.model`.
        class_names: the classes of all models; None where they differ, which only JSONL can hold.
        times: whether there are videos, whose rows have a time in seconds.
        faces: whether the rows are faces.
        best: how many of the most probable classes have columns of their own, 1 or more.
        further: what the task tells of an answer, column -> its number of probs (K,), such as an age.
        sets: of each model "range" where it has sets of ordered classes, "names" where it has sets of others,
            "" where it has none.
    """

    models: Sequence[tuple[str, str]]
    class_names: tuple[str, ...] | None
    times: bool = False
    faces: bool = False
    best: int = 1
    further: Mapping[str, Callable[[np.ndarray], float]] = field(default_factory=dict)
    sets: Sequence[Literal["range", "names", ""]] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns: path, (time), (the face), what was answered, then `p(<class>)` for every class.

        What was answered is model, status, reason, class, probability and, as far as `best` goes, "class 2",
        "probability 2" and so on, then the task's further columns and those of the set: set_low and set_high
        of ordered classes, set (the most probable class first) of others, and set_size.
        """
        first = ("path", *(("time",) if self.times else ()), *(FACE_COLUMNS if self.faces else ()))
        classes = tuple(f"p({readable(name)})" for name in self.class_names or ())
        ranks = itertools.chain.from_iterable(map(rank_columns, range(1, self.best + 1)))
        told = (*ranks, *self.further, *self.set_columns)
        return (*first, "model", "status", "reason", *told, *classes)

    @property
    def set_columns(self) -> tuple[str, ...]:
        """The columns of the sets; none where no model has sets."""
        ends = SET_RANGE if "range" in self.sets else ()
        names = (SET_NAMES,) if "names" in self.sets else ()
        return (*ends, *names, SET_SIZE) if ends or names else ()

    def set_cells(self, answer: Answer) -> dict[str, Any]:
        """Return the cells of an answer's set by column, None where it has none; names are a list."""
        cells: dict[str, Any] = dict.fromkeys(self.set_columns)
        if answer.inside is None or answer.model is None or not cells:
            return cells
        inside = [name for name, kept in zip(answer.class_names, answer.inside, strict=True) if kept]
        if self.sets[answer.model] == "range":
            cells |= zip(SET_RANGE, (readable(inside[0]), readable(inside[-1])), strict=True)
        else:
            ranked = [name for name, _ in answer.top(len(answer.class_names))]
            kept = set(inside)
            cells[SET_NAMES] = [readable(name) for name in ranked if name in kept]
        return cells | {SET_SIZE: len(inside)}

    def cells(self, answer: Answer) -> dict[str, Any]:
        """Return the cells of one answer by column, without the classes'; None for nothing to say."""
        cells: dict[str, Any] = {"path": readable(answer.path)}
        if self.times:
            cells["time"] = None if answer.time is None else round(answer.time, 3)
        if self.faces:
            cells |= dict.fromkeys(FACE_COLUMNS) | face_cells(answer)
        cells |= {
            "model": None if answer.model is None else readable(self.models[answer.model][0]),
            "status": answer.status,
            "reason": readable(answer.reason) or None,
        }
        found = [(readable(name), nine_digits(value)) for name, value in answer.top(self.best)]
        for rank, pair in enumerate(found + [(None, None)] * (self.best - len(found)), 1):
            cells |= zip(rank_columns(rank), pair, strict=True)
        return cells | self.further_cells(answer)

    def further_cells(self, answer: Answer) -> dict[str, Any]:
        """Return the cells of the further columns and of the set, by column: of a model's own classes."""
        own = answer.read_from or answer
        probs = own.probs
        told = {
            name: None if probs is None else value_of(np.asarray(probs, dtype=float))
            for name, value_of in self.further.items()
        }
        return told | self.set_cells(own)

    def row(self, answer: Answer) -> list[Any]:
        """Return the cells of one answer in the order of `columns`."""
        nothing = [None] * len(self.class_names or ())
        cells = self.cells(answer)
        if cells.get(SET_NAMES) is not None:
            cells[SET_NAMES] = "; ".join(cells[SET_NAMES])
        return [*cells.values(), *(shares(answer) or nothing)]


def rank_columns(rank: int) -> tuple[str, str]:
    """Return the columns of a class by its rank among the most probable ones, from 1, and its probability.

    >>> rank_columns(1), rank_columns(2)
    (('class', 'probability'), ('class 2', 'probability 2'))
    """
    return ("class", "probability") if rank == 1 else (f"class {rank}", f"probability {rank}")


def shares(answer: Answer) -> list[float]:
    """Return the probabilities of an answer with nine digits, [] without any."""
    return [] if answer.probs is None else [nine_digits(value) for value in answer.probs.tolist()]


def face_cells(answer: Answer) -> dict[str, Any]:
    """Return the cells that say where a face is, in pixels of the image; empty for a whole image."""
    if answer.face is None:
        return {}
    box = [round(float(value), 1) for value in answer.face.box]
    return {
        "face": answer.face_number,
        **dict(zip(("x", "y", "width", "height"), box, strict=True)),
        "face_score": None if math.isnan(answer.face.score) else round(float(answer.face.score), 4),
        "warnings": "; ".join(answer.face.warnings()) or None,
    }


def check_suffix(option: str, file: str | None, suffixes: Sequence[str]) -> Path | None:
    """Return the file named by an option; UsageError unless its ending is offered and it is no folder."""
    if file is None:
        return None
    path = Path(file)
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{option} {file}: the name must end in {', '.join(suffixes)}")
    if path.is_dir():
        raise UsageError(f"{option} {file}: this is a folder; give the name of a file")
    return path


@contextmanager
def open_predictions(file: Path, layout: Layout) -> Iterator[Write]:
    """Yield a function that adds one answer to `file`; the file is there once the block has ended well.

    The ending chooses the format. CSV follows RFC 4180, and no cell is a formula to a spreadsheet. JSONL has
    an object per row, with the probabilities by class under `probs`. Parquet names the models with their
    SHA-256 in the metadata entry `crl_toolkit.models`. Missing folders are made.

    Raises ResourceError where the file cannot be written; a previous file stays as it was then.
    """
    writers = {".csv": _csv_rows, ".jsonl": _json_rows, ".parquet": _parquet_rows}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{file}: its folder cannot be made: {error.strerror}") from None
    with atomic_file(file) as stream, writers[file.suffix.lower()](stream, layout) as write:
        yield write


@contextmanager
def _csv_rows(stream: BinaryIO, layout: Layout) -> Iterator[Write]:
    text = io.TextIOWrapper(stream, encoding="utf-8", newline="", write_through=True)
    writer = CsvWriter(text, "\r\n")
    writer.row(layout.columns)

    def write(answer: Answer) -> None:
        writer.row(layout.row(answer))

    try:
        yield write
    finally:
        text.detach()


@contextmanager
def _json_rows(stream: BinaryIO, layout: Layout) -> Iterator[Write]:
    def write(answer: Answer) -> None:
        cells = layout.cells(answer)
        if answer.probs is not None:
            cells["probs"] = dict(zip(map(readable, answer.class_names), shares(answer), strict=True))
        stream.write(json.dumps(cells, ensure_ascii=False, allow_nan=False).encode() + b"\n")

    yield write


@contextmanager
def _parquet_rows(stream: BinaryIO, layout: Layout) -> Iterator[Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def kind(name: str) -> Any:
        if name in WHOLE_NUMBERS:
            return pa.int32()
        number = name.startswith(("p(", "probability")) or name in (*NUMBERS, *layout.further)
        return pa.float64() if number else pa.string()

    models = [{"title": title, "sha256": sha256} for title, sha256 in layout.models]
    schema = pa.schema([(name, kind(name)) for name in layout.columns], {METADATA_KEY: json.dumps(models)})
    rows: list[list[Any]] = []
    with pq.ParquetWriter(stream, schema, write_page_checksum=True) as writer:

        def flush() -> None:
            columns = [[row[place] for row in rows] for place in range(len(schema))]
            writer.write_table(pa.table(columns, schema=schema))
            rows.clear()

        def write(answer: Answer) -> None:
            rows.append(layout.row(answer))
            if len(rows) >= ROWS_AT_ONCE:
                flush()

        yield write
        flush()


def readable(text: str) -> str:
    r"""Return `text` as valid Unicode: bytes of a file name that are none are spelled out.

    >>> print(readable("caf\udce9.jpg"))
    caf\udce9.jpg
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def nine_digits(value: float) -> float:
    """Return a probability with the digits that a 32-bit float has.

    >>> nine_digits(0.30000001192092896)
    0.300000012
    """
    return float(f"{value:.9g}")
