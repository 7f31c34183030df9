"""The scores of age groups, what each is called and where it is shown; and what a result folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agecls.data.years import years_of
from finetune.experiments.measures import Measure, Place
from finetune.experiments.result import ResultForm

if TYPE_CHECKING:
    import numpy as np

    from finetune.experiments.records.predictions import Predictions

SHOWN: frozenset[Place] = frozenset(
    {"report", "compare", "conclusion", "study", "facts", "card", "demo", "evaluate", "other_data"}
)
FACTS: frozenset[Place] = frozenset({"facts"})

IN_YEARS: frozenset[Place] = SHOWN - {"report"}  # the report has a section of its own


def are_years(class_names: Sequence[str]) -> bool:
    """Return whether these classes are years of age."""
    return years_of(class_names) is not None


def are_groups(class_names: Sequence[str]) -> bool:
    """Return whether these classes are age groups."""
    return years_of(class_names) is None


def _within_five_years(found: Predictions) -> np.ndarray:
    from agecls.year_scores import within, year_errors

    return within(year_errors(found), 5)


def _absolute_years(found: Predictions) -> np.ndarray:
    import numpy as np

    from agecls.year_scores import year_errors

    return np.asarray(np.abs(year_errors(found)))


MEASURES = (
    Measure(
        "exact",
        "exact accuracy",
        SHOWN,
        of_classes=are_groups,
        hits=lambda found: found.correct,
        over="folds",
        study_key="accuracy",
        report_key="exact_mean",
        column="exact",
        labels={"report": "exact", "card": "correct group (exact)", "demo": "correct class"},
    ),
    Measure(
        "one_off",
        "one-off accuracy",
        SHOWN,
        of_classes=are_groups,
        hits=lambda found: found.one_off,
        over="folds",
        report_key="one_off_mean",
        column="one-off",
        labels={
            "report": "one-off (within one group)",
            "card": "correct group or one next to it (one-off)",
            "demo": "correct or next to it",
        },
    ),
    Measure(
        "cs5",
        "CS@5, answers within five years",
        IN_YEARS,
        of_classes=are_years,
        hits=_within_five_years,
        over="folds",
        report_key="cs5_mean",
        column="CS@5",
        labels={"card": "within five years (CS@5)", "demo": "within five years"},
    ),
    Measure(
        "mae_years",
        "mean absolute error",
        IN_YEARS,
        of_classes=are_years,
        hits=_absolute_years,
        over="folds",
        report_key="mae_years_mean",
        unit="years",
        column="MAE",
        labels={"card": "mean absolute error (median answer)"},
    ),
    Measure("macro_f1", "macro F1", frozenset({"study"}), of_classes=are_groups),
    Measure(
        "balanced_accuracy",
        "balanced accuracy",
        frozenset({"facts", "demo"}),
        labels={"demo": "mean over classes"},
    ),
    Measure("ece", "expected calibration error", FACTS, unit=""),
    Measure("adaptive_ece", "calibration error over bins of equal count", FACTS, unit=""),
    Measure("threshold_ece", "calibration error of every threshold", FACTS, unit=""),
    Measure("aurc", "area under the risk-coverage curve", FACTS, unit=""),
    Measure("brier", "Brier score", FACTS, unit=""),
    Measure("nll", "negative log-likelihood", FACTS, unit=""),
    Measure("rps", "ranked probability score", FACTS, unit=""),
    Measure(
        "mae",
        "mean error",
        frozenset({"facts", "card", "demo", "other_data"}),
        of_classes=are_groups,
        score_key="mae_argmax",
        unit="groups",
        column="MAE",
        labels={"card": "mean error, in groups"},
    ),
)

AGE_RESULT = ResultForm(
    kinds=("age_fold", "age_cv"),
    what="an age run",
    written_by="crl age cv writes them when its folds are finished",
    columns=("subject", "user", "gender", "age", "fold"),
    may_be_empty=("age",),
    unnamed=True,
    headline=(MEASURES[0].key, MEASURES[0].label),
)
