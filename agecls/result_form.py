"""What the result folder of an age run holds: its kinds, the predictions' columns, and the headline score."""

from finetune.experiments.result import ResultForm

AGE_RESULT = ResultForm(
    kinds=("age_fold", "age_cv"),
    what="an age run",
    written_by="crl age cv writes them when its folds are finished",
    columns=("subject", "user", "gender", "age", "fold"),
    may_be_empty=("age",),
    headline=("exact", "exact accuracy"),
)
