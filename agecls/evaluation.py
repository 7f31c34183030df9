"""What `evaluate` adds for age groups: slices, and crops made by a face detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agecls.config import EvaluateAgeConfig
from agecls.scores import age_scores, mean_of_folds, slice_scores
from agecls.slices import column_slices
from agecls.year_scores import score_years
from finetune.cli.console import say, table
from finetune.errors import UsageError
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.task import Task
from finetune.figures.markdown import method_mark

if TYPE_CHECKING:
    from finetune.experiments.evaluate import Evaluation

COUNTED = ("images", "subjects")  # of a cell; where subjects are not known, images alone
SLICES = ("group", "gender", "subject_count")


def evaluate_age_run(task: Task, folder: Path, config: EvaluateAgeConfig) -> dict[str, Any]:
    """Score a run folder and return the scores with their slices, as `score_age_run` does."""
    return score_age_run(task, folder, config).summary


def score_age_run(task: Task, folder: Path, config: EvaluateAgeConfig) -> Evaluation:
    """Score a run folder; return the scores with their slices, and the predictions.

    With `crop` "detector" the images are also cut out again by a face detector, and what that costs is
    returned (`agecls.crop_evaluation`). Raises UsageError for options of re-cropping without it.
    """
    if config.crop == "detector":
        from agecls.crop_evaluation import evaluate_recropped

        return evaluate_recropped(task, folder, config)
    from finetune.experiments.evaluate import score_run

    refuse_unused(config)
    return score_run(task, folder, config)


def refuse_unused(config: EvaluateAgeConfig) -> None:
    """Raise UsageError for options of re-cropping in an evaluation that cuts nothing out again."""
    given = {"detector": config.detector, "face_margin": config.face_margin}
    given["face_crop"] = None if config.face_crop == "auto" else config.face_crop
    unused = [f"--{name}" for name, value in given.items() if value is not None]
    if unused:
        raise UsageError(f"{', '.join(unused)} would change nothing: add --crop detector")


def evaluation_scores(predictions: Predictions) -> dict[str, Any]:
    """Return the scores pooled over the images, and under "slices" the rows of each slice.

    Where images were tested in several folds the two accuracies are means over folds, and `over` says so.
    """
    slices = {name: slice_scores(predictions, name) for name in SLICES}  # type: ignore[arg-type]
    slices |= column_slices(predictions)
    in_years = score_years(predictions)
    if in_years is not None:
        slices.pop("group")  # decades say it
    scores = age_scores(predictions.probs, predictions.target)
    if predictions.tested_again:
        scores |= {**mean_of_folds(predictions), "over": "folds"}
    return {**scores, **({} if in_years is None else {"years": in_years}), "slices": slices}


def tell_evaluation(summary: Mapping[str, Any]) -> None:
    """Print both accuracies, or the errors in years, and every slice."""
    if "years" in summary:
        _tell_years(summary)
        tell_slices(summary)
        return
    how = "mean over the folds of" if summary.get("over") == "folds" else "pooled over"
    say(
        f"{summary['data']} ({summary['test_crops']} crops, {summary['weights']} weights): exact "
        f"{summary['exact']:.2f} %, one-off {summary['one_off']:.2f} %, {how} {summary['n']} images"
    )
    tell_slices(summary)


def _tell_years(summary: Mapping[str, Any]) -> None:
    found = summary["years"]
    say(
        f"{summary['data']} ({summary['test_crops']} crops, {summary['weights']} weights): mean absolute "
        f"error {found['mae']:.2f} years, bias {found['bias']:+.2f} years, CS@5 {found['cs5']:.2f} %, pooled "
        f"over {summary['n']} images"
    )
    rows = [
        [row["name"], row["images"], f"{row['mae']:.2f}", f"{row['bias']:+.2f}"] for row in found["decades"]
    ]
    table("by decade of true age", ["years", "images", "MAE", "bias"], rows)


def tell_slices(summary: Mapping[str, Any]) -> None:
    """Print every slice."""
    for name, rows in summary["slices"].items():
        print_slice(name, rows)


def print_slice(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print one slice; cells with too few subjects show their counts alone."""
    lines = []
    for row in rows:
        told = ["-", "-"]
        if row["exact"] is not None:
            low, high = row["exact_interval"]
            how = method_mark(row, "exact_interval")
            told = [f"{row['exact']:.1f} [{low:.1f}, {high:.1f}]{how}", f"{row['one_off']:.1f}"]
        lines.append([row["name"], *(row[key] for key in COUNTED if key in row), *told])
    if rows:
        header = ["", *(key for key in COUNTED if key in rows[0]), "exact %", "one-off %"]
        table(f"by {name.replace('_', ' ')}", header, lines)
