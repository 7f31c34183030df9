"""What a file says of its calibration, checked when it is read, and the sets that follow. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from finetune.errors import ModelFileError
from finetune.metrics.calibration import HIGHEST, LOWEST, Scaling
from finetune.metrics.conformal import SCORES, prediction_sets

TEMPERATURE, VECTOR = "temperature", "vector"
METHODS = (TEMPERATURE, VECTOR)
Facts = Mapping[str, Any]


def check_calibration(entry: Facts, classes: int) -> None:
    """Raise ModelFileError unless a file's calibration is empty or whole: its method, numbers and sets.

    Args:
        entry: the facts' `calibration`, a JSON object.
        classes: K.
    """
    if not entry:
        return
    method, t = entry.get("method"), entry.get("T")
    _need(method in METHODS, f"method {str(method)[:40]!r}, not {' or '.join(METHODS)}")
    if method == TEMPERATURE:
        _need(
            _is_number(t) and LOWEST <= float(t or 0) <= HIGHEST,
            f"T {str(t)[:40]!r}, not a number of 0.05 to 20",
        )
    else:
        for name in ("scale", "shift"):
            _need(_is_numbers(entry.get(name), classes), f"no {name} of {classes} numbers")
    for name in ("from", "note"):
        _need(isinstance(entry.get(name), str), f"no text under {name}")
    for name in ("n", "persons"):
        _need(type(entry.get(name)) is int and entry[name] > 0, f"no count under {name}")
    _check_sets(entry.get("sets"), entry.get("per_group"), classes)


def _check_sets(sets: Any, groups: Any, classes: int) -> None:
    _need(isinstance(sets, dict | None), "sets that are no object")
    if sets is None:
        return
    _need(sets.get("score") in SCORES, f"sets by {str(sets.get('score'))[:40]!r}, not {', '.join(SCORES)}")
    level = sets.get("level")
    _need(_is_number(level) and 0 < level < 1, f"a level {str(level)[:40]!r}, not in (0, 1)")
    _need("q" in sets and (sets["q"] is None or _is_number(sets["q"])), "sets without a quantile")
    if groups is not None:
        known = isinstance(groups, dict) and isinstance(groups.get("q"), list)
        whole = known and len(groups["q"]) == classes
        _need(whole and all(q is None or _is_number(q) for q in groups["q"]), "no quantile per class")


def _need(fits: bool, what: str) -> None:
    if not fits:
        raise ModelFileError(f"its calibration has {what}: calibrate the run again, and export it again")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_numbers(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(map(_is_number, value))


def scaling_of(entry: Facts, classes: int) -> Scaling | None:
    """Return what makes calibrated probabilities, by a checked entry; None where there is none.

    A temperature T is the scale 1 / T without a shift.
    """
    if not entry:
        return None
    if entry["method"] == TEMPERATURE:
        t = float(entry["T"])
        return Scaling(np.full(classes, 1 / t), np.zeros(classes), temperature=t)
    return Scaling(np.asarray(entry["scale"], dtype=np.float64), np.asarray(entry["shift"], dtype=np.float64))


def may_reorder(entry: Facts) -> bool:
    """Return whether calibrated probabilities may name another class than the logits."""
    return bool(entry) and entry["method"] == VECTOR


def as_stated(entry: Facts, probs: np.ndarray) -> np.ndarray:
    """Return the probabilities that a model stated before its temperature, float64 (N, K).

    Probabilities without a temperature come back as they are.
    """
    if not entry or entry["method"] != TEMPERATURE:
        return probs
    t = float(entry["T"])
    return Scaling(np.full(probs.shape[1], t), np.zeros(probs.shape[1])).apply(probs)


def answer_sets(
    entry: Facts, probs: np.ndarray, *, ordered: bool, per_group: bool = False
) -> np.ndarray | None:
    """Return which classes are in the set of each image, bool (N, K); None for a file without sets.

    They hold the true class at the entry's `sets.level` for a picture of a new person, drawn at random (with
    `per_group` within every true class), if these pictures are like those that calibrated. Whole sets mean
    that the model cannot narrow it down.

    Args:
        entry: the facts' calibration.
        probs: calibrated, (N, K), in the file's own order of classes.
        ordered: whether the classes have an order.
        per_group: by the quantile of each class, where the file has them.
    """
    sets = entry.get("sets")
    groups = entry.get("per_group")
    if not sets or (per_group and not groups):
        return None
    quantiles = groups["q"] if per_group and groups else [sets["q"]]
    limits = np.array([np.inf if q is None else q for q in quantiles])
    return prediction_sets(SCORES[sets["score"]](probs), limits, probs, ordered=ordered)
