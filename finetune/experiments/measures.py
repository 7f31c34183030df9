"""One score of a task: its names, its words, where it is shown, and what its interval resamples.

The measures of a task are the only list of its scores. Tables, cards, exported models and the demo read them:
a new score is a function, a line in the list and a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

    from finetune.experiments.records.predictions import Predictions

Place = Literal["report", "compare", "conclusion", "study", "facts", "card", "demo", "evaluate", "other_data"]
Over = Literal["folds", "images", "classes"]
FEWEST_UNITS = 30  # such as subjects: intervals that resample fewer are too narrow
PERCENT = "%"


@dataclass(frozen=True)
class Measure:
    """One score of a task, and where it is shown.

    Args:
        key: its name in comparisons, and wherever no other name is given: "exact", "top1".
        label: in words: "exact accuracy".
        places: where it is shown: the first table of a "report"; "compare" and its "conclusion", a sentence;
            "study"; "facts", what travels with an exported model, of which its "card" and the "demo" show
            some; "evaluate", exported models on their run's images, and "other_data", on any other images.
        hits: predictions -> 1.0 or 0.0 for each image, (N,), or its value in `unit`; None for a score that is
            no mean over images.
        over: the mean is taken over folds (of each fold's mean), over images, or over classes.
        study_key: its name in a study's cells; "" for `key`.
        report_key: its name in report.json where a study finds it; "" for `key`.
        score_key: its name in `Task.scores`; "" for `key`.
        facts_key: its name in the facts of an exported model; "" for `key`.
        fewest_classes: it says something from so many classes on.
        of_classes: class names -> whether it says something of them; None for all.
        unit: %, another word, or "" for a plain number.
        column: what heads its column in narrow tables; "" for `label`.
        labels: its label in the places that word it otherwise.
    """

    key: str
    label: str
    places: frozenset[Place]
    hits: Callable[[Predictions], np.ndarray] | None = None
    over: Over = "images"
    study_key: str = ""
    report_key: str = ""
    score_key: str = ""
    facts_key: str = ""
    fewest_classes: int = 2
    of_classes: Callable[[Sequence[str]], bool] | None = None
    unit: str = PERCENT
    column: str = ""
    labels: Mapping[Place, str] = field(default_factory=dict)

    @property
    def study_name(self) -> str:
        """Its name in a study's cells."""
        return self.study_key or self.key

    @property
    def report_name(self) -> str:
        """Its name in report.json."""
        return self.report_key or self.key

    @property
    def score_name(self) -> str:
        """Its name in `Task.scores`."""
        return self.score_key or self.key

    @property
    def facts_name(self) -> str:
        """Its name in the facts of an exported model."""
        return self.facts_key or self.key

    def applies(self, class_names: Sequence[str]) -> bool:
        """Return whether it says something of these classes."""
        return self.is_of(class_names) and len(class_names) >= self.fewest_classes

    def is_of(self, class_names: Sequence[str]) -> bool:
        """Return whether it is a score of such classes, however many there are."""
        return self.of_classes is None or self.of_classes(class_names)

    @property
    def is_percent(self) -> bool:
        """Whether its hits are a percentage of the images."""
        return self.unit == PERCENT

    @property
    def difference_unit(self) -> str:
        """What a difference of two of its values is counted in: points, or its unit."""
        return "points" if self.is_percent else self.unit

    @property
    def heading(self) -> str:
        """What heads its column: "top-1 %", or "MAE (groups)" for a unit in words."""
        unit = self.unit if self.unit in ("", PERCENT) else f"({self.unit})"
        return f"{self.column or self.label} {unit}".rstrip()

    def label_in(self, place: Place) -> str:
        """Its words in this place."""
        return self.labels.get(place, self.label)


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

    def warnings(self) -> list[str]:
        """Return what is to be said of intervals over fewer than 30 clusters of images; nothing of images."""
        count = len(set(self.clusters.tolist()))
        if self.unit == "image" or not 0 < count < FEWEST_UNITS:
            return []
        return [
            f"the test images are of {count} {self.unit}s, fewer than {FEWEST_UNITS}: intervals over so few "
            "are too narrow, and no conclusion should rest on them"
        ]


def shown_in(
    measures: Iterable[Measure], place: Place, class_names: Sequence[str] | None = None
) -> tuple[Measure, ...]:
    """Return the measures that are shown in this place, in their order: where given, of such classes."""
    shown = (measure for measure in measures if place in measure.places)
    return tuple(one for one in shown if class_names is None or one.is_of(class_names))
