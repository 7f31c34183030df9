"""What a fine-grained run leaves behind, read and checked: predictions, settings, learning curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import DataError, UsageError
from finetune.experiments.predictions import (
    check_predictions,
    check_result_files,
    log_odds,
    read_predictions,
    write_predictions,
)
from finetune.experiments.run_settings import loss_text
from finetune.images.manifest import Manifest
from finetune.runs.folder import read_config, read_json, read_json_lines

COLUMNS = ("path", "target")
KIND = "fine_run"


@dataclass(frozen=True, eq=False)
class Predictions:
    """One row per test image: which it is, what it shows, and the probability of every class.

    `class_names` are the K classes in official order, `path` (N,) str, `target` int64 (N,), `probs` float64
    (N, K).

    Raises DataError, naming the row, when columns differ in length, a target lies outside [0, K), or a row of
    probabilities is negative, not finite or does not sum to 1.
    """

    class_names: tuple[str, ...]
    path: np.ndarray
    target: np.ndarray
    probs: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "path", np.asarray(self.path).astype(str))
        object.__setattr__(self, "target", np.asarray(self.target).astype(np.int64))
        object.__setattr__(self, "probs", np.asarray(self.probs).astype(np.float64))
        check_predictions({name: getattr(self, name) for name in COLUMNS}, self.probs, len(self.class_names))

    def __len__(self) -> int:
        return len(self.target)

    @cached_property
    def preds(self) -> np.ndarray:
        """The most probable class of each image, int64 (N,); the first of equal ones."""
        return np.asarray(self.probs.argmax(axis=1))

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether the predicted class is the target, bool (N,)."""
        return np.asarray(self.preds == self.target)

    @cached_property
    def log_odds(self) -> np.ndarray:
        """log p_k - log sum_{j != k} p_j, float64 (N, K)."""
        return log_odds(self.probs)

    def select(self, rows: np.ndarray) -> Predictions:
        """Return these rows (indices or a boolean mask)."""
        return Predictions(self.class_names, self.path[rows], self.target[rows], self.probs[rows])

    def in_order(self) -> Predictions:
        """Return the predictions sorted by path, the order of the file."""
        return self.select(np.argsort(self.path, kind="stable"))

    def write(self, file: Path) -> None:
        """Write predictions.parquet, sorted by path, float32 probabilities prob_0 ... prob_{K-1}."""
        rows = self.in_order()
        write_predictions(file, {name: getattr(rows, name) for name in COLUMNS}, rows.probs)

    @classmethod
    def read(cls, file: Path, class_names: tuple[str, ...]) -> Predictions:
        """Read what `write` wrote; DataError names the file and the missing columns or wrong rows."""
        columns, probs = read_predictions(file, COLUMNS, len(class_names))
        try:
            return cls(tuple(class_names), **columns, probs=probs)
        except DataError as error:
            raise DataError(f"{file}: {error}") from None


@dataclass(frozen=True, eq=False)
class FineResult:
    """A run folder: `run` (run.json), `config` (config.yaml, empty where absent) and the predictions."""

    folder: Path
    run: Mapping[str, Any]
    config: Mapping[str, Any]
    predictions: Predictions

    @classmethod
    def load(cls, folder: Path) -> FineResult:
        """Read a folder that `crl fine train` wrote.

        Raises DataError when the folder is no such result (saying what was looked for), when run.json or
        config.yaml cannot be read, when predictions.parquet is incomplete or wrong, or when its top-1 is
        not the one that run.json tells.
        """
        folder = Path(folder)
        check_result_files(
            folder,
            "a fine-grained run",
            "crl fine train writes them when it ends; an interrupted run goes on with --run.resume auto",
        )
        run = _checked(folder / "run.json")
        predictions = Predictions.read(folder / "predictions.parquet", tuple(run["class_names"]))
        if run.get("n", len(predictions)) != len(predictions):
            raise DataError(
                f"{folder}: run.json tells of {run['n']} test images, predictions.parquet has "
                f"{len(predictions)}: one of the files is of another run"
            )
        _check_top1(folder, run, predictions)
        return cls(folder, run, read_config(folder / "config.yaml"), predictions)

    @cached_property
    def manifest(self) -> Manifest | None:
        """The table of images of the run, or None where manifest.parquet is absent."""
        file = self.folder / "manifest.parquet"
        return Manifest.load(file, Path(self.run.get("data_root", self.folder))) if file.is_file() else None

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl, one per epoch; empty where the file is absent."""
        file = self.folder / "metrics.jsonl"
        return read_json_lines(file) if file.is_file() else []

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in official order."""
        return self.predictions.class_names

    @property
    def loss_text(self) -> str:
        """The loss as words, with the parameters it was given: "crl (alpha 1.5, beta 1)"."""
        return loss_text(self.run.get("loss", {}))

    @property
    def title(self) -> str:
        """Head, backbone and loss in one line: "dcl on resnet50.tv_in1k with crl (alpha 1.5, beta 1)"."""
        head, backbone = self.run.get("head", "unknown head"), self.run.get("backbone", "unknown backbone")
        return f"{head} on {backbone} with {self.loss_text}"


def refuse_run_folder(out: Path) -> None:
    """Raise UsageError where the results of a look at runs would go into the folder of a run."""
    if (out / "run.json").exists():
        raise UsageError(
            f"--out {out} is a run's own folder, whose predictions would be overwritten; name another "
            f"folder, such as {out.parent / (out.name + '-again')}"
        )


def _check_top1(folder: Path, run: Mapping[str, Any], predictions: Predictions) -> None:
    """Raise DataError unless run.json's top-1 is that of the predictions.

    They are stored in float32: a picture whose two best classes became equal may count either way.
    """
    told = (run.get("scores") or {}).get("top1")
    if told is None or not len(predictions):
        return
    best = predictions.probs.max(axis=1, keepdims=True)
    unsure = int(((predictions.probs == best).sum(axis=1) > 1).sum())
    found = 100 * float(predictions.correct.mean())
    if abs(found - told) > 100 * unsure / len(predictions) + 1e-6:
        raise DataError(
            f"{folder}: run.json tells of top-1 {told:.4f} %, but predictions.parquet gives {found:.4f} %: "
            "one of the files is of another run or was overwritten; bring back the run's own, or train again"
        )


def _checked(file: Path) -> dict[str, Any]:
    run: dict[str, Any] = read_json(file)
    if run.get("kind") != KIND:
        raise DataError(
            f'{file} is not of a fine-grained run: its "kind" must be {KIND}, got {run.get("kind")!r}'
        )
    if not isinstance(run.get("class_names"), list) or not run["class_names"]:
        raise DataError(f"{file} lacks class_names, the list of classes in official order")
    return run
