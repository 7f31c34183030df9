"""One class of each example among all: read, replaced or added to, by whichever way the device does well.

A processor goes to the place. On CUDA a scatter is not repeatable, or in torch's deterministic mode a sorted
`index_put` of some ten launches: there a mask over the classes does the same in two, and any order of its
threads gives the same bits. Values are equal either way.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


def by_mask(values: Tensor) -> bool:
    """Return whether the classes of `values` are chosen by a mask."""
    return values.device.type == "cuda"


class Chosen:
    """The class at `index` of each example.

    Args:
        like: a tensor with the classes along `dim`, such as the logits.
        dim: where the classes lie.
        index: int64 in [0, K), shaped as `like` but of size 1 along the classes.
    """

    def __init__(self, like: Tensor, dim: int, index: Tensor) -> None:
        self.dim, self.index = dim, index
        self.mask = _mask(like.shape[dim], dim, index) if by_mask(like) else None

    def put(self, values: Tensor, new: Tensor | float) -> Tensor:
        """Return `values` with `new` in the chosen places."""
        if self.mask is not None:
            return torch.where(self.mask, new, values)
        return values.scatter(self.dim, self.index, cast(Any, new))

    def put_(self, values: Tensor, new: Tensor | float) -> Tensor:
        """Write `new` into the chosen places of `values` and return it."""
        if self.mask is None:
            return values.scatter_(self.dim, self.index, cast(Any, new))
        if isinstance(new, Tensor):
            return torch.where(self.mask, new, values, out=values)
        return values.masked_fill_(self.mask, new)

    def add_(self, values: Tensor, new: Tensor) -> Tensor:
        """Add `new` to the chosen places of `values` and return it."""
        if self.mask is None:
            return values.scatter_add_(self.dim, self.index, new)
        return values.addcmul_(self.mask.to(values.dtype), new)


def take(values: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return the values at `index`, shaped as it; differentiable to any order.

    It reads like `gather`, whose gradient on CUDA would be a scatter.
    """
    if by_mask(values):
        return cast(Tensor, cast(Any, _Taken).apply(values, dim, index))
    return values.gather(dim, index)


class _Taken(torch.autograd.Function):
    """`gather` with a gradient by a mask."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, dim: int, index: Tensor) -> Tensor:
        return values.gather(dim, index)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        values, dim, index = inputs
        context = cast(Any, ctx)
        context.save_for_backward(index)
        context.dim, context.classes = dim, values.shape[dim]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        (grad,) = grads
        return torch.where(_mask(ctx.classes, ctx.dim, index), grad, 0.0), None, None


def _mask(classes: int, dim: int, index: Tensor) -> Tensor:
    """Return where the class is the chosen one, bool, with `classes` along `dim`."""
    after = index.ndim - 1 - dim % index.ndim
    return torch.arange(classes, device=index.device).view(-1, *[1] * after) == index
