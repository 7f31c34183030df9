"""What a run predicted for its test images: predictions.parquet, its columns, and what must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from finetune.errors import DataError, listing
from finetune.images.people import slice_names
from finetune.metrics.classification import SMALLEST_PROBABILITY
from finetune.runs.files import atomic_file, json_text

# How far a row's probabilities may be from a sum of one: float32 softmax is off by 1e-6, a forgotten softmax
# by 1.
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row per test image: which it is, its true class, and the probability of every class.

    `class_names` are the K classes in order. `path` (N,) str, `target` int64 (N,), `probs` float64 (N, K),
    and `columns`: what a task records of each image besides, by name, each (N,), as text, int64 or float64.

    Raises DataError, naming the row, when columns differ in length, a target lies outside [0, K), or a row of
    probabilities is negative, not finite or does not sum to 1.
    """

    class_names: tuple[str, ...]
    path: np.ndarray
    target: np.ndarray
    probs: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "path", np.asarray(self.path).astype(str))
        object.__setattr__(self, "target", np.asarray(self.target).astype(np.int64))
        object.__setattr__(self, "probs", np.asarray(self.probs).astype(np.float64))
        object.__setattr__(self, "columns", {name: _column(v) for name, v in self.columns.items()})
        all_columns = {"path": self.path, **self.columns, "target": self.target}
        check_predictions(all_columns, self.probs, len(self.class_names))

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return the path, or a task's own column such as the subject, of each image."""
        return self.path if name == "path" else self.columns[name]

    def __contains__(self, name: object) -> bool:
        return name == "path" or name in self.columns

    @cached_property
    def preds(self) -> np.ndarray:
        """The most probable class of each image, int64 (N,); the first of equal ones."""
        return np.asarray(self.probs.argmax(axis=1))

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether the predicted class is the target, bool (N,)."""
        return np.asarray(self.preds == self.target)

    @cached_property
    def one_off(self) -> np.ndarray:
        """Whether the predicted class is the target or next to it, bool (N,); for ordered classes."""
        return np.asarray(np.abs(self.preds - self.target) <= 1)

    @cached_property
    def log_odds(self) -> np.ndarray:
        """log p_k - log sum_{j != k} p_j, float64 (N, K); the sum keeps the digits of p near 1."""
        return log_odds(self.probs)

    @cached_property
    def tested_again(self) -> int:
        """How many images are tested in several folds, as in a benchmark whose splits overlap."""
        pairs = np.unique(np.stack([self.path, self.fold.astype(str)]), axis=1)
        return int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())

    @property
    def fold(self) -> np.ndarray:
        """The fold that each image was tested in, int64 (N,); 0 for a run with one test part."""
        return self.columns.get("fold", np.zeros(len(self), dtype=np.int64))

    def select(self, rows: np.ndarray) -> Predictions:
        """Return these rows (indices or a boolean mask)."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return replace(
            self, path=self.path[rows], target=self.target[rows], probs=self.probs[rows], columns=columns
        )

    def table(self) -> dict[str, np.ndarray]:
        """Return the predictions as columns, in this order of rows: `pandas.DataFrame(predictions.table())`.

        Columns: path, the task's own, target and predicted (class names), correct (bool), probability (of the
        predicted class), and "probability of NAME" for each class.
        """
        names = np.asarray(self.class_names, dtype=str)
        each = {f"probability of {name}": self.probs[:, index] for index, name in enumerate(self.class_names)}
        return {
            "path": self.path,
            **self.columns,
            "target": names[self.target],
            "predicted": names[self.preds],
            "correct": self.correct,
            "probability": self.probs.max(axis=1) if len(self) else np.zeros(0),
            **each,
        }

    def in_order(self) -> Predictions:
        """Return the predictions sorted by (fold, path), the order of the file."""
        return self.select(np.lexsort((self.path, self.fold)))

    def write(self, file: Path) -> None:
        """Write predictions.parquet, sorted by (fold, path), float32 probabilities prob_0 ... prob_{K-1}.

        `target` and `predicted` are class indices; the names lie in the file's metadata as `class_names`.
        """
        rows = self.in_order()
        indices = {"target": rows.target, "predicted": rows.preds.astype(np.int64)}
        write_predictions(file, {"path": rows.path, **rows.columns, **indices}, rows.probs, self.class_names)

    @classmethod
    def read(
        cls,
        file: Path,
        class_names: Sequence[str],
        columns: Sequence[str] = (),
        *,
        may_be_empty: Sequence[str] = (),
    ) -> Predictions:
        """Read what `write` wrote, with a task's own `columns`, of which some `may_be_empty`, and the slices.

        Raises DataError, naming the file and the missing columns or wrong rows.
        """
        names = ("path", *columns, "target")
        found, probs = read_predictions(file, names, len(class_names), may_be_empty=may_be_empty)
        own = {name: found[name] for name in [*columns, *slice_names(found)]}
        try:
            return cls(tuple(class_names), found["path"], found["target"], probs, own)
        except DataError as error:
            raise DataError(f"{file}: {error}") from None


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Return the predictions of all parts, which have the same classes and columns, together."""
    path, target, probs = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("path", "target", "probs")
    )
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0].columns}
    return Predictions(parts[0].class_names, path, target, probs, columns)


def _column(values: np.ndarray) -> np.ndarray:
    found = np.asarray(values)
    kind = {"i": np.int64, "u": np.int64, "f": np.float64}.get(found.dtype.kind, str)
    return found.astype(kind)


def check_predictions(
    columns: Mapping[str, np.ndarray], probs: np.ndarray, num_classes: int, *, names: str = "path"
) -> None:
    """Raise DataError, naming rows, unless these are predictions of `num_classes` classes.

    Args:
        columns: arrays of one length N, `target` (int) among them.
        probs: float (N, K); rows at least 0 that sum to 1.
        num_classes: K.
        names: the column that names a row in messages.
    """
    lengths = {name: len(values) for name, values in columns.items()} | {"probs": len(probs)}
    if len(set(lengths.values())) > 1:
        raise DataError(f"columns of predictions differ in length: {lengths}")
    if probs.ndim != 2 or probs.shape[1] != num_classes:
        raise DataError(f"probabilities must have shape (N, {num_classes}), got {probs.shape}")
    target, name = columns["target"], columns[names]
    bad = np.flatnonzero((target < 0) | (target >= num_classes))
    if len(bad):
        rows = [f"row {row} ({name[row]}): target {target[row]}" for row in bad]
        raise DataError(f"targets must lie in [0, {num_classes - 1}]:\n{listing(rows)}")
    sums = probs.sum(axis=1)
    bad = np.flatnonzero(~((np.abs(sums - 1) <= SUM_TOLERANCE) & (probs >= 0).all(axis=1)))
    if len(bad):
        rows = [f"row {row} ({name[row]}): sum {sums[row]:g}, smallest {probs[row].min():g}" for row in bad]
        raise DataError(f"probabilities of an image must be at least 0 and sum to 1:\n{listing(rows)}")


def write_predictions(
    file: Path, columns: Mapping[str, np.ndarray], probs: np.ndarray, class_names: Sequence[str] = ()
) -> None:
    """Write the columns and probs (N, K) as float32 prob_0 ... prob_{K-1} to a parquet file, atomically.

    The class names, where they are given, are its metadata `class_names`, a JSON list.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {name: pa.array(values) for name, values in columns.items()}
    for index in range(probs.shape[1]):
        table[f"prob_{index}"] = pa.array(probs[:, index].astype(np.float32))
    with atomic_file(file) as stream:
        pq.write_table(pa.table(table, metadata={"class_names": json_text(list(class_names))}), stream)


