"""What the package's `torch.autograd.Function`s share: their rule for `vmap`, and a quick way in."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor


class VmapBatch:
    """Tensors under `torch.func.vmap`, its dimension merged into the batch of examples.

    Mapped logits (K,) become a batch (N, K), and mapped (B, K, ...) become (N B, K, ...), so that a function
    of a batch of examples needs no second version for `vmap`.

    Args:
        size: `vmap`'s own batch size N.
        in_dims: where that dimension lies in each tensor, None where it does not.
        tensors: the logits first, then tensors with as many dimensions, or None.
    """

    def __init__(self, size: int, in_dims: tuple[int | None, ...], *tensors: Tensor | None) -> None:
        mapped = [
            tensor if tensor is None else self._mapped_first(tensor, at, size)
            for tensor, at in zip(tensors, in_dims, strict=False)
        ]
        logits = cast(Tensor, mapped[0])
        self._sizes = logits.shape[:2] if logits.ndim > 2 else None
        self.merged = [x if x is None or self._sizes is None else x.flatten(0, 1) for x in mapped]

    def split(self, outputs: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        """Return outputs of the merged batch with `vmap`'s dimension first, apart from the examples'."""
        if self._sizes is None:
            return list(outputs)
        return [x if x is None else x.view(*self._sizes, *x.shape[1:]) for x in outputs]

    def outputs(self, *tensors: Tensor | None) -> tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]:
        """Return what a `vmap` rule returns: the tensors, and where in each the mapped dimension lies."""
        return tensors, tuple(None if tensor is None else 0 for tensor in tensors)

    @staticmethod
    def _mapped_first(tensor: Tensor, at: int | None, size: int) -> Tensor:
        return tensor.expand(size, *tensor.shape) if at is None else tensor.movedim(at, 0)


def accept_any_arguments(function: type[torch.autograd.Function]) -> None:
    """Give a Function's `forward` the signature `(*inputs)`.

    `Function.apply` binds its arguments to that signature on every call, which for a long one takes as long
    as several small tensor operations; the call itself still checks them.
    """

    def forward(*_: Any) -> None: ...

    cast(Any, function.forward).__signature__ = inspect.signature(forward)
