"""Losses that read only the target's posterior p_c: each is one line on the log-odds m.

With m = log p_c - log(1 - p_c): -log p_c = softplus(-m) = -logsigmoid(m), and 1 - p_c = sigmoid(-m). The work
over all K classes is done once, in `core_losses.odds`. Each function has its module beside it, a drop-in
for `torch.nn.CrossEntropyLoss`.
"""

from __future__ import annotations

import functools
import warnings
from typing import Unpack

import torch
from torch import Tensor

from core_losses.closed_forms import PUBLISHED_CLAMP
from core_losses.lines import CrossEntropy, LikelihoodRatio, Line, competing_line, focal_line, taming_line
from core_losses.odds import line_on_log_odds, log_posteriors
from core_losses.reduction import LossModule, LossOptions, SharedOptions, check_non_negative, class_loss


def _posterior_loss(logits: Tensor, target: Tensor, line: Line, options: LossOptions) -> Tensor:
    def of_target(logits: Tensor, index: Tensor, factors: Tensor, total: bool) -> Tensor:
        return line_on_log_odds(line, logits, index, factors, total)

    def of_every_class(logits: Tensor) -> Tensor:
        log_p, log_not_p = log_posteriors(logits)
        return line.value(log_p - log_not_p)

    return class_loss(logits, target, of_target, of_every_class, **options)


def cross_entropy_loss(logits: Tensor, target: Tensor, **options: Unpack[LossOptions]) -> Tensor:
    """Return the cross-entropy loss (CEL), torch's own value with both tails exact.

    L = -log p_c = softplus(-m)

    Args:
        logits: raw scores (B, K), (B, K, d1, ...) or (K,), K >= 2, any float type; half types are computed in
            float32.
        target: int64 class indices, shaped as the logits without the classes, in [0, K); or soft targets,
            floating point, shaped as the logits, rows summing to 1.
        options: `weight`, `ignore_index`, `reduction`, `label_smoothing`; see `LossOptions`.

    Returns:
        A scalar, or one value per example for reduction "none"; float32 or float64. The mean divides by the
        summed weights of the targets (class indices) or by the number of examples (soft targets).

    Raises:
        TypeError: when logits are not floating point or class indices not int64.
        ValueError: when shapes or options do not fit, or (on the CPU) an index is out of range.

    >>> cross_entropy_loss(torch.zeros(1, 4), torch.tensor([2]))  # log 4
    tensor(1.3863)
    """
    return _posterior_loss(logits, target, CrossEntropy(), options)


class CrossEntropyLoss(LossModule):
    """Cross-entropy as a module; see `cross_entropy_loss`."""

    title = "CE"
    line = CrossEntropy

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the reduced loss."""
        return cross_entropy_loss(logits, target, **self.options())


def negative_log_likelihood_ratio_loss(
    logits: Tensor, target: Tensor, *, clamp: float | None = PUBLISHED_CLAMP, **options: Unpack[LossOptions]
) -> Tensor:
    """Return the negative log likelihood ratio loss (NLLR), as published: with its posteriors clamped.

    L = log((1 - p_c) / p_c) = -m, with p_c held in [clamp, 1 - clamp]: |m| <= log((1 - clamp) / clamp)

    The value is negative wherever p_c > 1/2. Its derivative in the target's logit is -1 for every example,
    right or wrong, and 0 where p_c is held (|m| > 16.12 at 1e-7). Without a clamp ("NLLR, exact") it has no
    lower bound. Select models by accuracy, never by this loss's value.

    Args:
        logits, target, options: as for `cross_entropy_loss`.
        clamp: in (0, 1/2); 0 or None for the exact form.

    Returns:
        As for `cross_entropy_loss`.

    Raises:
        TypeError, ValueError: as for `cross_entropy_loss`; ValueError for a clamp outside [0, 1/2).

    >>> logits = torch.tensor([[5.0, 2.0]])  # two classes: minus the difference of the logits
    >>> negative_log_likelihood_ratio_loss(logits, torch.tensor([0]))
    tensor(-3.)

    Source: Zhu, Yao, Jiang, Yu, "Negative Log Likelihood Ratio Loss for Deep Neural Network Classification",
    arXiv 1804.10690 (2018), trained with Keras, which clips posteriors at 1e-7 as the code of the competing
    ratio loss paper does. That code also adds 1e-7 inside the logarithm; we do not.
    """
    _check_clamp(clamp)
    return _posterior_loss(logits, target, LikelihoodRatio(clamp), options)


class NLLRLoss(LossModule):
    """The negative log likelihood ratio loss as a module; see `negative_log_likelihood_ratio_loss`."""

    title = "NLLR"
    line = LikelihoodRatio
    quiet = ("clamp",)

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        clamp: float | None = PUBLISHED_CLAMP,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(weight, **options)
        _check_clamp(clamp)
        self.clamp = clamp or 0.0

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the reduced loss."""
        return negative_log_likelihood_ratio_loss(logits, target, clamp=self.clamp, **self.options())

    def extra_repr(self) -> str:
        """Return the loss's own settings for `repr`."""
        return f"clamp={self.clamp}"


