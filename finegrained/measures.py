"""The scores of categories, what each is called and where it is shown; and what a result folder holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finetune.experiments.measures import Measure, Place
from finetune.experiments.result import ResultForm

if TYPE_CHECKING:
    from finetune.experiments.records.predictions import Predictions

TOP = 5
SHOWN: frozenset[Place] = frozenset(
    {"report", "compare", "study", "facts", "card", "demo", "evaluate", "other_data"}
)
FACTS: frozenset[Place] = frozenset({"facts"})


def top5_hits(found: Predictions) -> np.ndarray:
    """Return whether the target is among the five most probable classes, bool (N,); ties by class order."""
    best = np.argsort(-found.probs, axis=1, kind="stable")[:, :TOP]
    return np.asarray((best == found.target[:, None]).any(axis=1))


MEASURES = (
    Measure(
        "top1",
        "top-1 accuracy",
        SHOWN | {"conclusion"},
        hits=lambda found: found.correct,
        study_key="accuracy",
        column="top-1",
        labels={"card": "correct category (top-1)", "demo": "correct class"},
    ),
    Measure(
        "top5",
        "top-5 accuracy",
        SHOWN,
        hits=top5_hits,
        fewest_classes=TOP + 1,
        column="top-5",
        labels={"card": "correct category among five (top-5)", "demo": "among the five most probable"},
    ),
    Measure(
        "per_class",
        "mean of the per-class accuracies",
        frozenset({"report", "compare", "facts", "card", "demo", "other_data"}),
        hits=lambda found: found.correct,
        over="classes",
        report_key="balanced_accuracy",
        score_key="balanced_accuracy",
        facts_key="balanced_accuracy",
        column="mean over classes",
        labels={"card": "top-1, mean over categories", "demo": "mean over classes"},
    ),
    Measure("macro_f1", "macro F1", frozenset({"report", "study", "facts"})),
    Measure("nll", "negative log-likelihood", FACTS, unit=""),
    Measure("ece", "expected calibration error", FACTS, unit=""),
    Measure("adaptive_ece", "calibration error over bins of equal count", FACTS, unit=""),
    Measure("aurc", "area under the risk-coverage curve", FACTS, unit=""),
)

FINE_RESULT = ResultForm(
    kinds=("fine_run",),
    what="a fine-grained run",
    written_by="crl fine train writes them when it ends; an interrupted run goes on with --run.resume auto",
    headline=(MEASURES[0].key, MEASURES[0].label),
)
