"""What the result folder of a fine-grained run holds: its kind, and the headline score."""

from finetune.experiments.result import ResultForm

FINE_RESULT = ResultForm(
    kinds=("fine_run",),
    what="a fine-grained run",
    written_by="crl fine train writes them when it ends; an interrupted run goes on with --run.resume auto",
    headline=("top1", "top-1 accuracy"),
)
