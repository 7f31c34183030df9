"""The scores of age groups, what each is called and where it is shown; and what a result folder holds."""

from __future__ import annotations

from finetune.experiments.measures import Measure, Place
from finetune.experiments.result import ResultForm

SHOWN: frozenset[Place] = frozenset(
    {"report", "compare", "conclusion", "study", "facts", "card", "demo", "evaluate", "other_data"}
)
FACTS: frozenset[Place] = frozenset({"facts"})

MEASURES = (
    Measure(
        "exact",
        "exact accuracy",
        SHOWN,
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
    Measure("macro_f1", "macro F1", frozenset({"study"})),
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
