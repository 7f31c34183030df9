"""Predicted and true ages of one system on one data set, and how they are read from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from agecls.audit.config import AuditConfig
from agecls.audit.decode import decode_ages
from finetune.errors import DataError, UsageError, listing
from finetune.experiments.records.record import RECORD_FILE
from finetune.images.cells import is_absent
from finetune.images.checks import subjects_known
from finetune.images.people import SLICE
from finetune.images.tables import Table, missing_columns, read_table
from finetune.runs.parse import parse_json

OLDEST = 120
PREDICTIONS = "predictions.parquet"
SEX_COLUMNS = ("gender", "sex")
SEXES = {"m": "m", "male": "m", "f": "f", "female": "f"}


@dataclass(frozen=True, eq=False)
class Answers:
    """What a system answered for N images.

    Args:
        name: what the system is called.
        source: the file it came from, its name alone.
        path: (N,) str.
        age: true ages in years, float64 (N,).
        predicted: predicted ages in years, float64 (N,).
        unit: (N,) the person of each image, where known; else its path.
        people: whether units are people.
        sex: (N,) "m", "f" or "" where it is not recorded.
        attributes: further columns to slice by, each (N,) str with "" for none.
        decoded: predicted ages by the name of each decoder; empty where the system gave ages.
        outputs: (N, D) what the system gave for each image; None where it gave ages alone.
        fold: (N,) the fold whose model answered; None for one model.
        notices: what was left out.
    """

    name: str
    source: str
    path: np.ndarray
    age: np.ndarray
    predicted: np.ndarray
    unit: np.ndarray
    people: bool
    sex: np.ndarray
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict)
    decoded: Mapping[str, np.ndarray] = field(default_factory=dict)
    outputs: np.ndarray | None = None
    fold: np.ndarray | None = None
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.age)

    @property
    def years(self) -> np.ndarray:
        """Completed years of the true ages, int64 (N,)."""
        return np.asarray(np.floor(self.age).astype(np.int64))

    @property
    def units(self) -> str:
        """What a unit is, in words: people or images."""
        return "people" if self.people else "images"

    @property
    def has_sex(self) -> bool:
        """Whether any image has a recorded sex."""
        return bool(np.any(self.sex != ""))

    def slices(self) -> dict[str, np.ndarray]:
        """Return sex and the attributes that have two values or more, and every pair of them."""
        own = {"sex": self.sex} if self.has_sex else {}
        own |= dict(self.attributes)
        own = {name: values for name, values in own.items() if len(np.unique(values[values != ""])) > 1}
        names = list(own)
        pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
        return own | {f"{a} x {b}": _crossed(own[a], own[b]) for a, b in pairs}

    def select(self, rows: np.ndarray) -> Answers:
        """Return these rows (indices or a boolean mask)."""
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in ("path", "age", "predicted", "unit", "sex")},
            attributes={name: values[rows] for name, values in self.attributes.items()},
            decoded={name: values[rows] for name, values in self.decoded.items()},
            outputs=None if self.outputs is None else self.outputs[rows],
            fold=None if self.fold is None else self.fold[rows],
        )


def _crossed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    both = (a != "") & (b != "")
    joined = np.char.add(np.char.add(a.astype(str), ", "), b.astype(str))
    return np.where(both, joined, "")


def read_answers(file: Path, config: AuditConfig) -> Answers:
    """Read a run folder, a predictions.parquet or a CSV of any system.

    Raises DataError for files without true ages or with cells that are no ages; UsageError for age groups
    whose midpoint was not asked for, and for anything that is no table.
    """
    if file.is_dir():
        if not (file / PREDICTIONS).is_file():
            raise DataError(
                f"{file} holds no {PREDICTIONS}: it is no finished run; name a run, a table or an .onnx file"
            )
        return read_predicted(file / PREDICTIONS, config, name=config.name or file.name)
    if file.suffix.lower() == ".parquet" and _is_ours(file):
        return read_predicted(file, config, name=config.name or file.parent.name or file.stem)
    return read_csv_answers(file, config, name=config.name or file.stem)


def _is_ours(file: Path) -> bool:
    return "prob_0" in _parquet(file).column_names


def _parquet(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.is_file():
        raise DataError(f"{file} is not there")
    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{file} cannot be read as parquet: {error}") from None


def read_predicted(file: Path, config: AuditConfig, *, name: str) -> Answers:
    """Read what a run predicted for its test images: its ages, people, sex and slices."""
    table = _parquet(file)
    columns = {column: table[column].to_numpy(zero_copy_only=False) for column in table.column_names}
    lacks = [column for column in ("path", "age") if column not in columns]
    if lacks:
        raise DataError(f"{file} lacks the columns {', '.join(lacks)}: an audit needs each image's true age")
    names = _class_names(file, table)
    probs = np.stack([columns[f"prob_{index}"] for index in range(len(names))], axis=1).astype(np.float64)
    path = columns["path"].astype(str)
    unit = columns.get("subject", path).astype(str)
    attributes = {
        column.removeprefix(SLICE): _texts(values)
        for column, values in columns.items()
        if column.startswith(SLICE)
    }
    age = np.array([np.nan if cell is None else cell for cell in columns["age"]], dtype=np.float64)
    return from_probabilities(
        config,
        name=name,
        source=file.name,
        class_names=names,
        probs=probs,
        path=path,
        age=age,
        unit=unit,
        sex=_texts(columns.get("gender", np.full(len(path), ""))),
        attributes=attributes,
        fold=columns.get("fold"),
    )


def from_probabilities(
    config: AuditConfig,
    *,
    name: str,
    source: str,
    class_names: Sequence[str],
    probs: np.ndarray,
    path: np.ndarray,
    age: np.ndarray,
    unit: np.ndarray,
    sex: np.ndarray,
    attributes: Mapping[str, np.ndarray],
    fold: np.ndarray | None = None,
) -> Answers:
    """Return the answers of a model that gives probabilities, (N, K), of years or of age groups."""
    decoded, note = decode_ages(probs, class_names, config.decode, config.open_age)
    found = Answers(
        name=name,
        source=source,
        path=path,
        age=age,
        predicted=decoded[config.decode],
        unit=unit,
        people=subjects_known({"subject": unit, "path": path}),
        sex=_sexes(sex),
        attributes=attributes,
        decoded=decoded,
        outputs=np.log(np.maximum(probs, 1e-12)),
        fold=fold,
        notices=(note,) if note else (),
    )
    return with_known_ages(found, source)


def with_known_ages(answers: Answers, source: str) -> Answers:
    """Return the images whose true age is known; DataError where there are none."""
    known = np.isfinite(answers.age)
    if not known.any():
        raise DataError(
            f"{source} records no true age of any image (groups alone are no ages): audit answers on a table "
            "with an age column"
        )
    if known.all():
        return answers
    told = f"{int((~known).sum())} of {len(known)} images have no recorded age and are left out"
    kept = answers.select(known)
    return replace(kept, notices=(*answers.notices, told))


def read_csv_answers(file: Path, config: AuditConfig, *, name: str) -> Answers:
    """Read a table of path, true age and predicted age (or probabilities of years)."""
    table, data = read_table(file), config.data
    header = table.header
    years_at = {column: _year_of(column, config.probability_prefix) for column in header}
    ages = sorted((column for column, year in years_at.items() if year is not None), key=years_at.get)  # type: ignore[arg-type]
    wanted = [data.path_column, data.age_column]
    if not ages or config.predicted_column in header:
        wanted.append(config.predicted_column)
    if data.gender_column:
        wanted.append(data.gender_column)
    wanted += data.slice_columns
    if data.subject_column not in (DEFAULT_SUBJECT, "none"):
        wanted.append(data.subject_column)
    absent = [column for column in wanted if column not in header]
    if absent:
        raise DataError(
            f"{missing_columns(table, absent)}; --predicted_column, --data.age_column and their like name "
            "other columns"
        )
    path = _column(table, data.path_column)
    subject = data.subject_column if data.subject_column in header else None
    sex = data.gender_column or next((column for column in SEX_COLUMNS if column in header), None)
    shared: dict[str, Any] = {
        "name": name,
        "source": file.name,
        "path": path,
        "age": _ages(table, data.age_column),
        "unit": path if subject is None else _units(_column(table, subject), path),
        "sex": np.full(len(path), "") if sex is None else _texts(_column(table, sex)),
        "attributes": {column: _texts(_column(table, column)) for column in data.slice_columns},
    }
    if config.predicted_column not in header:
        probs = np.stack([_numbers(table, column, 0, 1) for column in ages], axis=1)
        years = [str(_year_of(column, config.probability_prefix)) for column in ages]
        _check_sums(file, probs)
        return from_probabilities(config, class_names=years, probs=probs, **shared)
    return Answers(
        predicted=_ages(table, config.predicted_column),
        people=subject is not None and subjects_known({"subject": shared["unit"], "path": path}),
        **{**shared, "sex": _sexes(shared["sex"])},
    )


DEFAULT_SUBJECT = "subject"  # what the option says where nobody names a column


def _units(subject: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Return who is on each image; an image without a subject is one of its own."""
    return np.where(_texts(subject) == "", path, subject)


