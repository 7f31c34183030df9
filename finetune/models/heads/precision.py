"""Float32 inside a head whatever autocast says, for sums and logarithms that half precision would spoil."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """Return x in float32, or as it is when it is float32 or float64 already.

    >>> wide(torch.zeros(2, dtype=torch.bfloat16)).dtype, wide(torch.zeros(2, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which autocast leaves the operations on x's device alone; see also `wide`.

    Devices that know no autocast (meta, on which shapes are computed without numbers) need none.
    """
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
