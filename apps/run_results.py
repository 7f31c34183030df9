"""A finished run of either study as `crl evaluate-onnx` asks it: what was tested, and how it scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from agecls.scores import age_scores
from agecls.task import TASK as AGE
from apps.runtime.session import OnnxClassifier
from finegrained.config import FineDataConfig
from finegrained.data.boxes import picture_boxes
from finegrained.scores import fine_scores
from finegrained.task import KIND
from finegrained.task import TASK as FINE
from finetune.errors import DataError, UsageError
from finetune.experiments.predictions import Predictions
from finetune.experiments.result import Result
from finetune.images.manifest import Manifest
from finetune.images.preprocess import TEST_CROPS
from finetune.runs.folder import read_json


class RunResult(ABC):
    """A finished run: `folder`, `run` (run.json), `class_names`, and what it says of test images."""

    measures: ClassVar[Mapping[str, str]]  # the scores that are told, by their key, in words

    def __init__(self, folder: Path, run: Mapping[str, Any], class_names: tuple[str, ...]) -> None:
        self.folder, self.run, self.class_names = folder, run, class_names

    @abstractmethod
    def part(self, model: OnnxClassifier) -> int:
        """Return the fold whose images a model was tested on, -1 for the one test part of a run without."""

    @abstractmethod
    def tested(self, part: int) -> Predictions:
        """Return what the trained model of this part predicted."""

    @abstractmethod
    def boxes(self, manifest: Manifest) -> np.ndarray | None:
        """Return the part of each picture that is looked at, (N, 4) in px; None for whole pictures."""

    @abstractmethod
    def scores(self, found: Predictions) -> dict[str, Any]:
        """Return the scores named in `measures`, in percent; None for one that cannot be computed."""

    @property
    def crops(self) -> str:
        """The views of a picture that the run averaged over; UsageError where no file can show them."""
        crops = str(self.run.get("test_crops", "center"))
        if crops not in TEST_CROPS:
            raise UsageError(
                f"{self.folder} was tested with {crops} crops, for which a file would have to look twice: "
                "instead of --run give --data.root, and the pictures' centres are scored"
            )
        return crops

    def told_twice(self, model: OnnxClassifier) -> list[tuple[str, Any, Any]]:
        """Return what a model and its run both tell: the words for it, and either's value, None if untold."""
        facts, run = model.facts, self.run
        return [
            ("table of images", facts.data.get("manifest"), run.get("manifest")),
            ("split", facts.data.get("split"), run.get("split")),
            ("loss", facts.loss.get("name"), dict(run.get("loss") or {}).get("name")),
            ("backbone", facts.architecture.get("backbone"), run.get("backbone")),
            ("seed", facts.training.get("seed"), run.get("seed")),
        ]


class AgeRun(RunResult):
    """A cross-validation of age groups, or one fold of it."""

    measures: ClassVar[Mapping[str, str]] = {"exact": "exact", "one_off": "one-off"}

    def __init__(self, result: Result) -> None:
        super().__init__(result.folder, result.run, result.class_names)
        self.result = result

    def part(self, model: OnnxClassifier) -> int:
        """Return the model's fold.

        Raises UsageError for a model that averages folds, DataError for one whose fold was not tested.
        """
        fold = model.facts.data.get("fold")
        if model.facts.architecture.get("members", 1) != 1 or not isinstance(fold, int):
            raise UsageError(
                f"{model.path} averages models of several folds, which together were trained on every image "
                f"of {self.folder}: export single folds to repeat the run, or show it other images by "
                "--data.*"
            )
        folds = self.result.folds
        if fold not in folds:
            told = "every image was trained on" if fold == -1 else f"tested are {folds}"
            raise DataError(f"{self.folder} has no test images for {model.path} (fold {fold}): {told}")
        return fold

    def tested(self, part: int) -> Predictions:
        """Return the predictions of one fold."""
        own = self.result.predictions
        return own.select(own.fold == part)

    def boxes(self, manifest: Manifest) -> None:  # noqa: ARG002
        """Return None: faces come cut out."""
        return

    def scores(self, found: Predictions) -> dict[str, Any]:
        """Return exact and one-off accuracy."""
        scores = age_scores(found.probs, found.target)
        return {name: scores[name] for name in self.measures}


class FineRun(RunResult):
    """A run on look-alike categories."""

    measures: ClassVar[Mapping[str, str]] = {"top1": "top-1", "top5": "top-5"}

    def __init__(self, result: Result) -> None:
        super().__init__(result.folder, result.run, result.class_names)
        self.result = result

    def part(self, model: OnnxClassifier) -> int:
        """Return -1; DataError where the run tested nothing."""
        if not len(self.result.predictions):
            raise DataError(f"{self.folder} tested no picture: show {model.path} others by --data.*")
        return -1

    def tested(self, part: int) -> Predictions:  # noqa: ARG002
        """Return the predictions of the test part."""
        return self.result.predictions

    def boxes(self, manifest: Manifest) -> np.ndarray | None:
        """Return the boxes that the run cut its pictures to."""
        crop = self.run.get("crop") or {}
        how = FineDataConfig(crop=crop.get("kind", "image"), box_margin=crop.get("margin", 0.0))
        return picture_boxes(manifest, how)

    def scores(self, found: Predictions) -> dict[str, Any]:
        """Return top-1 and top-5 accuracy."""
        scores = fine_scores(found.probs, found.target, found.class_names)
        return {name: scores[name] for name in self.measures}

    def told_twice(self, model: OnnxClassifier) -> list[tuple[str, Any, Any]]:
        """Return also the head, and which of the run's weights the model holds: the selected were tested."""
        facts, run = model.facts, self.run
        return [
            *super().told_twice(model),
            ("head", facts.architecture.get("head"), run.get("head")),
            ("choice of weights", facts.data.get("weights"), run.get("selected")),
        ]


def load_run(folder: Path) -> RunResult:
    """Return a finished run of the study that its run.json names; DataError for what is no result."""
    record = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    if record.get("kind") == KIND:
        return FineRun(Result.load(folder, FINE))
    return AgeRun(Result.load(folder, AGE))
