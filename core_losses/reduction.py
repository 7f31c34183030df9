"""From per-class loss values to one number: targets, class weights, smoothing, `ignore_index`, mean and sum.

Every loss of the package passes through `class_loss`, so these rules live here and nowhere else. They are
those of `torch.nn.CrossEntropyLoss`, with -log p_k replaced by the loss l_k that class k would have as the
target.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypedDict

import torch
from torch import Tensor, nn

from core_losses.chosen import take
from core_losses.closed_forms import exact_title
from core_losses.layout import class_dim, computing_dtype
from core_losses.lines import Line

Reduction = Literal["none", "mean", "sum"]
REDUCTIONS: tuple[Reduction, ...] = ("none", "mean", "sum")


class SharedOptions(TypedDict, total=False):
    """The keywords every loss shares with `torch.nn.CrossEntropyLoss`, with the same meaning and defaults.

    `ignore_index` (-100): a target value that costs nothing, has no gradient and is not counted by the mean;
    class indices only. `reduction` ("mean"): "none" gives one value per example, "sum" their sum, "mean" the
    sum divided by the summed weights of the targets (class indices) or by the number of examples (soft
    targets).
    `label_smoothing` (0.0): in [0, 1], the fraction of each target spread evenly over all K classes.
    """

    ignore_index: int
    reduction: Reduction
    label_smoothing: float


class LossOptions(SharedOptions, total=False):
    """`SharedOptions`, and `weight` (None): one factor >= 0 per class, shape (K,)."""

    weight: Tensor | None


SHARED_KEYWORDS = ("weight", *SharedOptions.__annotations__)


def check_non_negative(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number >= 0."""
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite number >= 0, but arrived as {value}")


