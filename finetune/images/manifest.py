"""The table of images that every reader returns: numpy columns, one class list, one fingerprint."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from finetune.errors import DataError, listing
from finetune.images.people import refuse_classes
from finetune.runs.csv_file import CsvWriter, read_csv
from finetune.runs.files import write_bytes
from finetune.runs.parse import parse_json

# Columns that change what is trained or tested; the fingerprint covers them and nothing else.
IDENTITY_COLUMNS = ("path", "label", "fold", "split", "subject", "user")
NUMBER_TYPES = {
    "label": np.int64,
    "fold": np.int64,
    "age": np.float64,
    "x1": np.float64,
    "y1": np.float64,
    "x2": np.float64,
    "y2": np.float64,
}


@dataclass(frozen=True)
class Manifest:
    """Images under one root, with their labels and whatever else the reader knows of them.

    `root` is the folder that the relative, slash-separated `path` column starts from. `class_names` fixes the
    class indices once and for all. `columns` maps a column's name to a numpy array of length N: `path` (str)
    and `label` (int64, zero-based) are required; `fold` (int64), `split`, `subject`, `user` (the album or
    account a subject belongs to), `source_id`, `gender` (str), `age` (float64, years) and the box `x1, y1,
    x2, y2` (float64, pixels) are optional, as is any further column a reader adds.

    Raises DataError, naming the row, when a label lies outside [0, K) or is no whole number, when columns
    differ in length, when a path is absolute or climbs out of the root, or when one file has two labels.
    (One file listed twice with one label is the reader's decision: a published list may hold duplicates.)
    UsageError where the classes are ethnicities or races.
    """

    root: Path
    class_names: tuple[str, ...]
    columns: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        typed = {name: _as_column(name, values) for name, values in self.columns.items()}
        object.__setattr__(self, "root", Path(self.root))
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "columns", typed)
        _check_columns(typed)
        _check_labels(typed["label"], self.class_names)
        refuse_classes(self.class_names)
        _check_paths(typed["path"])
        _check_one_label_per_file(typed["path"], typed["label"])

    def __len__(self) -> int:
        return len(self.columns["path"])

    def __getitem__(self, name: str) -> np.ndarray:
        """Return the column `name`; KeyError lists the columns there are."""
        if name not in self.columns:
            raise KeyError(f"no column {name!r}; this manifest has {', '.join(self.columns)}")
        return self.columns[name]

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    @property
    def label(self) -> np.ndarray:
        """Zero-based class indices, int64 (N,)."""
        return self.columns["label"]

    @property
    def num_classes(self) -> int:
        """K, the length of the class list (classes without an image count too)."""
        return len(self.class_names)

    def file(self, row: int) -> Path:
        """Return the image file of a row."""
        return self.root / str(self.columns["path"][row])

    def files(self) -> list[str]:
        """Return the image file of every row, as text: thousands of paths cost a moment."""
        root = os.path.join(self.root, "")  # noqa: PTH118
        return [root + path for path in self.columns["path"].tolist()]

    def class_counts(self) -> np.ndarray:
        """Return the number of images of each class, int64 (K,)."""
        return np.bincount(self.label, minlength=self.num_classes)

    def select(self, rows: np.ndarray) -> Manifest:
        """Return the manifest of these rows (indices or a boolean mask); the class list stays whole."""
        return Manifest(
            self.root, self.class_names, {name: values[rows] for name, values in self.columns.items()}
        )

    def with_column(self, name: str, values: np.ndarray) -> Manifest:
        """Return a manifest with one column added or replaced."""
        return Manifest(self.root, self.class_names, {**self.columns, name: values})

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the class list and the columns that decide what is trained and tested, hexadecimal.

        The root is left out: the same data under another folder is the same data.
        """
        digest = hashlib.sha256(json.dumps(self.class_names).encode())
        for name in IDENTITY_COLUMNS:
            if name in self.columns:
                digest.update(f"\n{name}\n".encode())
                digest.update("\n".join(map(str, self.columns[name].tolist())).encode())
        return digest.hexdigest()

    def save(self, file: Path) -> None:
        """Write the table as .parquet (class list inside) or .csv (class list in `<name>.classes.json`)."""
        if file.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            table = pa.table({name: pa.array(values.tolist()) for name, values in self.columns.items()})
            content = io.BytesIO()
            pq.write_table(
                table.replace_schema_metadata({"class_names": json.dumps(self.class_names)}), content
            )
            write_bytes(file, content.getvalue())
            return
        text = io.StringIO(newline="")
        writer = CsvWriter(text, "\r\n")
        writer.row(self.columns)
        writer.rows(zip(*(values.tolist() for values in self.columns.values()), strict=True))
        write_bytes(file, text.getvalue().encode())
        write_bytes(_classes_file(file), json.dumps(self.class_names).encode())

    @classmethod
    def load(cls, file: Path, root: Path) -> Manifest:
        """Read what `save` wrote; `root` is where the images lie now.

        Raises DataError, naming the file, where it is missing, damaged or was not written by `save`.
        """
        names, columns = _read_parquet(file) if file.suffix == ".parquet" else _read_csv(file)
        return cls(root, tuple(names), columns)


def _read_parquet(file: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read the table {file}: {error}") from error
    metadata = table.schema.metadata or {}
    if b"class_names" not in metadata:
        raise DataError(f"{file} carries no class_names: it is no manifest of this toolkit")
    columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    try:
        names = parse_json(metadata[b"class_names"])
    except ValueError as error:
        raise DataError(f"{file}: its class_names cannot be read: {error}") from error
    return names, columns


def _read_csv(file: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            lines = list(read_csv(stream))
        names = parse_json(_classes_file(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"cannot read the table {file}: {error}") from error
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    uneven = [f"row {row}: {len(cells)} cells" for row, cells in enumerate(rows) if len(cells) != len(header)]
    if uneven:
        raise DataError(f"{file} has {len(header)} columns, but:\n{listing(uneven)}")
    return names, {name: np.array([cells[place] for cells in rows]) for place, name in enumerate(header)}


def _classes_file(file: Path) -> Path:
    return file.with_suffix(".classes.json")


def _as_column(name: str, values: np.ndarray | Sequence[object]) -> np.ndarray:
    array = np.asarray(values)
    if name not in NUMBER_TYPES:
        return array.astype(str) if array.dtype.kind != "U" else array
    wanted = NUMBER_TYPES[name]
    if array.dtype.kind not in "iufb":
        array = np.array([_number(name, row, value, wanted) for row, value in enumerate(array.tolist())])
    if wanted is np.int64 and array.dtype.kind == "f":
        cells = enumerate(array.tolist())
        broken = [f"row {row}: {value}" for row, value in cells if not value.is_integer()]
        if broken:
            raise DataError(f"column {name!r} must hold whole numbers:\n{listing(broken)}")
    return array.astype(wanted)


def _number(name: str, row: int, value: object, wanted: type) -> float:
    """Return a cell as a number of the wanted kind (an absent float is NaN), else name its row."""
    if value is None and wanted is np.float64:
        return float("nan")
    try:
        return int(str(value)) if wanted is np.int64 else float(str(value))
    except ValueError:
        kind = "whole number" if wanted is np.int64 else "number"
        raise DataError(f"column {name!r}, row {row}: {value!r} is not a {kind}") from None


def _check_columns(columns: Mapping[str, np.ndarray]) -> None:
    missing = [name for name in ("path", "label") if name not in columns]
    if missing:
        raise DataError(f"a manifest needs the columns path and label; missing: {', '.join(missing)}")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"columns differ in length: {lengths}")


def _check_labels(label: np.ndarray, class_names: Sequence[str]) -> None:
    if len(set(class_names)) != len(class_names):
        raise DataError(f"class names must differ, got {list(class_names)}")
    bad = np.flatnonzero((label < 0) | (label >= len(class_names)))
    if len(bad):
        rows = [f"row {row}: label {label[row]}" for row in bad]
        raise DataError(
            f"labels must lie in [0, {len(class_names) - 1}] for {len(class_names)} classes:\n{listing(rows)}"
        )


def _check_one_label_per_file(paths: np.ndarray, label: np.ndarray) -> None:
    first: dict[str, int] = {}
    rows = zip(paths.tolist(), label.tolist(), strict=True)
    clash = [
        f"{path}: {first[path]} and {index}" for path, index in rows if first.setdefault(path, index) != index
    ]
    if clash:
        raise DataError(f"{len(clash)} rows give a file a second label:\n{listing(clash)}")


def _is_no_text(path: str) -> bool:
    return any("\ud800" <= sign <= "\udfff" for sign in path)


def _check_paths(paths: np.ndarray) -> None:
    odd = [str(path) for path in paths if not path.isascii() and _is_no_text(str(path))]
    if odd:
        shown = [path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for path in odd]
        raise DataError(
            f"file names that are not UTF-8 text: {len(odd)}; no table can hold them (old archives have such "
            f"names): rename them, or convert all of them with the program convmv:\n{listing(shown)}"
        )
    leading = [path for path in paths.tolist() if path.startswith("/") or ".." in path]
    outside = [path for path in leading if path.startswith("/") or ".." in PurePosixPath(path).parts]
    if outside:
        raise DataError(f"paths must stay under the data root (no leading /, no ..):\n{listing(outside)}")
