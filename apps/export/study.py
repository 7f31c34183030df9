"""What an export needs to know of the study that a run belongs to: one implementation for each study."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.config import ExportConfig
from finetune.errors import DataError, UsageError
from finetune.experiments.study.cells import CELL_FILE, study_hint
from finetune.images.manifest import Manifest
from finetune.runs.folder import read_json

if TYPE_CHECKING:
    from finegrained.config import FineDataConfig

Record = Mapping[str, Any]
MODEL_FILE = "model.safetensors"  # the weights that a run was tested with
GENERAL = "general_run"
NOT_EXPORTED = (
    "cannot be exported: its networks are small ones for comparing losses. Train a model on the same "
    "pictures as class folders with crl fine train --data.layout folders --data.root FOLDER, and export that "
    "run"
)


@dataclass(frozen=True)
class Tested:
    """What a run predicted for the images that one of its models was tested on: paths (N,), probs (N, K)."""

    path: np.ndarray
    probs: np.ndarray


class Study(ABC):
    """The questions of an export to the study of a run."""

    @abstractmethod
    def rows(self, record: Record, manifest: Manifest, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that the model of `fold` learned from and was tested on."""

    @abstractmethod
    def tested(self, folder: Path, record: Record, file: Path, fold: int) -> Tested | None:
        """Return what the run predicted with the weights in `file`; None where it never tested them."""

    @abstractmethod
    def boxes(self, record: Record, manifest: Manifest) -> np.ndarray | None:
        """Return the part of each picture that is looked at, (N, 4) in px; None for whole pictures."""

    @abstractmethod
    def face_crop(
        self, folder: Path, record: Record, config: ExportConfig
    ) -> tuple[Mapping[str, Any] | None, str]:
        """Return how a face is cut out for the run's models, None for no face, and how that is known."""

    @abstractmethod
    def card(self, folder: Path, file: Path, fold: int | None) -> dict[str, Any]:
        """Return {"metrics", "card"} of a model, and under "data" what else its facts tell of the data."""


class AgeStudy(Study):
    """Age groups of faces: folds, predictions of them all in one file, a face crop."""

    def rows(self, record: Record, manifest: Manifest, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the fold's rows; -1 learned from all and was tested on none."""
        from agecls.data.folds import make_splits

        if fold == -1:
            return np.arange(len(manifest)), np.arange(0)
        splits = make_splits(manifest, record.get("protocol", "fixed"), allow_subject_overlap=True)
        split = next((split for split in splits if split.fold == fold), None)
        if split is None:
            raise DataError(
                f"the table of images has folds {[split.fold for split in splits]}, none is {fold}"
            )
        return split.train, split.test

    def tested(self, folder: Path, record: Record, file: Path, fold: int) -> Tested | None:  # noqa: ARG002
        """Return the predictions of the fold's own images."""
        from agecls.task import TASK
        from finetune.experiments.predictions import Predictions

        stored = folder / "predictions.parquet"
        if not stored.is_file():
            return None
        own = Predictions.read(stored, record["class_names"], TASK.columns, may_be_empty=TASK.may_be_empty)
        own = own.select(own.fold == fold)
        return Tested(own.path, own.probs)

    def boxes(self, record: Record, manifest: Manifest) -> None:  # noqa: ARG002
        """Return None: faces come cut out."""
        return

    def face_crop(
        self, folder: Path, record: Record, config: ExportConfig
    ) -> tuple[Mapping[str, Any] | None, str]:
        """Return the crop that the run or the options tell, or that a detector measures on its pictures."""
        from apps.export.crop import face_crop_of

        crop, source = face_crop_of(folder, record, config)
        return crop.to_dict(), source

    def card(self, folder: Path, file: Path, fold: int | None) -> dict[str, Any]:  # noqa: ARG002
        """Return what `agecls.card.age_card` tells."""
        from agecls.card import age_card

        return age_card(folder, fold)


class FineStudy(Study):
    """Look-alike categories: one model, one test part, maybe pictures cut to their boxes."""

    def rows(self, record: Record, manifest: Manifest, fold: int) -> tuple[np.ndarray, np.ndarray]:  # noqa: ARG002
        """Return the rows of the parts train and test, as the run's own table names them."""
        if "part" not in manifest:
            raise DataError("the run's table of images does not tell which were trained and tested on")
        return np.flatnonzero(manifest["part"] == "train"), np.flatnonzero(manifest["part"] == "test")

    def tested(self, folder: Path, record: Record, file: Path, fold: int) -> Tested | None:  # noqa: ARG002
        """Return the predictions of the test part, for the weights that were selected."""
        from finetune.experiments.predictions import Predictions

        stored = folder / "predictions.parquet"
        if file.name != MODEL_FILE or not stored.is_file():
            return None
        own = Predictions.read(stored, tuple(record["class_names"]))
        return Tested(own.path, own.probs)

    def boxes(self, record: Record, manifest: Manifest) -> np.ndarray | None:
        """Return the boxes with the run's margin, where it cut its pictures to them."""
        from finegrained.data.boxes import picture_boxes

        return picture_boxes(manifest, cut_as_in(record.get("crop") or {}))

    def face_crop(
        self,
        folder: Path,
        record: Record,  # noqa: ARG002
        config: ExportConfig,
    ) -> tuple[Mapping[str, Any] | None, str]:
        """Return None; UsageError where a face crop is asked for."""
        asked = config.face_crop != "auto" or config.face_margin is not None or config.detector is not None
        if asked:
            raise UsageError(
                f"{folder} is a fine-grained run, whose pictures show no faces: leave out --face_crop, "
                "--face_margin and --detector"
            )
        return None, ""

    def card(self, folder: Path, file: Path, fold: int | None) -> dict[str, Any]:  # noqa: ARG002
        """Return what `finegrained.card.fine_card` tells."""
        from finegrained.card import fine_card

        return fine_card(folder, tested=file.name == MODEL_FILE)


STUDIES: Mapping[str, type[Study]] = {"age_cv": AgeStudy, "age_fold": AgeStudy, "fine_run": FineStudy}


def study_of(record: Record) -> Study:
    """Return the study that a run.json is of; UsageError lists the kinds that can be exported."""
    kind = record.get("kind", "age_fold")  # runs of the first release tell none
    if kind == GENERAL:
        raise UsageError(f"a run of the general study {NOT_EXPORTED}")
    if kind not in STUDIES:
        raise UsageError(f"a run of kind {kind!r} cannot be exported; can be: {', '.join(STUDIES)}")
    return STUDIES[kind]()


def check_study(folder: Path) -> None:
    """Raise UsageError, before any work, for a run that cannot be exported and for the folder of a study.

    A study's folder, or an arm's in it, is answered with the cells that can be named in its place.
    """
    if (folder / "run.json").is_file():
        study_of(read_json(folder / "run.json"))
    elif (folder / CELL_FILE).is_file() or any(folder.glob(f"cells/*/*/{CELL_FILE}")):
        raise UsageError(f"{folder} is of the general study, whose model {NOT_EXPORTED}")
    elif hint := study_hint(folder):
        raise UsageError(hint)


def cut_as_in(crop: Mapping[str, Any]) -> FineDataConfig:
    """Return data options that cut pictures out as a run's record ("kind", "margin") tells."""
    from finegrained.config import FineDataConfig

    return FineDataConfig(crop=crop.get("kind", "image"), box_margin=crop.get("margin", 0.0))
