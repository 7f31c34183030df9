"""-log p_c plus a cost of every competitor's p_k: value and gradient in one pass over the logits.

Everything turns on the likeliest class t, since any other has p_k <= 1/2, where 1 - p_k is safe to form. Let
m be the log-odds of t, p = sigmoid(m), q = sigmoid(-m), and r the softmax over the classes other than t, so
that p_k = q r_k for k != t. For a cost h let u_k = p_k h'(p_k), S their sum over the competitors other than
t, and v = p q h'(p) where t is a competitor, 0 where it is the target. Then nothing cancels in the gradient:

    dL/dz_k = r_k (q (1 - S) - v) + u_k - [k = c]    for k != t, with u_c = 0
    dL/dz_t = p (1 - S) + v - [t = c]
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from core_losses.chosen import Chosen, take
from core_losses.functions import VmapBatch, accept_any_arguments
from core_losses.layout import class_dim
from core_losses.lines import log_alpha_plus
from core_losses.odds import log_posteriors

BLOCK = 1 << 18  # how many logits the CPU works on at a time: few enough for its caches
WORTH_FOLDING = 1 << 15  # from how many values on fewer expensive operations outweigh more calls


class Cost(Protocol):
    """What a competitor costs, as a function h of its posterior p: h(p) = h(0) + scale log(1 + growth(p))."""

    @property
    def scale(self) -> float:
        """The factor of the logarithm."""
        ...

    @property
    def at_zero(self) -> float:
        """h(0)."""
        ...

    def of_logs(self, log_p: Tensor, log_not_p: Tensor) -> Tensor:
        """Return h(p) from log p and log(1 - p), exact for any p and differentiable."""
        ...

    def growth_and_pull(self, ratios: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return growth(p) and p h'(p), both 0 at 0, for p = q ratios <= 1/2; they may be one tensor."""
        ...

    def turn(self, p: Tensor, not_p: Tensor) -> Tensor:
        """Return p (1 - p) h'(p), for any p."""
        ...


@dataclass(frozen=True)
class Denial:
    """-log(1 - p) = log(1 + odds), where the odds are p / (1 - p)."""

    scale = 1.0
    at_zero = 0.0

    def of_logs(self, log_p: Tensor, log_not_p: Tensor) -> Tensor:  # noqa: ARG002
        """Return the cost."""
        return -log_not_p

    def growth_and_pull(self, ratios: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return the odds twice."""
        odds = q.reciprocal() - ratios  # infinite where q is 0, which makes the odds 0
        torch.div(ratios, odds, out=odds)
        return odds, odds

    def turn(self, p: Tensor, not_p: Tensor) -> Tensor:  # noqa: ARG002
        """Return p."""
        return p


@dataclass(frozen=True)
class Dual:
    """beta log(alpha + p), in closed form for alpha >= 1/2."""

    alpha: float
    beta: float

    @property
    def scale(self) -> float:
        """Return beta."""
        return self.beta

    @property
    def at_zero(self) -> float:
        """Return beta log(alpha)."""
        return self.beta * math.log(self.alpha)

    def of_logs(self, log_p: Tensor, log_not_p: Tensor) -> Tensor:  # noqa: ARG002
        """Return the cost."""
        return self.beta * log_alpha_plus(self.alpha, log_p)

    def growth_and_pull(self, ratios: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return p / alpha and beta p / (alpha + p) = beta growth / (1 + growth)."""
        growth = ratios * (q / self.alpha)
        pull = 1 + growth
        torch.div(growth, pull, out=pull)
        return growth, pull if self.beta == 1 else pull.mul_(self.beta)

    def turn(self, p: Tensor, not_p: Tensor) -> Tensor:
        """Return beta p (1 - p) / (alpha + p)."""
        return self.beta * p * not_p / (self.alpha + p)


def competitor_sum(cost: Cost, logits: Tensor, index: Tensor, factors: Tensor, total: bool) -> Tensor:
    """Return -log p_c + sum_{k != c} h(p_k) for the class c at `index`, by the closed form.

    Args:
        cost: h.
        logits: (B, K), (B, K, d1, ...) or (K,), float32 or float64.
        index: int64 class per example in [0, K), shaped as the logits but of size 1 along the classes.
        factors: what each example's loss is multiplied by, shaped as `index`; a constant, without gradient.
        total: whether to sum over the examples.

    Returns:
        The losses times `factors`, shaped as `index`, or their sum; differentiable to any order.
    """
    if logits.ndim > 1:
        return cast(Tensor, cast(Any, _CompetitorSum).apply(logits, index, factors, cost, total)[0])
    loss = competitor_sum(cost, logits.unsqueeze(0), index.unsqueeze(0), factors.unsqueeze(0), total)
    return loss if total else loss.squeeze(0)


def composed_competitor_sum(
    cost: Cost, logits: Tensor, index: Tensor, factors: Tensor, total: bool
) -> Tensor:
    """Return the same, composed of differentiable operations: slower, for any cost and any derivative."""
    dim = class_dim(logits)
    log_p, log_not_p = log_posteriors(logits)
    costs = Chosen(logits, dim, index).put(cost.of_logs(log_p, log_not_p), 0.0)
    losses = (costs.sum(dim, keepdim=True) - take(log_p, dim, index)) * factors
    losses = losses.masked_fill(factors.logical_not(), 0.0)
    return losses.sum() if total else losses


class _CompetitorSum(torch.autograd.Function):
    """(logits, index, factors) -> (factors losses or their sum, each loss's gradient without its factor).

    A backward pass that may itself be differentiated goes by the composed formula instead.
    """

    @staticmethod
    def forward(
        logits: Tensor, index: Tensor, factors: Tensor, cost: Cost, total: bool
    ) -> tuple[Tensor, Tensor]:
        losses, gradient = torch.empty_like(factors), torch.empty_like(logits)
        rows = max(1, BLOCK * len(logits) // max(logits.numel(), 1)) if _eager_cpu(logits) else len(logits)
        parts = (torch.split(x, rows) for x in (logits, index, losses, gradient))
        for block in zip(*parts, strict=True):
            _write_block(cost, *block)
        losses.mul_(factors).masked_fill_(factors.logical_not(), 0.0)
        return losses.sum() if total else losses, gradient

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        logits, index, factors, cost, _ = inputs
        context = cast(Any, ctx)
        context.save_for_backward(logits, index, factors, output[1])
        context.mark_non_differentiable(output[1])
        context.set_materialize_grads(False)  # no zeros for the second output, which has no gradient
        context.cost = cost

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, None, None, None, None]:
        if grad is None:
            return None, None, None, None, None
        logits, index, factors, gradient = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return gradient * (grad * factors), None, None, None, None

        def losses(logits: Tensor) -> Tensor:
            return composed_competitor_sum(ctx.cost, logits, index, factors, total=False)

        pull_back = torch.func.vjp(losses, logits)[1]
        return pull_back(grad.expand_as(factors))[0], None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, logits: Any, index: Any, factors: Any, cost: Any, total: bool) -> Any:
        batch = VmapBatch(info.batch_size, in_dims, logits, index, factors)
        losses, gradient = batch.split(cast(Any, _CompetitorSum).apply(*batch.merged, cost, False))
        assert losses is not None
        return batch.outputs(losses.flatten(1).sum(1) if total else losses, gradient)


