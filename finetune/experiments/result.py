"""A finished run, read and checked: its record, configuration, predictions and learning curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import MODEL_FILE, RECORD_FILE, RunRecord
from finetune.experiments.study.cells import study_hint
from finetune.images.manifest import Manifest
from finetune.runs.folder import read_config, read_json, read_json_lines
from finetune.runs.former_losses import loss_text


@dataclass(frozen=True)
class ResultForm:
    """What the result folders of one task hold.

    Args:
        kinds: of run.json; the first is a single run's, the last a joined result's.
        what: a run of the task in words: "an age run".
        written_by: which command writes one, in words.
        headline: the score that predictions.parquet is checked by: its key in run.json's scores, in words.
        columns: the predictions' own columns, in the order of the file.
        may_be_empty: which of them may have empty cells.
        unnamed: whether runs of the first release, which record no kind, are of this form.
    """

    kinds: tuple[str, ...]
    what: str
    written_by: str
    headline: tuple[str, str]
    columns: tuple[str, ...] = ()
    may_be_empty: tuple[str, ...] = ()
    unnamed: bool = False


@dataclass(frozen=True, eq=False)
class Result:
    """A result folder: `record` (run.json), `config` (config.yaml, empty where absent), predictions."""

    folder: Path
    record: RunRecord
    config: Mapping[str, Any]
    predictions: Predictions

    @classmethod
    def load(cls, folder: Path, form: ResultForm) -> Result:
        """Read a folder that a finished run or cross-validation left behind, of a task's form.

        Raises DataError when the folder is no such result (saying what was looked for), when run.json or
        config.yaml cannot be read, when predictions.parquet is incomplete or wrong, or when its headline
        score is not the one that run.json records.
        """
        folder = Path(folder)
        check_result_files(folder, form.what, form.written_by)
        record = RunRecord.read(folder / RECORD_FILE)
        if record.kind not in form.kinds:
            raise DataError(
                f'{folder / RECORD_FILE} is not of {form.what}: its "kind" must be '
                f"{' or '.join(form.kinds)}, got {record.kind!r}"
            )
        predictions = read_predicted(folder, record, form)
        if record.n is not None and record.n != len(predictions):
            raise DataError(
                f"{folder}: run.json records {record.n} test images, predictions.parquet has "
                f"{len(predictions)}: one of the files is of another run, or the run did not come to its end"
            )
        _check_headline(folder, record, predictions, form)
        return cls(folder, record, read_config(folder / "config.yaml"), predictions)

    @cached_property
    def run(self) -> dict[str, Any]:
        """The record as run.json holds it."""
        return self.record.to_dict()

    @cached_property
    def manifest(self) -> Manifest | None:
        """The table of images of the run, or None where manifest.parquet is absent."""
        file = self.folder / "manifest.parquet"
        return Manifest.load(file, Path(self.record.data_root or self.folder)) if file.is_file() else None

    def image_files(self, paths: np.ndarray) -> list[Path]:
        """Return the files of these image paths, under the folder that the run read its images from."""
        root = Path(self.record.data_root or ".")
        return [root / path for path in paths.tolist()]

    @cached_property
    def curves(self) -> dict[int, list[dict[str, Any]]]:
        """The rows of each fold's metrics.jsonl, by fold; folds without the file are left out.

        The folder of a single run holds its own.
        """
        files = {fold: self.folder / f"fold{fold}" / "metrics.jsonl" for fold in self.folds}
        if len(self.folds) <= 1 and (self.folder / "metrics.jsonl").is_file():
            files = {fold: self.folder / "metrics.jsonl" for fold in self.folds or [0]}
        return {fold: read_json_lines(file) for fold, file in files.items() if file.is_file()}

    @property
    def shows_people(self) -> bool:
        """Whether its figures may show the people of its images (--evaluate.thumbnails)."""
        return bool((self.config.get("evaluate") or {}).get("thumbnails", False))

    def showing_people(self, shown: bool) -> Self:
        """Return the result with figures that do or do not show people."""
        evaluate = {**(self.config.get("evaluate") or {}), "thumbnails": shown}
        return replace(self, config={**self.config, "evaluate": evaluate})

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of a single run's metrics.jsonl, one per epoch; empty where the file is absent."""
        return next(iter(self.curves.values()), [])

    @property
    def folds(self) -> list[int]:
        """The folds that were tested, ascending."""
        return [int(fold) for fold in np.unique(self.predictions.fold)]

    def part_record(self, fold: int) -> RunRecord | None:
        """Return what the run of one fold recorded; None where the joined result lacks the fold's folder.

        The record of a single run is its own.
        """
        if len(self.folds) <= 1:
            return self.record
        file = self.folder / f"fold{fold}" / RECORD_FILE
        return RunRecord.read(file) if file.is_file() else None

    def train_labels(self) -> dict[int, np.ndarray] | None:
        """Return the labels that each fold's model was trained on, sorted; None where any are unknown."""
        counts = {
            fold: part.train_counts if (part := self.part_record(fold)) else None for fold in self.folds
        }
        known = {fold: np.repeat(np.arange(len(own)), own) for fold, own in counts.items() if own}
        return known if len(known) == len(counts) else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of the probabilities."""
        return self.predictions.class_names

    @property
    def loss_text(self) -> str:
        """The loss as words, with the parameters it was given: "crl (alpha 1.5, beta 1)"."""
        return loss_text(self.record.loss or {})

    @property
    def title(self) -> str:
        """Head, backbone and loss in one line: "dcl on resnet50.tv_in1k with crl (alpha 1.5, beta 1)"."""
        record = self.record
        head, backbone = record.head or "unknown head", record.backbone or "unknown backbone"
        return f"{head} on {backbone} with {self.loss_text}"

    @property
    def seed(self) -> int:
        """The training's seed; DataError where run.json does not record it."""
        if not isinstance(self.record.seed, int):
            raise DataError(f"{self.folder / RECORD_FILE} has no seed, so its run cannot be paired by seed")
        return self.record.seed


