"""The images of a finished run, as its models see them: to check an export with, to calibrate, to score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from apps.export.plan import run_task
from finetune.cli.machine import core_count
from finetune.errors import DataError
from finetune.experiments.data_checks import HASHES, SEEN_PARTS
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import MODEL_FILE, RECORD_FILE, RunRecord
from finetune.experiments.result import read_predicted
from finetune.experiments.task import Task
from finetune.images.boxes import cut
from finetune.images.checks import content_hashes, pack_digests
from finetune.images.decode import decode_image
from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec, preprocess

BATCH = 32


@dataclass(frozen=True)
class RunPictures:
    """The table of a run's images, where they lie, and which of them each fold trained and tested on.

    Args:
        record: the run's record.
        manifest: the run's images.
        task: that the run belongs to.
        boxes: the part of each image that is looked at, (N, 4) in px; None for whole images.
    """

    record: RunRecord
    manifest: Manifest
    task: Task
    boxes: np.ndarray | None = None

    @classmethod
    def open(cls, folder: Path) -> RunPictures:
        """Read the record and the table of a run, or of one fold of a cross-validation.

        Raises DataError, saying how to fix it, where the table or the folder of images is not there, or
        the table is not the one that the run was made with.
        """
        record = RunRecord.read(folder / RECORD_FILE)
        places = [
            place for place in (folder, folder.resolve().parent) if (place / "manifest.parquet").is_file()
        ]
        if not places:
            raise DataError(f"{folder} lacks manifest.parquet, the table of its images: is the run finished?")
        root = Path(record.data_root or "")
        manifest = Manifest.load(places[0] / "manifest.parquet", root)
        if manifest.fingerprint != record.manifest:
            raise DataError(f"{places[0] / 'manifest.parquet'} is not the table that {folder} was made with")
        if not record.data_root or not root.is_dir():
            raise DataError(
                f"the images of {folder} lay in {root}, where there is no folder now. An export is checked "
                f"on them: put them back, or write their new place as data_root into {folder / 'run.json'}"
            )
        task = run_task(record.kind)
        return cls(record, manifest, task, task.boxes(manifest, record.crop))

    def rows(self, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that the model of `fold` was trained on and tested on; -1 is of no fold."""
        return self.task.model_rows(self.record, self.manifest, fold)

    def contents(self, folds: Sequence[int]) -> dict[str, str]:
        """Return which images the folds' models have seen, and which all were tested on and none has seen.

        By the bytes of the files, as `finetune.images.checks.pack_digests` writes them.
        """
        count = len(self.manifest)
        seen = np.zeros(count, dtype=bool)
        tested = np.ones(count, dtype=bool)
        for fold in folds:
            test = np.isin(np.arange(count), self.rows(fold)[1])
            seen |= np.isin(self.manifest["part"], SEEN_PARTS) if "part" in self.manifest else ~test
            tested &= test
        hashes = self.manifest[HASHES] if HASHES in self.manifest else content_hashes(self.manifest)
        return {"seen": pack_digests(hashes[seen]), "tested": pack_digests(hashes[tested & ~seen])}

    def tested(self, folder: Path, file: Path, fold: int) -> Predictions | None:
        """Return what the run predicted with the weights in `file`; None where it never tested them."""
        stored = folder / "predictions.parquet"
        if file.name != MODEL_FILE or not stored.is_file():
            return None
        own = read_predicted(folder, self.record, self.task.form)
        return own.select(own.fold == fold) if "fold" in own else own

    def check_rows(self, folds: list[int], count: int) -> np.ndarray:
        """Return `count` rows over the folds' test images, and training images where these are few."""
        parts = [self.rows(fold) for fold in folds]
        tested = np.unique(np.concatenate([test for _, test in parts]))
        trained = np.setdiff1d(np.concatenate([train for train, _ in parts]), tested)
        rows = spread(tested, count)
        return np.concatenate([rows, spread(trained, count - len(rows))])

    def batches(self, rows: np.ndarray, spec: PreprocessSpec) -> Iterator[np.ndarray]:
        """Yield the prepared images of these rows in their order, uint8 (up to 32, S, S, 3) at a time.

        Raises BadImageError, naming the file, for an image that cannot be read.
        """
        with ThreadPoolExecutor(core_count()) as pool:
            for start in range(0, len(rows), BATCH):
                part = rows[start : start + BATCH].tolist()
                yield np.stack(list(pool.map(lambda row: preprocess(self.picture(row), spec), part)))

    def picture(self, row: int) -> np.ndarray:
        """Return the image of a row, cut to its box where the run did so: uint8 (H, W, 3) RGB."""
        file = self.manifest.file(row)
        pixels = decode_image(file)
        return pixels if self.boxes is None else cut(pixels, self.boxes[row], str(file))

    def load(self, rows: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
        """Return the prepared images of these rows at once, uint8 (N, S, S, 3)."""
        empty = np.zeros((0, spec.image_size, spec.image_size, 3), np.uint8)
        return np.concatenate([empty, *self.batches(rows, spec)])


def spread(rows: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` of the rows, evenly spaced over all of them.

    >>> spread(np.arange(10, 20), 4).tolist(), spread(np.arange(2), 5).tolist()
    ([10, 13, 16, 19], [0, 1])
    """
    places = np.linspace(0, len(rows) - 1, min(max(count, 0), len(rows)))
    return np.asarray(rows[places.round().astype(int)])
