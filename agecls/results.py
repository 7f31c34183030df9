"""What a cross-validation leaves behind, read and checked: predictions, settings, learning curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from finetune.atomic import atomic_file
from finetune.errors import DataError, listing
from finetune.manifest import Manifest
from finetune.metrics import SMALLEST_PROBABILITY
from finetune.run_folder import read_config, read_json_lines
from finetune.run_settings import loss_text

TEXT_COLUMNS = ("path", "subject", "user", "gender")
COLUMNS = (*TEXT_COLUMNS, "age", "fold", "target")

# How far a row's probabilities may be from a sum of one: float32 softmax is off by 1e-6, a forgotten softmax
# by 1.
SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row per test image: who is on it, what was right, and the probability of every group.

    `class_names` are the K groups, young to old. All columns have length N: `path`, `subject` (the person),
    `user` (the album or account the person belongs to), `gender` ("m", "f", "u" or "") are str, `age` float
    years (NaN where unknown), `fold` and `target` int64, `probs` float64 (N, K).

    Raises DataError, naming the row, when columns differ in length, a target lies outside [0, K), or a row of
    probabilities is negative, not finite or does not sum to 1.
    """

    class_names: tuple[str, ...]
    path: np.ndarray
    subject: np.ndarray
    user: np.ndarray
    gender: np.ndarray
    age: np.ndarray
    fold: np.ndarray
    target: np.ndarray
    probs: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(self.class_names))
        for name in TEXT_COLUMNS:
            object.__setattr__(self, name, np.asarray(getattr(self, name)).astype(str))
        for name, kind in (
            ("age", np.float64),
            ("fold", np.int64),
            ("target", np.int64),
            ("probs", np.float64),
        ):
            object.__setattr__(self, name, np.asarray(getattr(self, name)).astype(kind))
        self._check()

    def _check(self) -> None:
        lengths = {item.name: len(getattr(self, item.name)) for item in fields(self)[1:]}
        if len(set(lengths.values())) > 1:
            raise DataError(f"columns of predictions differ in length: {lengths}")
        num_classes = len(self.class_names)
        if self.probs.ndim != 2 or self.probs.shape[1] != num_classes:
            raise DataError(f"probabilities must have shape (N, {num_classes}), got {self.probs.shape}")
        bad = np.flatnonzero((self.target < 0) | (self.target >= num_classes))
        if len(bad):
            rows = [f"row {row} ({self.path[row]}): target {self.target[row]}" for row in bad]
            raise DataError(f"targets must lie in [0, {num_classes - 1}]:\n{listing(rows)}")
        sums = self.probs.sum(axis=1)
        bad = np.flatnonzero(~((np.abs(sums - 1) <= SUM_TOLERANCE) & (self.probs >= 0).all(axis=1)))
        if len(bad):
            told = [(row, self.path[row], sums[row], self.probs[row].min()) for row in bad]
            rows = [
                f"row {row} ({path}): sum {total:g}, smallest {least:g}" for row, path, total, least in told
            ]
            raise DataError(f"probabilities of an image must be at least 0 and sum to 1:\n{listing(rows)}")

    def __len__(self) -> int:
        return len(self.target)

    @cached_property
    def preds(self) -> np.ndarray:
        """The most probable group of each image, int64 (N,); the younger one of equal ones."""
        return np.asarray(self.probs.argmax(axis=1))

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether the predicted group is the target, bool (N,)."""
        return np.asarray(self.preds == self.target)

    @cached_property
    def one_off(self) -> np.ndarray:
        """Whether the predicted group is the target or next to it, bool (N,); the ends do not wrap around."""
        return np.asarray(np.abs(self.preds - self.target) <= 1)

    @cached_property
    def log_odds(self) -> np.ndarray:
        """log p_k - log sum_{j != k} p_j, float64 (N, K); the sum keeps the digits of p near 1."""
        others = self.probs @ (1 - np.eye(len(self.class_names)))
        floor = SMALLEST_PROBABILITY
        return np.asarray(np.log(np.maximum(self.probs, floor)) - np.log(np.maximum(others, floor)))

    def select(self, rows: np.ndarray) -> Predictions:
        """Return these rows (indices or a boolean mask)."""
        columns = {item.name: getattr(self, item.name)[rows] for item in fields(self)[1:]}
        return Predictions(self.class_names, **columns)

    def in_order(self) -> Predictions:
        """Return the predictions sorted by (fold, path), the order of the file."""
        return self.select(np.lexsort((self.path, self.fold)))

    def write(self, file: Path) -> None:
        """Write predictions.parquet, sorted by (fold, path), float32 probabilities prob_0 ... prob_{K-1}."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = self.in_order()
        columns = {name: pa.array(getattr(rows, name)) for name in COLUMNS}
        for index in range(len(self.class_names)):
            columns[f"prob_{index}"] = pa.array(rows.probs[:, index].astype(np.float32))
        with atomic_file(file) as stream:
            pq.write_table(pa.table(columns), stream)

    @classmethod
    def read(cls, file: Path, class_names: tuple[str, ...]) -> Predictions:
        """Read what `write` wrote; DataError names the file and the missing columns or wrong rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{file} cannot be read as parquet: {error}") from None
        prob_names = [f"prob_{index}" for index in range(len(class_names))]
        missing = [name for name in (*COLUMNS, *prob_names) if name not in table.column_names]
        if missing:
            found = ", ".join(table.column_names)
            raise DataError(f"{file} lacks the columns {', '.join(missing)}; it has {found}")
        extra = [name for name in table.column_names if name.startswith("prob_") and name not in prob_names]
        if extra:
            raise DataError(
                f"{file} has {', '.join(extra)} beyond the {len(class_names)} class names of its run"
            )
        empty = [name for name in table.column_names if name != "age" and table[name].null_count]
        if empty:
            raise DataError(f"{file} has empty cells in {', '.join(empty)}")
        columns = {name: table[name].to_numpy() for name in COLUMNS}
        probs = np.stack([table[name].to_numpy() for name in prob_names], axis=1)
        try:
            return cls(tuple(class_names), **columns, probs=probs)
        except DataError as error:
            raise DataError(f"{file}: {error}") from None


@dataclass(frozen=True, eq=False)
class AgeResult:
    """A result folder: `run` (run.json), `config` (config.yaml, empty where absent) and the predictions."""

    folder: Path
    run: Mapping[str, Any]
    config: Mapping[str, Any]
    predictions: Predictions

    @classmethod
    def load(cls, folder: Path) -> AgeResult:
        """Read a folder that a cross-validation wrote.

        Raises DataError when the folder is no such result (saying what was looked for), when run.json or
        config.yaml cannot be read, or when predictions.parquet is incomplete or wrong.
        """
        folder = Path(folder)
        needed = ("run.json", "predictions.parquet")
        missing = [name for name in needed if not (folder / name).is_file()]
        if missing:
            found = "it does not exist" if not folder.is_dir() else f"it lacks {' and '.join(missing)}"
            raise DataError(
                f"{folder} is not the result of a cross-validation: {found}. A result folder holds "
                f"{' and '.join(needed)} (crl age cv writes them when its folds are finished)"
            )
        run = _read_run(folder / "run.json")
        predictions = Predictions.read(folder / "predictions.parquet", tuple(run["class_names"]))
        if run["kind"] == "age_cv" and run.get("n", len(predictions)) != len(predictions):
            raise DataError(
                f"{folder}: run.json tells of {run['n']} test images, predictions.parquet has "
                f"{len(predictions)}; run the cross-validation to its end again"
            )
        return cls(folder, run, read_config(folder / "config.yaml"), predictions)

    @cached_property
    def manifest(self) -> Manifest | None:
        """The table of images of the run, or None where manifest.parquet is absent."""
        file = self.folder / "manifest.parquet"
        return Manifest.load(file, Path(self.run.get("data_root", self.folder))) if file.is_file() else None

    @cached_property
    def curves(self) -> dict[int, list[dict[str, Any]]]:
        """The rows of each fold's metrics.jsonl, by fold; folds without the file are left out.

        The folder of a single run holds its own.
        """
        files = {fold: self.folder / f"fold{fold}" / "metrics.jsonl" for fold in self.folds}
        if len(self.folds) == 1 and (self.folder / "metrics.jsonl").is_file():
            files = {self.folds[0]: self.folder / "metrics.jsonl"}
        return {fold: read_json_lines(file) for fold, file in files.items() if file.is_file()}

    @property
    def folds(self) -> list[int]:
        """The folds that were tested, ascending."""
        return [int(fold) for fold in np.unique(self.predictions.fold)]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The age groups, young to old."""
        return self.predictions.class_names

    @property
    def loss_text(self) -> str:
        """The loss as words, with the parameters it was given: "crl (alpha 1.5, beta 1)"."""
        return loss_text(self.run.get("loss", {}))


def _read_run(file: Path) -> dict[str, Any]:
    try:
        run = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(run, dict) or not str(run.get("kind", "")).startswith("age_"):
        kind = run.get("kind") if isinstance(run, dict) else type(run).__name__
        raise DataError(f'{file} is not of an age run: its "kind" must begin with age_, got {kind!r}')
    if not isinstance(run.get("class_names"), list) or not run["class_names"]:
        raise DataError(f"{file} lacks class_names, the list of age groups young to old")
    return run