def _year_of(column: str, prefix: str) -> int | None:
    year = column.removeprefix(prefix)
    return int(year) if column.startswith(prefix) and year.isascii() and year.isdigit() else None


def _check_sums(file: Path, probs: np.ndarray) -> None:
    bad = np.flatnonzero(np.abs(probs.sum(axis=1) - 1) > 1e-3)
    if len(bad):
        rows = [f"row {row + 2}: sum {probs[row].sum():g}" for row in bad]
        raise DataError(f"{file}: probabilities of an image must sum to 1:\n{listing(rows)}")


def _column(table: Table, name: str) -> np.ndarray:
    place = table.header.index(name)
    return np.array([cells[place] for _, cells in table.rows], dtype=str)


def _ages(table: Table, name: str) -> np.ndarray:
    return _numbers(table, name, 0, OLDEST)


def _numbers(table: Table, name: str, low: float, high: float) -> np.ndarray:
    cells = _column(table, name).tolist()
    found = np.array([table.number(cell) for cell in cells])
    bad = np.flatnonzero(~((found >= low) & (found <= high)))
    if len(bad):
        rows = [f"row {table.rows[row][0]}: {name} {cells[row]!r}" for row in bad]
        raise DataError(f"{table.file}: these must be numbers from {low:g} to {high:g}:\n{listing(rows)}")
    return found


def _texts(values: np.ndarray) -> np.ndarray:
    cells = ["" if cell is None or is_absent(str(cell)) else str(cell) for cell in values.tolist()]
    return np.array(cells, dtype=str)


def _sexes(values: np.ndarray) -> np.ndarray:
    return np.array([SEXES.get(cell.lower(), "") for cell in values.tolist()], dtype=str)


def _class_names(file: Path, table: Any) -> list[str]:
    """Return the class names that the file or the run.json beside it gives."""
    told = (table.schema.metadata or {}).get(b"class_names")
    record = file.parent / RECORD_FILE
    if told is None and record.is_file():
        told = None
        names = parse_json(record.read_text(encoding="utf-8")).get("class_names")
    else:
        names = parse_json(told) if told else None
    count = sum(column.startswith("prob_") for column in table.column_names)
    if not isinstance(names, list) or len(names) != count:
        raise UsageError(
            f"{file} does not say what its {count} classes are, and no {RECORD_FILE} beside it does"
        )
    return [str(name) for name in names]
