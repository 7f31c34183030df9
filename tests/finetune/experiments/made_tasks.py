"""Both tasks with made-up predictions, so that one test asks the same of the results of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agecls.task import TASK as AGE
from finegrained.task import TASK as FINE
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import RunRecord
from finetune.experiments.result import Result
from finetune.experiments.task import Task
from finetune.metrics.bootstrap import PairedDifference, paired_cluster_bootstrap
from tests.agecls import results_by_hand
from tests.agecls.age_predictions import age_predictions
from tests.finegrained import made_results

CRL = {"name": "crl", "alpha": 1.5}
GROUPS = ("0-2", "4-6", "8-12", "15-20")
BIRDS = made_results.class_names(8)


@dataclass(frozen=True)
class MadeTask:
    """A task with results that no training made.

    Args:
        task: the task.
        unit: what its intervals resample.
        images: of a result in memory.
        names: the classes of a result in memory.
        majority: how many of the images are of the most frequent class, in percent.
        predictions: hits (N,) -> predictions that are right there.
        make: writes a whole result folder and reads it back: `make(folder, answers=1, loss=...)`.
    """

    task: Task
    unit: str
    images: int
    names: tuple[str, ...]
    majority: float
    predictions: Callable[[np.ndarray], Predictions]
    make: Callable[..., Result]

    @property
    def headline(self) -> str:
        """The key of the score that a comparison is about."""
        return self.task.measures[0].key

    @property
    def label(self) -> str:
        """The same in words."""
        return self.task.measures[0].label

    @property
    def record(self) -> dict[str, Any]:
        """What run.json of a result in memory holds."""
        return {
            "kind": self.task.form.kinds[-1],
            "class_names": list(self.names),
            "manifest": "1f",
            "policy": "some policy",
            "split": "2e",
            "backbone": "resnet18",
            "head": "linear",
            "loss": {"name": "cel"},
            "seed": 0,
        }

    def answers(self, share: float, seed: int = 0) -> np.ndarray:
        """Return hits, bool (N,), of which about this fraction is right."""
        return np.random.default_rng(seed).random(self.images) < share

    def result(
        self, hits: np.ndarray, name: str = "run", config: dict[str, Any] | None = None, **run: Any
    ) -> Result:
        """Return a result in memory; `run` replaces values of its run.json."""
        record = RunRecord.from_dict(self.record | run)
        return Result(Path(name), record, config or {}, self.predictions(hits))

    def write(self, folder: Path, found: np.ndarray | Predictions, **run: Any) -> Path:
        """Write a result of these hits or predictions into a folder, and return it.

        `run` replaces values of run.json, None removes them.
        """
        folder.mkdir(parents=True)
        facts = {name: value for name, value in (self.record | run).items() if value is not None}
        (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
        rows = self.predictions(found) if isinstance(found, np.ndarray) else found
        rows.write(folder / "predictions.parquet")
        return folder

    def bootstrap(self, first: np.ndarray, second: np.ndarray, **options: Any) -> PairedDifference:
        """Return the paired test of two columns of hits, by this task's own rule of what is drawn again."""
        left, right = 100.0 * first, 100.0 * second
        if self.task is FINE:
            return paired_cluster_bootstrap(left, right, np.arange(len(left)), **options)
        own = ages(first)
        statistic: Any = "mean_of_strata"
        return paired_cluster_bootstrap(left, right, own["subject"], own.fold, statistic=statistic, **options)


def ages(hits: np.ndarray) -> Predictions:
    """Return predictions right where `hits` (N,): two images a subject, two subjects an album, 3 folds."""
    index = np.arange(len(hits))
    target = index % 4
    preds = np.where(hits, target, (target + 2) % 4)
    return age_predictions(
        GROUPS,
        path=np.array([f"{row:05}.jpg" for row in index]),
        subject=np.array([f"s{row // 2}" for row in index]),
        user=np.array([f"u{row // 4}" for row in index]),
        gender=np.array(["f", "m"])[index // 2 % 2],
        age=np.where(index // 2 % 3 == 0, np.nan, 20.0),
        fold=index // 4 % 3,
        target=target,
        probs=0.9 * np.eye(4)[preds] + 0.025,
    )


def birds(hits: np.ndarray) -> Predictions:
    """Return predictions of 8 classes of unequal size, right where `hits` (N,), the rest at random."""
    generator = np.random.default_rng(0)
    index = np.arange(len(hits))
    target = np.minimum(index % 11, 7)
    said = np.where(hits, target, (target + 1 + generator.integers(0, 7, len(hits))) % 8)
    probs = 0.6 * np.eye(8)[said] + 0.4 * generator.dirichlet(np.ones(8), len(hits))
    return Predictions(BIRDS, np.array([f"{row:05}.jpg" for row in index]), target, probs)


MADE = {
    "age": MadeTask(AGE, "subject", 240, GROUPS, 25.0, ages, results_by_hand.make_result),
    "fine": MadeTask(FINE, "image", 400, BIRDS, 36.0, birds, made_results.make_result),
}
