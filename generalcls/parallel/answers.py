"""A cell's test predictions: their scores, and the file that keeps them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from finetune.metrics.classification import macro_f1, top_k_accuracy
from finetune.runs.files import atomic_file

PREDICTIONS = "predictions.npz"
TOP = 5


def test_scores(logits: np.ndarray, target: np.ndarray) -> dict[str, float | None]:
    """Return accuracy, macro-F1 and, above five classes, top-5 accuracy in per cent.

    A prediction that is not a number, as a model that diverged gives it, is wrong, whatever the target.

    Args:
        logits: (N, K).
        target: int64 (N,).
    """
    lost = ~np.isfinite(logits).all(axis=1)
    if lost.any():
        logits = np.where(lost[:, None], 0.0, logits)
        logits[lost, target[lost]] = -1.0
    preds, classes = logits.argmax(axis=1), logits.shape[1]
    return {
        "accuracy": 100 * float(np.mean(preds == target)),
        "macro_f1": 100 * macro_f1(logits, target, classes),
        "top5": 100 * top_k_accuracy(logits, target, TOP) if classes > TOP else None,
    }


def write_predictions(file: Path, logits: np.ndarray, target: np.ndarray) -> None:
    """Write a cell's `target`, `preds` int64 (N,) and `log_odds` float32 (N,) of the true class."""
    from core_losses import log_odds

    truth = torch.from_numpy(np.ascontiguousarray(target))
    odds = log_odds(torch.from_numpy(logits), truth).numpy()
    with atomic_file(file) as stream:
        np.savez_compressed(stream, target=target, preds=logits.argmax(axis=1), log_odds=odds)
