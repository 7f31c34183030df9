"""Losses that read every competitor's posterior, not only the target's.

Both are -log p_c plus a sum over the competitors k != c of one function of p_k.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from core_losses.chosen import Chosen, take
from core_losses.competitor_sum import Cost, Denial, Dual, competitor_sum, composed_competitor_sum
from core_losses.layout import class_dim
from core_losses.odds import log_posteriors
from core_losses.posterior import cross_entropy_loss
from core_losses.reduction import LossModule, LossOptions, SharedOptions, check_non_negative, class_loss


def extended_binary_cross_entropy_loss(
    logits: Tensor, target: Tensor, **options: Unpack[LossOptions]
) -> Tensor:
    """Return the one-hot extension of binary cross-entropy (CCE), which also punishes each competitor.

    L = -log p_c - sum_{k != c} log(1 - p_k)

    Args:
        logits, target, options: as for `core_losses.cross_entropy_loss`.

    Returns:
        As for `core_losses.cross_entropy_loss`.

    Raises:
        TypeError, ValueError: as for `core_losses.cross_entropy_loss`.

    >>> import torch
    >>> extended_binary_cross_entropy_loss(torch.zeros(1, 2), torch.tensor([0]))  # 2 log 2
    tensor(1.3863)

    Source: Zhu, Yao, Jiang, Yu, arXiv 1804.10690 (2018), Eq. 9 ("BCE" in its Table I); Zhang et al.,
    "Competing Ratio Loss for Discriminative Multi-class Image Classification" (2020), Eq. 5.
    """
    return _competitors_loss(logits, target, Denial(), options)


def dual_cross_entropy_loss(
    logits: Tensor, target: Tensor, *, alpha: float = 1.0, beta: float = 1.0, **options: Unpack[LossOptions]
) -> Tensor:
    """Return the dual cross-entropy loss (DualCE): cross-entropy plus a rising cost on each competitor.

    L = -log p_c + beta sum_{k != c} log(alpha + p_k)

    Its floor is (K - 1) beta log(alpha): 0 at the default alpha of 1, negative below it.

    Args:
        logits, target, options: as for `core_losses.cross_entropy_loss`.
        alpha: >= 0, keeps the logarithm of a vanishing p_k bounded (at 0 it is not).
        beta: >= 0; 0 is cross-entropy.

    Returns:
        As for `core_losses.cross_entropy_loss`.

    Raises:
        TypeError, ValueError: as for `core_losses.cross_entropy_loss`; also for a negative alpha or beta.

    >>> import torch
    >>> dual_cross_entropy_loss(torch.zeros(1, 2), torch.tensor([0]))  # log 2 + log 1.5
    tensor(1.0986)

    Source: Li, Yu, Chang, Ma, Cao, "Dual Cross-Entropy Loss for Small-Sample Fine-Grained Vehicle
    Classification", IEEE Transactions on Vehicular Technology (2019); formula and defaults not checked
    against the paper's text.
    """
    check_non_negative("alpha", alpha)
    check_non_negative("beta", beta)
    if beta == 0:
        return cross_entropy_loss(logits, target, **options)
    return _competitors_loss(logits, target, Dual(alpha, beta), options, closed_form=alpha >= 0.5)


class ExtendedBCELoss(LossModule):
    """The extended binary cross-entropy as a module; see `extended_binary_cross_entropy_loss`."""

    title = "CCE"

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the reduced loss."""
        return extended_binary_cross_entropy_loss(logits, target, **self.options())


class DualCrossEntropyLoss(LossModule):
    """The dual cross-entropy loss as a module; see `dual_cross_entropy_loss`."""

    title = "DualCE"

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(weight, **options)
        check_non_negative("alpha", alpha)
        check_non_negative("beta", beta)
        self.alpha, self.beta = alpha, beta

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the reduced loss."""
        return dual_cross_entropy_loss(logits, target, alpha=self.alpha, beta=self.beta, **self.options())

    def extra_repr(self) -> str:
        """Return the loss's own settings for `repr`."""
        return f"alpha={self.alpha}, beta={self.beta}"


def _competitors_loss(
    logits: Tensor, target: Tensor, cost: Cost, options: LossOptions, closed_form: bool = True
) -> Tensor:
    def of_target(logits: Tensor, index: Tensor, factors: Tensor, total: bool) -> Tensor:
        sum_of_costs = competitor_sum if closed_form else composed_competitor_sum
        return sum_of_costs(cost, logits, index, factors, total)

    def of_every_class(logits: Tensor) -> Tensor:
        log_p, log_not_p = log_posteriors(logits)
        return _sum_of_others(cost.of_logs(log_p, log_not_p)) - log_p

    return class_loss(logits, target, of_target, of_every_class, **options)


def _sum_of_others(costs: Tensor) -> Tensor:
    """Return each class's sum over all other classes, the largest cost set apart against cancellation."""
    dim = class_dim(costs)
    largest_at = costs.abs().argmax(dim, keepdim=True)
    largest = Chosen(costs, dim, largest_at)
    rest = largest.put(costs, 0.0)
    total = rest.sum(dim, keepdim=True)
    return largest.put(total - rest + take(costs, dim, largest_at), total)