def model_files(folder: Path, weights: str = "selected") -> list[Path]:
    """Return a finished run's models, its own or one per fold: those tested, or the `other` weights.

    Raises ModelFileError for a folder without models, one that is not finished, and a model without others.
    """
    own = folder / MODEL_FILE
    files = [own] if own.is_file() else sorted(folder.glob(f"fold*/{MODEL_FILE}"))
    if not files:
        raise ModelFileError(f"{folder} holds no {MODEL_FILE}, nor do folders fold0, fold1, ... in it")
    if not (folder / RECORD_FILE).is_file():
        raise ModelFileError(
            f"{folder} is not finished (no {RECORD_FILE}): go on with it by --run.resume auto"
        )
    return files if weights == "selected" else [_other_weights(file.parent) for file in files]


def _other_weights(folder: Path) -> Path:
    others = sorted(folder.glob("model-*.safetensors"))
    if len(others) != 1:
        found = ", ".join(file.name for file in others) or "none"
        raise ModelFileError(
            f"--weights other: {folder} should hold one further file of weights, model-best.safetensors or "
            f"model-last.safetensors; there is {found} (a run without validation keeps its last weights)"
        )
    return others[0]


def run_table(folder: Path) -> Manifest | None:
    """Return a run's table of images (a fold's may lie in the folder above); None where there is none."""
    for home in (folder, folder.resolve().parent):
        if (home / "manifest.parquet").is_file() and (home / RECORD_FILE).is_file():
            root = read_json(home / RECORD_FILE).get("data_root") or home
            return Manifest.load(home / "manifest.parquet", Path(root))
    return None


def refuse_run_folder(out: Path) -> None:
    """Raise UsageError where the results of a look at runs would go into the folder of a run."""
    if (out / RECORD_FILE).exists():
        raise UsageError(
            f"--out {out} is a run's own folder, whose predictions would be overwritten; name another "
            f"folder, such as {out.parent / (out.name + '-again')}"
        )


def read_predicted(folder: Path, record: RunRecord, form: ResultForm) -> Predictions:
    """Return the predictions in a result folder; DataError as `Predictions.read`."""
    return Predictions.read(
        folder / "predictions.parquet", record.class_names, form.columns, may_be_empty=form.may_be_empty
    )


def check_result_files(folder: Path, what: str, written_by: str) -> None:
    """Raise DataError unless a folder holds run.json and predictions.parquet; of a study it names the cells.

    `what` the folder should be and by which command it is `written_by` are given in words.
    """

    needed = ("run.json", "predictions.parquet")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        if hint := study_hint(folder):
            raise DataError(hint)
        found = "it does not exist" if not folder.is_dir() else f"it lacks {' and '.join(missing)}"
        raise DataError(
            f"{folder} is not the result of {what}: {found}. A result folder holds "
            f"{' and '.join(needed)} ({written_by})"
        )


def _check_headline(folder: Path, record: RunRecord, predictions: Predictions, form: ResultForm) -> None:
    """Raise DataError unless run.json's headline accuracy is that of the predictions.

    They are stored in float32: an image whose two best classes became equal may count either way.
    """
    key, label = form.headline
    told = (record.scores or {}).get(key)
    if told is None or not len(predictions):
        return
    if isinstance(told, bool) or not isinstance(told, int | float):
        raise DataError(f"{folder / RECORD_FILE}: scores, {key} is not a number: {told!r}")
    best = predictions.probs.max(axis=1, keepdims=True)
    unsure = int(((predictions.probs == best).sum(axis=1) > 1).sum())
    found = 100 * float(predictions.correct.mean())
    if abs(found - told) > 100 * unsure / len(predictions) + 1e-6:
        raise DataError(
            f"{folder}: run.json records {label} {told:.4f} %, but predictions.parquet gives {found:.4f} %: "
            "one of the files is of another run or was overwritten; bring back the run's own, or train again"
        )
