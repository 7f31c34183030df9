"""A task outside the toolkit: class folders under train/, val/ and test/, scored by accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from finetune.cli.console import say
from finetune.experiments.config import ComparisonConfig, DataConfig, EvaluateConfig
from finetune.experiments.measures import Measure
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.splits import Split, Splits
from finetune.experiments.result import ResultForm
from finetune.experiments.task import Sections, Task, TaskData
from finetune.figures.markdown import number, table
from finetune.images.folders import list_class_folders, part_folders
from finetune.images.manifest import Manifest
from finetune.training.config import FitConfig


@dataclass(frozen=True)
class StripesConfig(FitConfig):
    """A whole run: data, model, head, loss, training, evaluation and where it goes."""

    data: DataConfig = field(default_factory=DataConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)


@dataclass(frozen=True)
class StripesStudyConfig(StripesConfig, ComparisonConfig):
    """A study of losses."""

    def __post_init__(self) -> None:
        StripesConfig.__post_init__(self)
        ComparisonConfig.__post_init__(self)


class StripesTask(Task):
    """Which way stripes run."""

    name = "stripes"
    title = "Stripes"
    form = ResultForm(("stripes_run",), "a run on stripes", "train writes them", ("accuracy", "accuracy"))
    config_type = StripesConfig
    measures = (
        Measure(
            "accuracy",
            "accuracy",
            frozenset({"compare", "conclusion", "study", "facts", "card", "demo", "evaluate", "other_data"}),
            hits=lambda found: found.correct,
        ),
    )

    def read(self, config: DataConfig, *, lists_only: bool = False) -> TaskData:  # noqa: ARG002
        """Read the images in the folders of the classes."""
        root = Path(str(config.root))
        found = list_class_folders(root, part_folders(root))
        place = {name: index for index, name in enumerate(found.class_names)}
        columns = {
            "path": np.array([image.path for image in found.pictures]),
            "label": np.array([place[image.class_name] for image in found.pictures]),
            "split": np.array([image.part for image in found.pictures]),
        }
        return TaskData(Manifest(root, tuple(found.class_names), columns), "folders", {})

    def splits(self, data: TaskData, config: DataConfig) -> Splits:  # noqa: ARG002
        """Return the parts as the folders name them; the fingerprint covers them."""
        train, val, test = (
            np.flatnonzero(data.manifest["split"] == part) for part in ("train", "val", "test")
        )
        return Splits((Split(train, val, test),), data.manifest.fingerprint)

    def scores(self, predictions: Predictions, train_labels: np.ndarray | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Return the accuracy in percent, and how many images it is a mean of."""
        return {"accuracy": 100 * float(predictions.correct.mean()), "n": len(predictions)}

    def sections(self, record: Mapping[str, Any]) -> Sections:
        """Return the result."""
        return [
            ("Result", table(["images", "accuracy (%)"], [[str(record["n"]), number(record["accuracy"])]]))
        ]

    def tell(self, report: Mapping[str, Any]) -> None:
        """Print the result in one line."""
        say(f"accuracy {report['accuracy']:.2f} % of {report['n']} test images")


TASK = StripesTask()
