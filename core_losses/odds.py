"""The log-odds of a class, exact in both tails: the one scalar that carries the whole family of losses.

With logits z, target class c and p = softmax(z), the log-odds of the target are

    m = log p_c - log(1 - p_c) = z_c - logsumexp_{j != c} z_j,

so that p_c = sigmoid(m) and 1 - p_c = sigmoid(-m). Taking the logsumexp over the *competitors*, and never the
log of 1 - softmax(z)_c, keeps m finite and exact however sure or wrong the network is.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from core_losses.chosen import Chosen, take
from core_losses.functions import VmapBatch, accept_any_arguments
from core_losses.layout import class_dim, computing_dtype
from core_losses.lines import Line


class _LineOnLogOdds(torch.autograd.Function):
    """(logits, index, factors) -> (factors line(m), m, r - onehot_c), with dm/dz = onehot_c - r.

    The backward pass is closed form: dL/dz = dL/dm dm/dz. Handing m and -dm/dz out as further, differentiable
    outputs, and saving those outputs, lets autograd differentiate the backward pass too (double backward,
    `torch.func`). Where a factor is 0 the loss is 0, whatever the logits; `total` sums over the examples.
    """

    @staticmethod
    def forward(
        logits: Tensor, index: Tensor, factors: Tensor | None, line: Line | None, total: bool
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        dim = class_dim(logits)
        own = Chosen(logits, dim, index)
        # Masking the target by the lowest finite number keeps m finite where every competitor is -inf.
        competitors = own.put(logits, torch.finfo(logits.dtype).min)
        top = competitors.amax(dim, keepdim=True)
        ratios = torch.softmax(competitors, dim, out=competitors)
        # logsumexp = top - log(max r). z_c - top comes first: z_c - logsumexp loses digits at logits of 1e4.
        m = logits.gather(dim, index).sub_(top).add_(ratios.amax(dim, keepdim=True).log_())
        own.put_(ratios, -1.0)
        if line is None or factors is None:
            return None, m, ratios
        losses = line.value(m).mul_(factors).masked_fill_(factors.logical_not(), 0.0)
        return losses.sum() if total else losses, m, ratios

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, index, factors, line, _ = inputs
        context = cast(Any, ctx)
        context.save_for_backward(index, factors, *output[1:])
        context.set_materialize_grads(False)
        context.line = line

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None, None]:
        grad_loss, grad_m, grad_descent = grads
        index, factors, m, descent = ctx.saved_tensors
        if grad_loss is not None:
            push = ctx.line.push(m) * (grad_loss * factors)
            push = push if grad_m is None else push - grad_m
            grad = descent * push
        else:
            grad = None if grad_m is None else descent * -grad_m
        if grad_descent is not None:
            dim = class_dim(descent)
            ratios = Chosen(descent, dim, index).put(descent, 0.0)
            inner = (grad_descent * ratios).sum(dim, keepdim=True)
            through_ratios = ratios * (grad_descent - inner)
            grad = through_ratios if grad is None else grad + through_ratios
        return grad, None, None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, logits: Any, index: Any, factors: Any, line: Any, total: bool) -> Any:
        batch = VmapBatch(info.batch_size, in_dims, logits, index, factors)
        losses, *others = batch.split(cast(Any, _LineOnLogOdds).apply(*batch.merged, line, False))
        losses = losses.flatten(1).sum(1) if total and losses is not None else losses
        return batch.outputs(losses, *others)


accept_any_arguments(_LineOnLogOdds)


def line_on_log_odds(line: Line, logits: Tensor, index: Tensor, factors: Tensor, total: bool) -> Tensor:
    """Return a loss of the log-odds at `index`, in one forward and one closed-form backward pass.

    Args:
        line: the loss as a function of m.
        logits: (B, K), (B, K, d1, ...) or (K,), float32 or float64.
        index: int64 class per example in [0, K), shaped as the logits but of size 1 along the classes.
        factors: what each example's loss is multiplied by, shaped as `index`; a constant, without gradient.
        total: whether to sum over the examples.

    Returns:
        factors line(m), shaped as `index`, or its sum; differentiable in the logits to any order.
    """
    return cast(Tensor, cast(Any, _LineOnLogOdds).apply(logits, index, factors, line, total)[0])


def log_odds_and_descent(logits: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-odds m at `index` and -dm/dz = r - onehot_c.

    r is the softmax over the competitors alone: r_j = p_j / (1 - p_c) for j != c, and r_c = 0.

    Args:
        logits: (B, K), (B, K, d1, ...) or (K,), float32 or float64.
        index: int64 class per example in [0, K), shaped as the logits but of size 1 along the classes.

    Returns:
        m, shaped as `index`, and -dm/dz, shaped as `logits`; both differentiable to any order.
    """
    _, m, descent = cast(Any, _LineOnLogOdds).apply(logits, index, None, None, False)
    return m, descent


def log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """Return the log-odds of the target class, exact for logits up to +-1e4 in either tail.

    m = z_c - logsumexp_{j != c} z_j = log p_c - log(1 - p_c)

    Args:
        logits: (B, K), (B, K, d1, ...) or (K,), any float type; half types are computed in float32.
        target: int64 class in [0, K), shaped as the logits without the classes.

    Returns:
        m, shaped as `target`, float32 or float64.

    Raises:
        TypeError: when the logits are not floating point.

    >>> two = log_odds(torch.tensor([[3.0, 1.0]]), torch.tensor([0]))  # with two classes: the difference
    >>> two.item()
    2.0

    Source: Zhu, Yao, Jiang, Yu, "Negative Log Likelihood Ratio Loss for Deep Neural Network Classification",
    arXiv 1804.10690 (2018): its loss is -m.
    """
    logits = computing_dtype(logits)
    dim = class_dim(logits)
    return log_odds_and_descent(logits, target.unsqueeze(dim))[0].squeeze(dim)


def log_posteriors(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return log p_k and log(1 - p_k) for every class k, both exact in both tails.

    For the likeliest class t both follow from its log-odds: log p_t = -softplus(-m_t) and
    log(1 - p_t) = -softplus(m_t). Every other class has p_k <= 1/2, where log1p(-p_k) is exact,
    with p_k = (1 - p_t) r_k and r the softmax over the classes other than t.

    Args:
        logits: (B, K), (B, K, d1, ...) or (K,), any float type; half types are computed in float32.

    Returns:
        log p and log(1 - p), each shaped as `logits`, float32 or float64; their difference is the log-odds.

    Raises:
        TypeError: when the logits are not floating point.

    >>> log_p, log_not_p = log_posteriors(torch.tensor([50.0, 0.0]))  # a naive log(1 - softmax) is -inf here
    >>> log_not_p[0].item()
    -50.0
    """
    logits = computing_dtype(logits)
    dim = class_dim(logits)
    top = logits.argmax(dim, keepdim=True)
    top_log_odds, descent = log_odds_and_descent(logits, top)
    log_p = logits - take(logits, dim, top) + F.logsigmoid(top_log_odds)
    log_not_p = torch.log1p(descent * -torch.sigmoid(-top_log_odds))
    return log_p, Chosen(logits, dim, top).put(log_not_p, F.logsigmoid(-top_log_odds))