def read_predictions(
    file: Path, columns: Sequence[str], num_classes: int, *, may_be_empty: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the columns, those that slice, and the probabilities (N, K) that `write_predictions` wrote.

    Raises DataError, naming the file, where it cannot be read, where columns are missing, where there are
    probabilities of more classes, and for empty cells outside the columns `may_be_empty`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{file} cannot be read as parquet: {error}") from None
    prob_names = [f"prob_{index}" for index in range(num_classes)]
    missing = [name for name in (*columns, *prob_names) if name not in table.column_names]
    if missing:
        found = listing(table.column_names)
        raise DataError(f"{file} lacks the columns {', '.join(missing[:5])}; it has\n{found}")
    extra = [name for name in table.column_names if name.startswith("prob_") and name not in prob_names]
    if extra:
        raise DataError(f"{file} has {', '.join(extra)} beyond the {num_classes} class names of its run")
    wanted = [name for name in table.column_names if name not in may_be_empty]
    empty = [name for name in wanted if table[name].null_count]
    if empty:
        raise DataError(f"{file} has empty cells in {', '.join(empty)}")
    probs = np.stack([table[name].to_numpy() for name in prob_names], axis=1)
    kept = [*columns, *(name for name in slice_names(table.column_names) if name not in columns)]
    return {name: table[name].to_numpy() for name in kept}, probs


def log_odds(probs: np.ndarray) -> np.ndarray:
    """Return log p_k - log sum_{j != k} p_j, float64 (N, K), for probs (N, K).

    The sum over the others keeps the digits of a p near 1, which 1 - p would lose. Below 1.2e-38 both count
    as 1.2e-38.

    >>> log_odds(np.array([[0.5, 0.25, 0.25]])).round(3).tolist()
    [[0.0, -1.099, -1.099]]
    """
    others = probs @ (1 - np.eye(probs.shape[1]))
    return np.asarray(
        np.log(np.maximum(probs, SMALLEST_PROBABILITY)) - np.log(np.maximum(others, SMALLEST_PROBABILITY))
    )
