"""One score of a task: its name, where it is shown, what it is a mean of, and what its interval resamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from finetune.experiments.predictions import Predictions

Place = Literal["compare", "conclusion", "study", "card", "demo", "evaluate"]
Over = Literal["folds", "images", "classes"]


@dataclass(frozen=True)
class Measure:
    """One score of a task, and where it is shown.

    Args:
        key: its name in a result's scores: "exact", "top1".
        label: in words: "exact accuracy".
        places: where it is shown; "conclusion" is the sentence on a comparison.
        hits: predictions -> 1.0 or 0.0 for each image, (N,); None for a score that is no mean over images.
        over: the mean is taken over folds (of each fold's mean), over images, or over classes.
        study_key: its name in a study's cells; "" for `key`.
        report_key: its name in report.json where a study finds it; "" for `key`.
        fewest_classes: it says something from so many classes on.
    """

    key: str
    label: str
    places: frozenset[Place]
    hits: Callable[[Predictions], np.ndarray] | None = None
    over: Over = "images"
    study_key: str = ""
    report_key: str = ""
    fewest_classes: int = 2

    @property
    def study_name(self) -> str:
        """Its name in a study's cells."""
        return self.study_key or self.key

    @property
    def report_name(self) -> str:
        """Its name in report.json."""
        return self.report_key or self.key


@dataclass(frozen=True)
class Resampling:
    """What is drawn again when an interval is computed: whole clusters, within strata.

    Args:
        unit: one cluster in words: "subject" or "image".
        clusters: (N,), the cluster of each image.
        strata: (N,), such as the fold; clusters are drawn within each.
        further: more cautious clusters by their unit, such as the albums that hold several subjects.
    """

    unit: str
    clusters: np.ndarray
    strata: np.ndarray
    further: Mapping[str, np.ndarray] = field(default_factory=dict)
