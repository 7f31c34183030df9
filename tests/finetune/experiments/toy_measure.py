"""A score that a task is given for a test: its mean over classes under another name."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.experiments.measures import Measure
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.task import Task


def sure_hits(found: Predictions) -> np.ndarray:
    """Return whether the most probable class has more than half of the probability, (N,)."""
    return np.asarray(found.probs.max(axis=1) > 0.5)


TOY = Measure(
    "toy",
    "toy score",
    frozenset({"report", "compare", "study", "facts", "card", "demo", "other_data"}),
    hits=sure_hits,
    report_key="balanced_accuracy",
    score_key="balanced_accuracy",
    column="toy",
    labels={"card": "toy score of the card"},
)


def give_toy(monkeypatch: pytest.MonkeyPatch, task: Task) -> None:
    """Add the toy score to a task's measures, and to nothing else, for the rest of the test."""
    measures = task.measures
    if task.name == "age":  # its report's first table is of means over folds, which the toy is not
        places = TOY.places - {"report"}
        toy = Measure(**{**TOY.__dict__, "places": places})
    else:
        toy = TOY
    monkeypatch.setattr(type(task), "measures", (*measures, toy))
