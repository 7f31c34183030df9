"""Whether a training learned anything: what its rows and its final scores say, in sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.metrics.classification import negative_log_likelihood, predicted_classes
from finetune.metrics.intervals import NO_WIDTH

RISE = 0.01  # of the first training loss: less is noise
FAR_BELOW = -20.0  # nats: below the lowest value of the losses of p_c that have one (NLLR's is -16.1)
ACCURACIES = ("val_accuracy", "validation_error", "test_error", "train_accuracy")
NOTHING_USEFUL = "nothing useful was learned"
ONE_CLASS = "the test part holds one class only, so no accuracy says whether classes are told apart"
FORMERLY = "nothing was learned that counts"  # in runs and files of earlier versions
BLEND = "train_blend"  # of a margin that is annealed: it makes the loss grow


def learning_warnings(
    rows: Sequence[Mapping[str, Any]],
    *,
    classes: int,
    accuracy: float | None,
    majority: float | None,
    nll: float | None,
    tested_classes: int | None = None,
) -> list[str]:
    """Return what speaks against a training having learned, a sentence each; nothing where all is well.

    Args:
        rows: of metrics.jsonl, in order.
        classes: K.
        accuracy: of the test images, in percent; None where nothing was tested.
        majority: in percent, of always predicting the most frequent training class.
        nll: mean cross-entropy of the test images' probabilities (nats), whatever loss was trained.
        tested_classes: how many classes the test images have; None where that is not known.

    >>> learning_warnings([], classes=10, accuracy=9.7, majority=10.0, nll=2.29)
    ['accuracy 9.70 % is not above the majority-class baseline (10.00 %): nothing useful was learned']
    """
    found = []
    if accuracy is not None and tested_classes == 1:
        found.append(ONE_CLASS)
    elif accuracy is not None and majority is not None and accuracy <= majority:
        told = f"accuracy {accuracy:.2f} % is not above the majority-class baseline ({majority:.2f} %)"
        found.append(f"{told}: {NOTHING_USEFUL}")
    if nll is not None and nll > math.log(classes) + NO_WIDTH:
        own, equal = _told_apart(nll, math.log(classes))
        found.append(
            f"the probabilities of the test images are worse than equal ones: cross-entropy {own} nats, "
            f"where {classes} equal probabilities have {equal}"
        )
    unbounded = unbounded_loss(rows)
    return [*found, *_rising(rows), *([] if unbounded is None else [unbounded])]


def _told_apart(a: float, b: float) -> tuple[str, str]:
    """Return two numbers with three digits behind the point, or as many as show that they differ.

    >>> _told_apart(1.09871, 1.09861), _told_apart(2.5, 2.3)
    (('1.0987', '1.0986'), ('2.500', '2.300'))
    """
    texts = ((f"{a:.{digits}f}", f"{b:.{digits}f}") for digits in range(3, 12))
    return next((pair for pair in texts if pair[0] != pair[1]), (repr(a), repr(b)))


def beaten_by_guessing(warnings: Sequence[str]) -> list[str]:
    """Return those of a run's warnings that say that its model does not beat the majority class."""
    return [line for line in warnings if NOTHING_USEFUL in line or FORMERLY in line]


def prediction_warnings(
    rows: Sequence[Mapping[str, Any]],
    probs: np.ndarray,
    target: np.ndarray,
    train_labels: np.ndarray,
    *,
    guessing: Sequence[str] | None = None,
) -> list[str]:
    """Return `learning_warnings` of a training's rows and predictions.

    Args:
        rows: of metrics.jsonl, in order.
        probs: float (N, K) of the test images.
        target: int (N,), zero-based.
        train_labels: int (M,), those that were trained on.
        guessing: what is to be said beside a constant answer, where accuracy is not the measure of it.
    """
    tested, classes = len(target) > 0, probs.shape[1]
    judged = tested and guessing is None
    return [
        *(guessing or ()),
        *learning_warnings(
            rows,
            classes=classes,
            accuracy=100 * float((predicted_classes(probs) == target).mean()) if judged else None,
            majority=majority_accuracy(train_labels, target, classes) if tested else None,
            nll=negative_log_likelihood(probs, target) if tested else None,
            tested_classes=len(np.unique(target)),
        ),
    ]


def majority_accuracy(train_labels: np.ndarray, target: np.ndarray, classes: int) -> float:
    """Return the accuracy, in percent, of always predicting the most frequent training class.

    >>> majority_accuracy(np.array([0, 1, 1]), np.array([1, 0, 0, 0]), 2)
    25.0
    """
    commonest = np.bincount(train_labels, minlength=classes).argmax()
    return 100 * float(np.mean(target == commonest))


def _rising(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence where the training loss of the last stage ended above where it began."""
    last = [row for row in rows if row.get("stage") == rows[-1].get("stage")]
    losses = [float(row["train_loss"]) for row in last if row.get("train_loss") is not None]
    if len(losses) < 2 or not all(map(math.isfinite, losses)) or any(BLEND in row for row in last):
        return []
    if losses[-1] <= losses[0] + RISE * abs(losses[0]):
        return []
    return [
        f"the training loss rose, from {losses[0]:.4g} in its first epoch to {losses[-1]:.4g} in its last"
    ]


def unbounded_loss(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what to say of a training whose loss fell without bound while its accuracy fell; else None.

    It is one whose last loss is the lowest of all, far below 0 and at least twice as far as where the
    accuracy was best, and whose accuracy then fell by more than a point: a loss with a floor slows down.

    Args:
        rows: of metrics.jsonl, or of a cell's history, an epoch each. The accuracy is that of the validation
            images (`val_accuracy`), else of the test images (`test_error`), else of the training images.

    >>> unbounded_loss([{"epoch": 1, "train_loss": -3.0, "train_accuracy": 0.5},
    ...                 {"epoch": 2, "train_loss": -900.0, "train_accuracy": 0.3}])[:63]
    'the training loss fell without bound, from -3 in epoch 1 to -90'
    """
    rows = [row for row in rows if row.get("train_loss") is not None]
    found = next((told for key in ACCURACIES if len(told := _percents(rows, key)) > 1), None)
    if found is None or not math.isfinite(rows[-1]["train_loss"]):
        return None
    best, last = max(found, key=lambda position: found[position]), max(found)
    losses = [float(row["train_loss"]) for row in rows]
    if losses[-1] > FAR_BELOW or losses[-1] > min(losses) or losses[-1] > 2 * min(losses[best], 0.0):
        return None
    if found[best] - found[last] <= 1:
        return None
    return (
        f"the training loss fell without bound, from {losses[best]:.6g} in epoch {best + 1} to "
        f"{losses[-1]:.6g}, while the accuracy fell from {found[best]:.1f} to {found[last]:.1f} %: a loss "
        "without a lowest value went on growing logits and nothing else. Take a loss that has one (nllr, the "
        "published form, instead of nllr:clamp=0), or a lower learning rate"
    )


def _percents(rows: Sequence[Mapping[str, Any]], key: str) -> dict[int, float]:
    """Return the accuracies in per cent by the row's position, where there are any."""
    told = {position: float(row[key]) for position, row in enumerate(rows) if row.get(key) is not None}
    return {position: 100 - value if "error" in key else 100 * value for position, value in told.items()}