class LossModule(nn.Module):
    """Base of the loss modules: keeps the shared options, with the class weights as a buffer.

    Attributes:
        title: what tables and figures call the loss.
        symbols: what titles call its own options; by default their names.
        quiet: own options that titles tell only where they are not the default.
        line: the function of the log-odds that it is, taking its own options as keywords; None for a loss
            that reads more than the target's posterior.
        ordered: whether it reads the order of the classes, so that others have no use for it.

    Args:
        weight: one factor >= 0 per class, (K,), or None; it moves with `.to(device)`.
        ignore_index, reduction, label_smoothing: see `LossOptions`.

    Raises:
        ValueError: for an unknown reduction or a label smoothing outside [0, 1].
    """

    title: ClassVar[str]
    symbols: ClassVar[Mapping[str, str]] = MappingProxyType({})
    quiet: ClassVar[tuple[str, ...]] = ()
    line: ClassVar[Callable[..., Line] | None] = None
    ordered: ClassVar[bool] = False

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        _check_options(reduction, label_smoothing)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction: Reduction = reduction
        self.label_smoothing = label_smoothing

    @classmethod
    def own_options(cls) -> dict[str, Any]:
        """Return the loss's own options with their defaults, without those that all losses share."""
        parameters = inspect.signature(cls).parameters
        shared = (*SHARED_KEYWORDS, "options")
        return {name: item.default for name, item in parameters.items() if name not in shared}

    @classmethod
    def title_with(cls, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return what tables call the loss with these of its own options, and the options told beside it."""
        defaults = cls.own_options()
        title, told = exact_title(cls.title, options)
        quiet = [name for name in cls.quiet if name in told and told[name] == defaults[name]]
        return title, {name: value for name, value in told.items() if name not in quiet}

    def options(self) -> LossOptions:
        """Return the shared keywords, ready to pass to the module's function."""
        return {
            "weight": self.weight,
            "ignore_index": self.ignore_index,
            "reduction": self.reduction,
            "label_smoothing": self.label_smoothing,
        }


def class_loss(
    logits: Tensor,
    target: Tensor,
    of_target: Callable[[Tensor, Tensor, Tensor, bool], Tensor],
    of_every_class: Callable[[Tensor], Tensor],
    *,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the reduced loss of a batch, given how one class's loss is computed.

    L = sum_k w_k t_k l_k, where t is the one-hot, smoothed or soft target.

    Args:
        logits: (B, K), (B, K, d1, ...) or (K,), K >= 2; half types are computed in float32.
        target: int64 class indices, shaped as the logits without the classes, in [0, K) or `ignore_index`;
            or soft targets, floating point and shaped as the logits.
        of_target: (logits, index, factors, total) -> factors * l at `index`, or its sum if `total`. index,
            factors and the unsummed value have size 1 along the classes; 0 where a factor is 0.
        of_every_class: logits -> l for each class as the target, shaped as the logits; only for smoothed and
            soft targets.
        weight, ignore_index, reduction, label_smoothing: see `LossOptions`.

    Returns:
        A scalar, or for reduction "none" one value per example; float32 or float64. A mean over ignored
        examples alone is NaN, as torch's is.

    Raises:
        TypeError: when logits are not floating point or class indices not int64.
        ValueError: when shapes or options do not fit, or (on the CPU) an index is out of range.
    """
    _check_options(reduction, label_smoothing)
    _check_shapes(logits, target, weight)
    logits = computing_dtype(logits)
    weight = None if weight is None else weight.to(logits.dtype)
    if target.is_floating_point():
        losses = _soft_losses(of_every_class(logits), target, weight, label_smoothing)
        if reduction == "none":
            return losses
        return losses.mean() if reduction == "mean" else losses.sum()
    dim = class_dim(logits)
    index = target.unsqueeze(dim)
    valid = index != ignore_index
    index = index * valid
    try:
        counts = valid if weight is None else weight[index] * valid
        if label_smoothing == 0:
            shares = _shares(counts, counts, reduction, logits.dtype)
            losses = of_target(logits, index, shares, reduction != "none")
        else:
            losses = _smoothed_losses(of_every_class(logits), index, weight, label_smoothing)
            losses = (losses * _shares(valid, counts, reduction, logits.dtype)).masked_fill(~valid, 0.0)
            losses = losses if reduction == "none" else losses.sum()
    except (RuntimeError, IndexError) as error:  # torch checks indices anyway; only its wording needs help
        _refuse_out_of_range(index, logits.shape[dim], ignore_index, error)
        raise
    return losses.squeeze(dim) if reduction == "none" else losses


def _shares(values: Tensor, counts: Tensor, reduction: Reduction, dtype: torch.dtype) -> Tensor:
    """Return `values` as floats, for a mean divided by the sum of `counts`: the mean becomes a sum."""
    return values / counts.sum(dtype=dtype) if reduction == "mean" else values.to(dtype)


def _soft_losses(losses: Tensor, target: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    dim = class_dim(losses)
    target = target.to(losses.dtype)
    if smoothing > 0:
        target = target * (1 - smoothing) + smoothing / losses.shape[dim]
    return _weighted(losses * target, weight).sum(dim)


def _smoothed_losses(losses: Tensor, index: Tensor, weight: Tensor | None, smoothing: float) -> Tensor:
    dim = class_dim(losses)
    losses = _weighted(losses, weight)
    return (1 - smoothing) * take(losses, dim, index) + smoothing * losses.mean(dim, keepdim=True)


def _weighted(losses: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return losses
    return losses * weight.view(-1, *[1] * (losses.ndim - 1 - class_dim(losses)))


def _check_options(reduction: str, label_smoothing: float) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, but arrived as {reduction!r}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must lie in [0, 1], but arrived as {label_smoothing}")


def _check_shapes(logits: Tensor, target: Tensor, weight: Tensor | None) -> None:
    if logits.ndim == 0 or logits.shape[class_dim(logits)] < 2:
        raise ValueError(
            "logits must hold at least 2 classes, as (B, K), (B, K, d1, ...) or (K,), but arrived as "
            f"{tuple(logits.shape)}; for a yes/no question give each answer a logit of its own"
        )
    dim = class_dim(logits)
    expected = logits.shape[:dim] + logits.shape[dim + 1 :]
    if target.is_floating_point():
        if target.shape != logits.shape:
            raise ValueError(
                f"soft targets (floating point) must be shaped as the logits, {tuple(logits.shape)}, but "
                f"arrived as {tuple(target.shape)}; class indices must be int64: use target.long()"
            )
    elif target.dtype != torch.int64:
        raise TypeError(f"class indices must be int64, but arrived as {target.dtype}; use target.long()")
    elif target.shape != expected:
        raise ValueError(
            f"class indices for logits {tuple(logits.shape)} must be shaped {tuple(expected)}, but arrived "
            f"as {tuple(target.shape)}; one-hot or soft targets must be floating point: use target.float()"
        )
    if weight is not None and weight.shape != (logits.shape[dim],):
        raise ValueError(
            f"weight must hold one factor per class, shape ({logits.shape[dim]},), but arrived as "
            f"{tuple(weight.shape)}"
        )


def _refuse_out_of_range(index: Tensor, classes: int, ignore_index: int, cause: Exception) -> None:
    if index.device.type != "cpu":
        return  # reading values back would stall the device; its own assertion names the index
    outside = index[(index < 0) | (index >= classes)]
    if outside.numel() > 0:
        raise ValueError(
            f"class indices must lie in [0, {classes}) or be ignore_index ({ignore_index}), but "
            f"{outside.numel()} did not, the first being {int(outside[0])}; labels that count from 1 need "
            "target - 1"
        ) from cause
