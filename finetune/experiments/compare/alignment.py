"""The predictions of two results in one order of images, or why they are not of the same images."""

from __future__ import annotations

import numpy as np

from finetune.errors import DataError, listing
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result


def aligned(frame: Predictions, owner: Result, result: Result) -> Predictions:
    """Return a result's predictions in the frame's order; DataError unless they are of the same images."""
    rows = result.predictions.in_order()
    if len(rows) != len(frame) or (rows.path != frame.path).any() or (rows.fold != frame.fold).any():
        called = [set(_called(side)) for side in (frame, rows)]
        lines = [f"{name} only in {owner.folder}" for name in sorted(called[0] - called[1])]
        lines += [f"{name} only in {result.folder}" for name in sorted(called[1] - called[0])]
        raise DataError(f"not the same test images: {len(frame)} and {len(rows)} rows\n{listing(lines)}")
    names = np.array(frame.class_names)
    columns = {"the true class": (names[frame.target], names[rows.target])}
    resampled = {name for name in ("subject", "user") if name in frame}
    columns |= {name: (frame[name], rows[name]) for name in sorted(resampled)}
    for name, (left, right) in columns.items():
        bad = np.flatnonzero(left != right)
        if len(bad):
            lines = [f"{frame.path[row]}: {left[row]} and {right[row]}" for row in bad]
            raise DataError(f"{owner.folder} and {result.folder} differ in {name}:\n{listing(lines)}")
    return rows


def _called(found: Predictions) -> list[str]:
    if "fold" not in found:
        return [str(path) for path in found.path]
    return [f"{path} (fold {fold})" for path, fold in zip(found.path, found.fold, strict=True)]
