"""What an epoch adds up for every model: loss, hits, and each image's gradient magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from core_losses import log_odds

SUMS = ("loss", "right", "images", "factor", "factors", "push", "q")


def epoch_row(epoch: int, sums: Mapping[str, float], error: float | None) -> dict[str, Any]:
    """Return one epoch's row of a cell's history from the sums over its images."""
    images = max(sums["images"], 1.0)
    row = {
        "epoch": epoch,
        "train_loss": sums["loss"] / images,
        "train_accuracy": sums["right"] / images,
        "gradient_factor": sums["factor"] / sums["factors"] if sums["factors"] else None,
        "gradient_ratio": sums["push"] / sums["q"] if sums["q"] else None,
    }
    return row if error is None else {**row, "test_error": error}


def step_sums(losses: Tensor, logits: Tensor, grads: Tensor, target: Tensor, preds: Tensor) -> Tensor:
    """Return what a step adds to `SUMS`, (M, 7).

    push = -dL/dz_c of an image's own loss, q = 1 - p_c, cross-entropy's; their ratio is by how
    much the image's gradient magnitude exceeds cross-entropy's. Images of q = 0, beyond the number format,
    have none.
    """
    count = target.shape[1]
    index = target[..., None]
    push = -grads.gather(-1, index)[..., 0] * count
    q = torch.sigmoid(-log_odds(logits.flatten(0, 1), target.flatten())).view(target.shape)
    told = q > 0
    factor = torch.where(told, push / torch.where(told, q, 1), 0)
    right = (preds == target).sum(1)
    ones = torch.full_like(losses, count)
    columns = (losses * count, right, ones, factor.sum(1), told.sum(1), push.sum(1), q.sum(1))
    return torch.stack([column.to(torch.float64) for column in columns], dim=1)
