"""How good fine-grained predictions are: top-1 with its interval, top-5, per class, calibration.

Accuracies, recalls, F1 and their intervals are in percent; the calibration error lies in [0, 1] and the
log-likelihood in nats. What cannot be computed is None, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune.metrics import classification as metrics
from finetune.metrics.intervals import wilson_interval
from finetune.metrics.reliability import calibration_errors
from finetune.metrics.selective import risk_coverage
from finetune.runs.files import json_text

LEVEL = 0.95


def fine_scores(probs: np.ndarray, target: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Return every score of one set of images: a dictionary ready for JSON.

    Args:
        probs: float (N, K), rows sum to 1.
        target: int (N,), zero-based class indices.
        class_names: the K classes.

    Returns n, classes (K) and classes_tested (those with an image); top1 (the fraction of images whose most
    probable class is correct, percent), top1_interval {low, high, level, method}: Wilson's score interval,
    with images as independent draws; top5 (None where K <= 5); balanced_accuracy (mean of the per-class
    accuracies), macro_f1, nll (nats), ece (15 bins), adaptive_ece (bins of equal count), aurc (risk-coverage,
    top-1) and per_class (`class_rows`).
    """
    classes, count = len(class_names), len(target)
    right = int((metrics.predicted_classes(probs) == target).sum()) if count else 0
    low, high = wilson_interval(right, count)
    top5 = metrics.top_k_accuracy(probs, target, 5) if classes > 5 else float("nan")
    scores = {
        "n": count,
        "classes": classes,
        "classes_tested": len(np.unique(target)),
        "top1": 100 * metrics.accuracy(probs, target),
        "top1_interval": {"low": low, "high": high, "level": LEVEL, "method": "Wilson score, over images"},
        "top5": 100 * top5,
        "balanced_accuracy": 100 * metrics.balanced_accuracy(probs, target, classes),
        "macro_f1": 100 * metrics.macro_f1(probs, target, classes),
        "nll": metrics.negative_log_likelihood(probs, target),
        **calibration_errors(probs, target),
        "aurc": risk_coverage(probs.max(axis=1, initial=0.0), probs.argmax(axis=1) != target).area,
        "per_class": class_rows(probs, target, class_names),
    }
    result: dict[str, Any] = json.loads(json_text(scores))
    return result


def class_rows(probs: np.ndarray, target: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per class in order: name, n, right, accuracy (percent), taken_for and taken_for_n.

    `taken_for` is the class that most of its wrong images are given (the first of equal ones), and
    `taken_for_n` how many; None and 0 where none is wrong. The accuracy of a class without an image is None.
    """
    counts = metrics.confusion_matrix(probs, target, len(class_names))
    wrong = counts - np.diag(np.diag(counts))
    rows = []
    for index, name in enumerate(class_names):
        n, right, other = int(counts[index].sum()), int(counts[index, index]), int(wrong[index].argmax())
        taken = int(wrong[index, other])
        row = {"name": name, "n": n, "right": right, "accuracy": 100 * right / n if n else None}
        rows.append(row | {"taken_for": class_names[other] if taken else None, "taken_for_n": taken})
    return rows


def commonest_class_baseline(
    train_labels: np.ndarray, target: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    """Return the most frequent training class and its top1 (percent) if predicted for everything.

    The first of equally common classes; top1 is None without a test image.
    """
    index = int(np.bincount(train_labels, minlength=len(class_names)).argmax())
    return {
        "class": class_names[index],
        "top1": 100 * float((target == index).mean()) if len(target) else None,
    }
