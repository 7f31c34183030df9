"""Predictions of the age task, built from its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from agecls.measures import AGE_RESULT
from finetune.experiments.records.predictions import Predictions


def age_predictions(
    class_names: Sequence[str],
    *,
    path: np.ndarray,
    target: np.ndarray,
    probs: np.ndarray,
    **columns: np.ndarray,
) -> Predictions:
    """Return predictions with the age task's columns, which must all be given."""
    return Predictions(
        tuple(class_names), path, target, probs, {name: columns[name] for name in AGE_RESULT.columns}
    )


def with_columns(found: Predictions, **columns: np.ndarray) -> Predictions:
    """Return predictions with other values in some of their own columns."""
    return replace(found, columns={**found.columns, **columns})
