"""Scores by the further columns of a table, such as camera or ethnicity, and by every two of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from agecls.scores import cell_scores
from finetune.experiments.records.predictions import Predictions
from finetune.images.checks import subjects_known
from finetune.images.people import SLICE, slice_names

FEWEST_IMAGES = 200  # of a cell where people are not known: images stand for people, and repeat them
NOT_RECORDED = "not recorded"


def slice_labels(predictions: Predictions) -> dict[str, np.ndarray]:
    """Return what each image has in every slice column, and in every two of them, (N,) texts by name."""
    own = {
        name.removeprefix(SLICE): np.where(predictions[name] == "", NOT_RECORDED, predictions[name])
        for name in slice_names(predictions.columns)
    }
    names = list(own)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    return own | {
        f"{a} x {b}": np.char.add(np.char.add(own[a].astype(str), ", "), own[b].astype(str)) for a, b in pairs
    }


def column_slices(
    predictions: Predictions, *, resamples: int = 2000, seed: int = 0
) -> dict[str, list[dict[str, Any]]]:
    """Return a row per cell of each slice column and pair, as `agecls.scores.slice_scores` does.

    A row also has `mae` and `bias`, the mean absolute and signed error in groups. Cells of fewer than 30
    subjects, or 200 images where subjects are not known, have counts alone.
    """
    known = subjects_known(predictions)
    found: dict[str, list[dict[str, Any]]] = {}
    for name, labels in slice_labels(predictions).items():
        rows = []
        for value in np.unique(labels).tolist():
            cell = predictions.select(labels == value)
            row = cell_scores(str(value), cell, known=known, resamples=resamples, seed=seed)
            if not known and len(cell) < FEWEST_IMAGES:
                row |= {key: None for key in ("exact", "one_off", "exact_interval", "one_off_interval")}
            steps = cell.preds - cell.target
            shown = row["exact"] is not None
            row |= {"mae": float(np.abs(steps).mean()) if shown else None}
            row |= {"bias": float(steps.mean()) if shown else None}
            rows.append(row)
        found[name] = rows
    return found