def competing_ratio_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.5,
    beta: float = 1.0,
    clamp: float | None = None,
    **options: Unpack[LossOptions],
) -> Tensor:
    """Return the competing ratio loss (CRL).

    L = beta log(alpha + 1 - p_c) - log p_c
    dL/dz_c = -(1 - p_c) s and dL/dz_j = p_j s, with s = 1 + beta p_c / (alpha + 1 - p_c)

    CRL is cross-entropy whose step grows with confidence, from s = 1 to s = 1 + beta / alpha (1.667 at the
    defaults). At beta = 1 that is cross-entropy with the target's logit lowered by log(1 + 1 / alpha), plus
    log(alpha). Its floor is beta log(alpha) (0.405 at the defaults), not 0; for alpha < 1 that is negative.

    Args:
        logits, target, options: as for `cross_entropy_loss`.
        alpha: >= 0; 0 with beta = 1 is NLLR in its exact form, and with clamp = 1e-7 the published one. The
            released code's `a` is 1 + this alpha.
        beta: >= 0; 0 is cross-entropy.
        clamp: in (0, 1/2), to hold p_c in [clamp, 1 - clamp] without gradient outside, as released code does
            at 1e-7; None or 0 is exact.

    Returns:
        As for `cross_entropy_loss`.

    Raises:
        TypeError, ValueError: as for `cross_entropy_loss`; ValueError for a negative alpha or beta, and a
            clamp outside [0, 1/2).

    >>> competing_ratio_loss(torch.zeros(1, 4), torch.tensor([2]))  # log(1.5 + 3/4) + log 4
    tensor(2.1972)

    Source: Zhang, Guo, Wang, Chang, Zhao, Ma, Han, "Competing Ratio Loss for Discriminative Multi-class Image
    Classification" (2020), Eq. 11. Its Eqs. 14 and 15 print s with a minus sign, which is not the derivative.
    """
    _check_alpha_beta(alpha, beta)
    _check_clamp(clamp)
    return _posterior_loss(logits, target, competing_line(alpha, beta, clamp), options)


class CompetingRatioLoss(LossModule):
    """The competing ratio loss as a module; see `competing_ratio_loss`.

    >>> CompetingRatioLoss(alpha=1.5, beta=1.0)(torch.zeros(1, 4), torch.tensor([2]))
    tensor(2.1972)
    """

    title = "CRL"
    line = staticmethod(competing_line)

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        alpha: float = 1.5,
        beta: float = 1.0,
        clamp: float | None = None,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(weight, **options)
        _check_alpha_beta(alpha, beta)
        _check_clamp(clamp)
        self.alpha, self.beta, self.clamp = alpha, beta, clamp or None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the reduced loss."""
        alpha, beta, clamp = self.alpha, self.beta, self.clamp
        return competing_ratio_loss(logits, target, alpha=alpha, beta=beta, clamp=clamp, **self.options())

    def extra_repr(self) -> str:
        """Return the loss's own settings for `repr`."""
        return f"alpha={self.alpha}, beta={self.beta}" + (f", clamp={self.clamp}" if self.clamp else "")


