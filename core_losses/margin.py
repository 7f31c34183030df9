"""Margin logits: how a classifier makes the target's logit harder to reach while it trains.

With an embedding x, class weights W_j and theta_j the angle between them, a plain logit is |W_j| |x| cos
theta_j. A margin rule puts psi(theta_c) <= cos(theta_c) in the place of the target's cosine. Nothing else
changes, and predictions are made from the plain logits.
"""

from __future__ import annotations

import math
from typing import overload

import torch
from torch import Tensor

from core_losses.chosen import Chosen, take
from core_losses.margin_rules import (
    MARGIN_RULES,
    ArcFaceRule,
    ASoftmaxRule,
    CosFaceRule,
    LSoftmaxRule,
    MarginRule,
    build_margin_rule,
    multiplied_angle,
)

__all__ = [
    "MARGIN_RULES",
    "ASoftmaxRule",
    "ArcFaceRule",
    "CosFaceRule",
    "LSoftmaxRule",
    "MarginRule",
    "annealed_blend",
    "build_margin_rule",
    "margin_logits",
    "multiplied_angle",
]


def margin_logits(
    rule: MarginRule,
    embedding: Tensor,
    weight: Tensor,
    target: Tensor | None = None,
    *,
    blend: float | Tensor = 0.0,
) -> Tensor:
    """Return the logits of a margin classifier: with targets those to train on, without them the plain ones.

    z_j = r_j cos(theta_j), z_c = r_c (lambda cos(theta_c) + psi(theta_c)) / (1 + lambda)

    r_j is |W_j| |x|, less what the rule brings to a fixed length: |x| with unit weights, s with a scale.
    Where x or W_j is zero the cosine is 0. All derivatives are finite there and at cos(theta) = +-1: psi
    reads the cosine by polynomials, and the sine as the length of the part of x / |x| that is at right angles
    to W_c, which is exact for small angles too.

    Args:
        rule: what becomes of the target's cosine.
        embedding: x, (..., B, D), any float type; half types are computed in float32, under autocast too.
        weight: W, (..., K, D). Leading dimensions broadcast: many models side by side.
        target: int64 class in [0, K), (..., B); None for the plain logits, which are predicted from.
        blend: lambda >= 0, the fraction of the plain logit against 1 of the margin; a number, or a tensor
            that broadcasts with (..., B).

    Returns:
        (..., B, K), float32 or float64.

    Raises:
        TypeError: when embedding or weight is not floating point, or the target not int64 (a soft target,
            from mixup or cutmix, names no class for the margin).

    >>> x, w = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> margin_logits(LSoftmaxRule(margin=2), x, w, torch.tensor([1]))  # 5 (2 * 0.8^2 - 1) in place of 4
    tensor([[3.0000, 1.4000]])
    >>> margin_logits(LSoftmaxRule(margin=2), x, w)
    tensor([[3., 4.]])

    Source: the rules' papers; the blend with lambda from the annealing of L-Softmax and SphereFace. Their
    released code adds 1e-9 to |W_j| |x| before it divides; here nothing is added.
    """
    _check_types(embedding, weight, target)
    device = embedding.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return _margin_logits(rule, embedding, weight, target, blend)
    return _margin_logits(rule, embedding, weight, target, blend)


@overload
def annealed_blend(step: int, *, start: float, rate: float, power: float, lowest: float) -> float: ...


@overload
def annealed_blend(step: Tensor, *, start: float, rate: float, power: float, lowest: float) -> Tensor: ...


def annealed_blend(
    step: int | Tensor, *, start: float, rate: float, power: float, lowest: float
) -> float | Tensor:
    """Return lambda at a training step: large at first, when the margin would not be learned, then small.

    lambda = max(lowest, start (1 + rate step)^-power)

    Args:
        step: training steps done, >= 0: an int, or an integer or float tensor.
        start: lambda at step 0, >= 0.
        rate, power: how fast it falls, >= 0.
        lowest: where it stops, >= 0.

    Returns:
        A float for an int, a float tensor for a tensor.

    >>> sphereface = {"start": 1000.0, "rate": 0.12, "power": 1.0, "lowest": 5.0}
    >>> [round(annealed_blend(step, **sphereface), 1) for step in (0, 100, 9999)]
    [1000.0, 76.9, 5.0]

    Source: the released code of L-Softmax (CIFAR-10: 1000, 0.00002, 45, 0) and of SphereFace (1000, 0.12, 1,
    5), whose first step is number 1 where ours is 0.
    """
    if isinstance(step, Tensor):
        return (start * (1 + rate * step).pow(-power)).clamp(min=lowest)
    return max(lowest, float(start * (1 + rate * step) ** -power))


def _margin_logits(
    rule: MarginRule, embedding: Tensor, weight: Tensor, target: Tensor | None, blend: float | Tensor
) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(embedding.dtype, weight.dtype), torch.float32)
    x, w = embedding.to(dtype), weight.to(dtype)
    if rule.unit_weights:
        w = _unit(w)
    if rule.scale is not None:
        x = _unit(x)
    plain = x @ w.mT
    scaled = plain if rule.scale is None else rule.scale * plain
    if target is None:
        return scaled
    index = target.expand(plain.shape[:-1])[..., None]
    product = take(plain, -1, index)[..., 0]
    if rule.scale is not None:
        own = torch.take_along_dim(w, index, dim=-2)
        sine = torch.linalg.vector_norm(x - product[..., None] * own, dim=-1)
        margined, own_plain = rule.scale * rule.target_cosine(product, sine), rule.scale * product
    else:
        reach = torch.linalg.vector_norm(x, dim=-1)
        if not rule.unit_weights:
            lengths = torch.linalg.vector_norm(w, dim=-1)
            reach = reach * take(lengths[..., None, :].expand(plain.shape), -1, index)[..., 0]
        cosine = product / torch.where(reach > 0, reach, 1)
        margined, own_plain = reach * rule.target_cosine(cosine), product
    bare = not isinstance(blend, Tensor) and blend == 0
    blended = margined if bare else own_plain + (margined - own_plain) / (1 + blend)
    return Chosen(scaled, -1, index).put(scaled, blended.to(dtype)[..., None])


def _unit(vectors: Tensor) -> Tensor:
    """Return vectors (..., D) at length one; those too short for their squares to be told from 0 stay."""
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    tiny = math.sqrt(torch.finfo(vectors.dtype).tiny)
    return vectors / torch.where(lengths > tiny, lengths, 1)


def _check_types(embedding: Tensor, weight: Tensor, target: Tensor | None) -> None:
    for name, given in (("embedding", embedding), ("weight", weight)):
        if not given.is_floating_point():
            raise TypeError(f"{name} must be floating point, but arrived as {given.dtype}")
    if target is not None and target.dtype != torch.int64:
        raise TypeError(
            f"a margin needs class indices, int64, but the target arrived as {target.dtype} of shape "
            f"{tuple(target.shape)}: soft targets (mixup, cutmix) name no class whose logit it could change"
        )