accept_any_arguments(_CompetitorSum)


def _write_block(cost: Cost, logits: Tensor, index: Tensor, losses: Tensor, gradient: Tensor) -> None:
    """Write the loss and the gradient of each example of (B, K, ...), in the module docstring's symbols."""
    top = _likeliest(logits)
    likeliest, own = Chosen(logits, 1, top), Chosen(logits, 1, index)
    top_logit = logits.gather(1, top)
    # As in core_losses.odds, with the likeliest class in the target's place.
    ratios = likeliest.put_(gradient.copy_(logits), torch.finfo(logits.dtype).min)
    m = top_logit - ratios.amax(1, keepdim=True)
    torch.softmax(ratios, 1, out=ratios)
    m.add_(ratios.amax(1, keepdim=True).log_())
    p, q, log_p, log_q = torch.sigmoid(m), torch.sigmoid(-m), F.logsigmoid(m), F.logsigmoid(-m)
    wrong = top != index

    growth, pull = (own.put_(x, 0.0) for x in cost.growth_and_pull(ratios, q))
    pulls = pull.sum(1, keepdim=True)
    turn = cost.turn(p, q) * wrong
    torch.addcmul(pull, ratios, q - q * pulls - turn, out=gradient)
    likeliest.put_(gradient, torch.where(wrong, p, -q) - p * pulls + turn)
    own.add_(gradient, -wrong.to(q.dtype))

    torch.sub(top_logit, logits.gather(1, index), out=losses)  # -log p_c = z_t - z_c - log p
    losses.sub_(log_p).add_(_sum_log1p_(growth), alpha=cost.scale).add_(cost.at_zero * (logits.shape[1] - 2))
    losses.add_(cost.of_logs(log_p, log_q).masked_fill_(~wrong, cost.at_zero))


def _likeliest(logits: Tensor) -> Tensor:
    """Return argmax over dimension 1; on the CPU, where that is slow, after halving the classes thrice."""
    if not (_eager_cpu(logits) and logits.numel() > WORTH_FOLDING):
        return logits.argmax(1, keepdim=True)
    folded, shifts = logits, []
    for _ in range(3):
        width = (folded.shape[1] + 1) // 2  # the halves overlap by one where the number is odd
        shifts.append(folded.shape[1] - width)
        folded = torch.maximum(folded[:, :width], folded[:, shifts[-1] :])
    column = folded.argmax(1, keepdim=True)
    offsets = [sum(chosen) for chosen in itertools.product(*((0, shift) for shift in shifts))]
    candidates = torch.cat([column + offset for offset in offsets], 1)
    return candidates.gather(1, logits.gather(1, candidates).argmax(1, keepdim=True))


def _sum_log1p_(x: Tensor) -> Tensor:
    """Return the sum of log(1 + x) over dimension 1, x >= 0, of a small product of all 1 + x; overwrites x.

    Logarithms are saved by (1 + a)(1 + b) = 1 + (a + b + ab), in which all terms are positive.
    """
    if _eager_cpu(x) and x.numel() > WORTH_FOLDING:
        for _ in range(2):
            width = (x.shape[1] + 1) // 2
            first = x[:, : x.shape[1] - width]
            first.addcmul_(x[:, width:], 1 + first)
            x = x[:, :width]
    return x.log1p_().sum(1, keepdim=True)


def _eager_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
