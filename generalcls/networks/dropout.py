"""Dropout whose masks are given from outside, so that models side by side can share them seed by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import UsageError
from finetune.seeding import numpy_generator

Drops = tuple[float, tuple[int, ...]]  # p, and the shape of the input without the batch

LEVELS = 2**16  # a mask's random numbers are of 16 bits: exact enough, and quick to draw


class Dropout(nn.Module):
    """Drop entries with probability p while training: y = x keep / (1 - p).

    `keep` is a buffer (not saved) that the study's engine replaces at every step with a mask, bool, of the
    input's shape; while it is empty, torch's own generator draws one. `shape` is the last input's shape
    without the batch.

    Args:
        p: probability of dropping an entry, in [0, 1).

    >>> dropout = Dropout(0.5)
    >>> dropout.keep = torch.tensor([[True, False]])
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
        return x * self.keep.to(x.dtype) / (1 - self.p)  # a product with bool is slower backwards

    def extra_repr(self) -> str:
        """Return the probability for `repr`."""
        return f"p={self.p}"


def draw_masks(
    dropouts: Mapping[str, Drops], seeds: Sequence[int], counters: Sequence[int], batch_size: int
) -> dict[str, Tensor]:
    """Return {name: mask, bool (S, B, *shape)}: every seed's own, a function of it and the counters.

    numpy draws them, more than twice as fast on a CPU as torch. On a GPU `philox.device_masks` draws others.

    Args:
        dropouts: {name: (p, shape of the input without the batch)}; p is rounded to 16 bits.
        seeds: S of them.
        counters: of the step, (epoch, step).
        batch_size: B.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in dropouts}
    for seed in seeds if dropouts else ():
        numbers = numpy_generator(seed, "dropout", *counters)
        for name, (p, shape) in dropouts.items():
            # Maps lie in memory pixel by pixel, as the images do.
            apart = len(shape) == 3
            laid = (batch_size, *shape[1:], shape[0]) if apart else (batch_size, *shape)
            drawn = np.frombuffer(numbers.bytes(2 * math.prod(laid)), dtype="<u2")
            mask = torch.from_numpy(drawn >= round(p * LEVELS)).view(laid)
            found[name].append(mask.movedim(-1, 1) if apart else mask)
    return {name: torch.stack(masks) if len(masks) > 1 else masks[0][None] for name, masks in found.items()}
