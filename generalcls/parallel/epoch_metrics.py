"""What an epoch adds up for every model: loss, hits, and each image's gradient magnitude."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from generalcls.parallel.objectives import Learned

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


def step_sums(learned: Learned) -> Tensor:
    """Return what a step adds to `SUMS`, float64 (M, 7).

    push = -dL/dz_c of an image's own loss, q = 1 - p_c, cross-entropy's; their ratio is by how
    much the image's gradient magnitude exceeds cross-entropy's. Images of q = 0, beyond the number format,
    have none.
    """
    losses, push, count = learned.losses, learned.push, learned.push.shape[1]
    q = torch.sigmoid(-learned.odds)
    told = q > 0
    factor = torch.where(told, push / torch.where(told, q, 1), 0)
    real = torch.stack([factor, push, q]).sum(-1).to(torch.float64)
    counts = torch.stack([learned.right, told]).sum(-1).to(torch.float64)
    lost = (losses * count).to(torch.float64)
    columns = (lost, counts[0], torch.full_like(lost, count), real[0], counts[1], real[1], real[2])
    return torch.stack(columns, dim=1)
