"""A loss's gradient magnitude beside cross-entropy's: the step size that a loss implies."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from core_losses.layout import class_dim, computing_dtype
from core_losses.odds import log_odds
from core_losses.reduction import LossModule


def gradient_factor(loss: LossModule, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return each example's gradient magnitude on the target's logit, and cross-entropy's.

    push = -dL/dz_c, q = 1 - p_c = sigmoid(-m)

    L is an example's own loss, before class weights and before any mean or sum; label smoothing counts.
    push / q is 1 for cross-entropy, 1 + beta p_c / (alpha + q) for CRL, and 1 / q for NLLR
    (0 where its clamp holds p_c): its mean over a training is by how much the learning rate of cross-entropy
    must be raised to take steps as long.

    Args:
        loss: any loss of this package; its weights and its reduction are left out.
        logits: (B, K), (B, K, d1, ...) or (K,), any float type; half types are computed in float32.
        target: int64 class in [0, K), shaped as the logits without the classes, or the loss's `ignore_index`.

    Returns:
        push and q, each shaped as `target`, float32 or float64, without gradient; both 0 where the target is
        ignored. q is 0 too where the log-odds m are beyond its number format (103 in float32).

    Raises:
        TypeError, ValueError: as the loss does; TypeError for soft targets, which have no one class.

    >>> from core_losses.posterior import CompetingRatioLoss
    >>> push, q = gradient_factor(CompetingRatioLoss(), torch.zeros(1, 4), torch.tensor([2]))
    >>> q, push / q  # 1 + 0.25 / (1.5 + 0.75)
    (tensor([0.7500]), tensor([1.1111]))
    """
    return factor_of_bare(bare_loss(loss), logits, target)


def factor_of_bare(loss: LossModule, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return `gradient_factor` for what `bare_loss` made; it compiles as a whole."""
    if target.is_floating_point():
        raise TypeError("a gradient factor is that of one class: soft targets (mixup, cutmix) have none")
    leaf = computing_dtype(logits).detach()
    grad = _gradient(loss, leaf, target)
    dim = class_dim(leaf)
    counted = target != loss.ignore_index
    index = target * counted
    push = -grad.gather(dim, index.unsqueeze(dim)).squeeze(dim)
    return push * counted, torch.sigmoid(-log_odds(leaf, index)) * counted


def _gradient(loss: LossModule, logits: Tensor, target: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # a graph takes no call of autograd in it
        compiled: Tensor = torch.func.grad(lambda z: loss(z, target).sum())(logits)
        return compiled
    leaf = logits.detach().requires_grad_()
    with torch.enable_grad():
        (grad,) = torch.autograd.grad(loss(leaf, target).sum(), leaf)
    return grad


def bare_loss(loss: LossModule) -> LossModule:
    """Return the loss without class weights and reduction, sharing everything else."""
    bare = copy.copy(loss)
    bare._buffers = {**loss._buffers, "weight": None}
    bare.reduction = "none"
    return bare
