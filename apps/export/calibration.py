"""The calibration that goes into a plan's file, and what its card says of confidence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apps.export.images import RunPictures
from apps.export.plan import Plan
from finetune.errors import UsageError
from finetune.experiments.config import CalibrateConfig
from finetune.experiments.probabilities.calibrate import calibrate_run, entry_of, stored_calibration
from finetune.experiments.probabilities.scores import selective_facts
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import MODEL_FILE


def plan_calibration(folder: Path, plan: Plan, pictures: RunPictures) -> dict[str, Any]:
    """Return the entry of the plan's model in the run's calibration.json, which is made where there is none.

    Raises UsageError for weights that were not tested, and for a model without images that it never saw: one
    that was trained on all, and an average of folds.
    """
    if plan.files[0].name != MODEL_FILE:
        raise UsageError(
            f"--calibrate: {plan.files[0]} was not tested, so nothing calibrates it: leave --calibrate out"
        )
    content = stored_calibration(folder)
    several = plan.files[0].parent != folder
    if content is None and (plan.fold is not None or not several):
        content = calibrate_run(pictures.task, folder, CalibrateConfig())
    fold = plan.fold if several else int(pictures.record.extra.get("fold", 0))
    entry = entry_of(content, fold, plan.files) if content is not None else None
    if entry is None:
        noun = pictures.task.name
        raise UsageError(
            f"--calibrate: {plan.title} has no images that none of its models saw. Calibrate it on others "
            f"first (crl {noun} calibrate {folder} --data.table FILE), or leave --calibrate out"
        )
    return entry


def with_confidence(
    card: Mapping[str, Any],
    tested: Predictions | None,
    plan: Plan,
    pictures: RunPictures,
    entry: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what `Task.card` gave, with the errors of the surest answers, and scores as calibrated.

    Args:
        card: of `Task.card`.
        tested: what the run predicted with these weights; None where it never tested them.
        plan: of the file; an average of folds was not tested itself.
        pictures: of the run.
        entry: of the file's calibration; empty for none.
    """
    metrics, told = dict(card["metrics"]), dict(card["card"])
    alone = len(plan.files) == 1
    if alone and tested is not None and len(tested):
        told["confidence"] = selective_facts(pictures.task, tested)
    if alone and entry and metrics:
        own = entry["measured"]["calibrated"]
        metrics |= {name: own[name] for name in metrics if name in own and name != "aurc"}
        if entry["method"] != "temperature":  # the class that is named may have changed
            metrics = {name: value for name, value in metrics.items() if "_interval" not in name}
    return {**card, "metrics": metrics, "card": told}
