"""What a cross-validation leaves behind, read and checked: predictions, settings, learning curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import DataError
from finetune.experiments.predictions import (
    check_predictions,
    check_result_files,
    log_odds,
    read_predictions,
    write_predictions,
)
from finetune.experiments.run_settings import loss_text
from finetune.images.manifest import Manifest
from finetune.runs.folder import read_config, read_json_lines

TEXT_COLUMNS = ("path", "subject", "user", "gender")
COLUMNS = (*TEXT_COLUMNS, "age", "fold", "target")


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
        columns = {item.name: getattr(self, item.name) for item in fields(self)[1:] if item.name != "probs"}
        check_predictions(columns, self.probs, len(self.class_names))

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
        return log_odds(self.probs)

    def select(self, rows: np.ndarray) -> Predictions:
        """Return these rows (indices or a boolean mask)."""
        columns = {item.name: getattr(self, item.name)[rows] for item in fields(self)[1:]}
        return Predictions(self.class_names, **columns)

    def in_order(self) -> Predictions:
        """Return the predictions sorted by (fold, path), the order of the file."""
        return self.select(np.lexsort((self.path, self.fold)))

    def write(self, file: Path) -> None:
        """Write predictions.parquet, sorted by (fold, path), float32 probabilities prob_0 ... prob_{K-1}."""
        rows = self.in_order()
        write_predictions(file, {name: getattr(rows, name) for name in COLUMNS}, rows.probs)

    @classmethod
    def read(cls, file: Path, class_names: tuple[str, ...]) -> Predictions:
        """Read what `write` wrote; DataError names the file and the missing columns or wrong rows."""
        columns, probs = read_predictions(file, COLUMNS, len(class_names), may_be_empty=("age",))
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
        check_result_files(
            folder,
            "a cross-validation",
            "crl age cv writes them when its folds are finished",
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