def focal_loss(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, **options: Unpack[LossOptions]
) -> Tensor:
    """Return the softmax focal loss: cross-entropy that fades on well-classified examples.

    L = -(1 - p_c)^gamma log p_c

    Args:
        logits, target, options: as for `cross_entropy_loss`; the paper's class factor is `weight`.
        gamma: >= 0; 0 is cross-entropy.

    Returns:
        As for `cross_entropy_loss`.

    Raises:
        TypeError, ValueError: as for `cross_entropy_loss`; ValueError for a negative gamma.

    >>> focal_loss(torch.zeros(1, 4), torch.tensor([2]))  # (3/4)^2 log 4
    tensor(0.7798)

    Source: Lin, Goyal, Girshick, He, Dollar, "Focal Loss for Dense Object Detection", ICCV 2017, Eq. 4, with
    the softmax posterior in place of the paper's sigmoid.
    """
    check_non_negative("gamma", gamma)
    return _posterior_loss(logits, target, focal_line(gamma), options)


class FocalLoss(LossModule):
    """The softmax focal loss as a module; see `focal_loss`."""

    title = "focal"
    line = staticmethod(focal_line)

    def __init__(
        self, weight: Tensor | None = None, *, gamma: float = 2.0, **options: Unpack[SharedOptions]
    ) -> None:
        super().__init__(weight, **options)
        check_non_negative("gamma", gamma)
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the reduced loss."""
        return focal_loss(logits, target, gamma=self.gamma, **self.options())

    def extra_repr(self) -> str:
        """Return the loss's own settings for `repr`."""
        return f"gamma={self.gamma}"


def taming_cross_entropy_loss(
    logits: Tensor, target: Tensor, *, a: float = 0.8, **options: Unpack[LossOptions]
) -> Tensor:
    """Return the tamed cross-entropy loss (TCE), which bends the penalty of badly wrong examples down.

    L = ((1 - log p_c)^(1 - a) - 1) / (1 - a), and log(1 - log p_c) at a = 1

    Args:
        logits, target, options: as for `cross_entropy_loss`.
        a: >= 0; 0 is cross-entropy, larger values trust outliers less.

    Returns:
        As for `cross_entropy_loss`.

    Raises:
        TypeError, ValueError: as for `cross_entropy_loss`; ValueError for a negative a.

    >>> taming_cross_entropy_loss(torch.zeros(1, 4), torch.tensor([2]), a=1.0)  # log(1 + log 4)
    tensor(0.8697)

    Source: Martinez, Stiefelhagen, "Taming the Cross Entropy Loss", GCPR 2018; formula and default not
    checked against the paper's text.
    """
    check_non_negative("a", a)
    return _posterior_loss(logits, target, taming_line(a), options)


class TamingCrossEntropyLoss(LossModule):
    """The tamed cross-entropy loss as a module; see `taming_cross_entropy_loss`."""

    title = "TCE"
    line = staticmethod(taming_line)

    def __init__(
        self, weight: Tensor | None = None, *, a: float = 0.8, **options: Unpack[SharedOptions]
    ) -> None:
        super().__init__(weight, **options)
        check_non_negative("a", a)
        self.a = a

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the reduced loss."""
        return taming_cross_entropy_loss(logits, target, a=self.a, **self.options())

    def extra_repr(self) -> str:
        """Return the loss's own settings for `repr`."""
        return f"a={self.a}"


def applied_line(loss: LossModule) -> Line | None:
    """Return the function of the log-odds that a loss is for class indices, with its own settings.

    None where it reads more: the competitors' posteriors, smoothed labels, class weights.

    >>> applied_line(FocalLoss(gamma=0.0))
    CrossEntropy()
    """
    if loss.line is None or loss.label_smoothing or loss.weight is not None:
        return None
    return type(loss).line(**{name: getattr(loss, name) for name in loss.own_options()})  # type: ignore[misc]


def _check_clamp(clamp: float | None) -> None:
    if clamp is not None and not 0.0 <= clamp < 0.5:
        raise ValueError(
            f"clamp must lie in [0, 0.5), but arrived as {clamp}; 1e-7 is as published, 0 the exact form"
        )


def _check_alpha_beta(alpha: float, beta: float) -> None:
    check_non_negative("alpha", alpha)
    check_non_negative("beta", beta)
    if alpha < 1 and beta > 0 and not torch.compiler.is_compiling():
        _warn_negative_values()


@functools.cache
def _warn_negative_values() -> None:
    warnings.warn(
        "the competing ratio loss can be negative when alpha < 1 (its floor is beta * log(alpha)); "
        "this is no fault, but compare models by accuracy and not by this loss's value",
        stacklevel=4,
    )
