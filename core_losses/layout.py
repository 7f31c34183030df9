"""Where the classes lie in a tensor of logits, and which type the losses compute in."""

from __future__ import annotations

import torch
from torch import Tensor


def class_dim(logits: Tensor) -> int:
    """Return the dimension that holds the classes: 0 for logits (K,), otherwise 1.

    >>> class_dim(torch.zeros(5)), class_dim(torch.zeros(2, 5, 7))
    (0, 1)
    """
    return 0 if logits.ndim == 1 else 1


def computing_dtype(logits: Tensor) -> Tensor:
    """Return `logits` in the type the losses compute in: half types become float32, float64 stays.

    Raises TypeError when the logits are not floating point.

    >>> computing_dtype(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    if not logits.is_floating_point():
        raise TypeError(
            f"logits must be floating point, but arrived as {logits.dtype}; pass the classifier's "
            "raw scores, before any softmax or argmax"
        )
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
