"""Dropout whose masks are given from outside, so that models side by side can share them seed by seed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import UsageError


class Dropout(nn.Module):
    """Drop entries with probability p while training: y = x keep / (1 - p).

    `keep` is a buffer (not saved) that the study's engine replaces at every step with a mask of 0 and 1 of
    the input's shape; while it is empty, torch's own generator draws one. `shape` is the last input's shape
    without the batch.

    Args:
        p: probability of dropping an entry, in [0, 1).

    >>> dropout = Dropout(0.5)
    >>> dropout.keep = torch.tensor([[1.0, 0.0]])
    >>> dropout(torch.ones(1, 2))
    tensor([[2., 0.]])
    """

    keep: Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise UsageError(f"a dropout probability must lie in [0, 1), got {p}")
        self.p = p
        self.shape: tuple[int, ...] = ()
        self.register_buffer("keep", torch.empty(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the thinned input; in evaluation the input itself."""
        self.shape = tuple(x.shape[1:])
        if not self.training or self.p == 0:
            return x
        if self.keep.numel() == 0:
            return F.dropout(x, self.p)
        return x * (self.keep / (1 - self.p))

    def extra_repr(self) -> str:
        """Return the probability for `repr`."""
        return f"p={self.p}"
