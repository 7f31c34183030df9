"""For classes with an order: losses that read it, and the rows of soft targets that spread along it.

Both losses are means over examples, whatever the number of classes. Class weights belong to the target's
class, as those of cross-entropy do. Smoothed and soft targets give the expected loss, as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from core_losses.layout import class_dim
from core_losses.lines import CrossEntropy
from core_losses.odds import line_on_log_odds, log_posteriors
from core_losses.reduction import LossModule, LossOptions, SharedOptions, check_non_negative, class_loss

SoftTargets = Literal["sord", "gaussian", "triangular"]
TARGET_WIDTHS: dict[SoftTargets, float] = {"sord": 1.0, "gaussian": 1.0, "triangular": 0.1}
_LOWEST = -1e6  # below the largest logit: what stands for -inf, whose sums would have no gradient


def ordered_log_loss(logits: Tensor, target: Tensor, **options: Unpack[LossOptions]) -> Tensor:
    """Return the ordered log loss: the binary log losses of all questions "is the class above k?".

    L = - sum_{k < y} log P(class > k) - sum_{y <= k < K-1} log P(class <= k)

    It is strictly proper, as a sum of binary log scores. On the cumulative head it is CORAL's loss, summed
    over the K - 1 questions.

    Args:
        logits, target, options: as for `core_losses.cross_entropy_loss`; class 0 is the lowest.

    Returns:
        As for `core_losses.cross_entropy_loss`.

    Raises:
        TypeError, ValueError: as for `core_losses.cross_entropy_loss`.

    >>> ordered_log_loss(torch.zeros(1, 2), torch.tensor([0]))  # with two classes cross-entropy: log 2
    tensor(0.6931)

    Source: Cao, Mirjalili, Raschka, "Rank Consistent Ordinal Regression for Neural Networks with Application
    to Age Estimation", Pattern Recognition Letters (2020), with equal weights and for any posteriors; not
    checked against the paper's text.
    """

    def of_target(logits: Tensor, index: Tensor, factors: Tensor, total: bool) -> Tensor:
        dim = class_dim(logits)
        odds = _cut_log_odds(_counted(logits, factors))
        cuts = _along(torch.arange(odds.shape[dim], device=odds.device), odds, dim)
        losses = -F.logsigmoid(torch.where(cuts < index, -odds, odds)).sum(dim, keepdim=True)
        return _weighed(losses, factors, total)

    def of_every_class(logits: Tensor) -> Tensor:
        dim = class_dim(logits)
        odds = _cut_log_odds(logits)
        below, above = -F.logsigmoid(-odds), -F.logsigmoid(odds)  # -log P(class > k), -log P(class <= k)
        none = torch.zeros_like(below.narrow(dim, 0, 1))
        rising = torch.cat([none, below.cumsum(dim)], dim)
        return rising + torch.cat([above.flip(dim).cumsum(dim).flip(dim), none], dim)

    return class_loss(logits, target, of_target, of_every_class, **options)


def mean_variance_loss(
    logits: Tensor,
    target: Tensor,
    *,
    mean: float = 0.2,
    variance: float = 0.05,
    **options: Unpack[LossOptions],
) -> Tensor:
    """Return the mean-variance loss: cross-entropy, and what the posterior's mean and spread cost.

    L = -log p_y + mean (E - y)^2 / 2 + variance V, with E = sum_k k p_k and V = sum_k (k - E)^2 p_k

    Args:
        logits, target, options: as for `core_losses.cross_entropy_loss`; class 0 is the lowest.
        mean: >= 0, the weight of the squared distance of the expected class from the target, in classes.
        variance: >= 0, the weight of the variance, in classes squared. With both 0 it is cross-entropy.

    Returns:
        As for `core_losses.cross_entropy_loss`.

    Raises:
        TypeError, ValueError: as for `core_losses.cross_entropy_loss`; also for a negative mean or variance.

    >>> mean_variance_loss(torch.zeros(1, 2), torch.tensor([0]))  # log 2 + 0.2 / 8 + 0.05 / 4
    tensor(0.7306)

    Source: Pan, Han, Shan, Chen, "Mean-Variance Loss for Deep Age Estimation from a Face", CVPR (2018);
    weights as in common use, not checked against the paper's text.
    """
    check_non_negative("mean", mean)
    check_non_negative("variance", variance)

    def of_target(logits: Tensor, index: Tensor, factors: Tensor, total: bool) -> Tensor:
        expected, spread = _moments(_counted(logits, factors))
        moments = mean * (expected - index) ** 2 / 2 + variance * spread
        plain = line_on_log_odds(CrossEntropy(), logits, index, factors, total)
        return plain + _weighed(moments, factors, total)

    def of_every_class(logits: Tensor) -> Tensor:
        expected, spread = _moments(logits)
        return mean * (expected - _places(logits)) ** 2 / 2 + variance * spread - log_posteriors(logits)[0]

    return class_loss(logits, target, of_target, of_every_class, **options)


class OrderedLogLoss(LossModule):
    """The ordered log loss as a module; see `ordered_log_loss`."""

    title = "Ordered log loss"
    ordered = True

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the reduced loss."""
        return ordered_log_loss(logits, target, **self.options())


class MeanVarianceLoss(LossModule):
    """The mean-variance loss as a module; see `mean_variance_loss`."""

    title = "Mean-variance"
    ordered = True

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        mean: float = 0.2,
        variance: float = 0.05,
        **options: Unpack[SharedOptions],
    ) -> None:
        super().__init__(weight, **options)
        check_non_negative("mean", mean)
        check_non_negative("variance", variance)
        self.mean, self.variance = mean, variance

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the reduced loss."""
        return mean_variance_loss(logits, target, mean=self.mean, variance=self.variance, **self.options())

    def extra_repr(self) -> str:
        """Return the loss's own settings for `repr`."""
        return f"mean={self.mean}, variance={self.variance}"


def soft_target_rows(kind: SoftTargets, places: Sequence[float], width: float | None = None) -> Tensor:
    """Return the soft target of every class as one matrix: row y is what class y is trained towards.

    sord: exp(-|d| / width); gaussian: exp(-d^2 / (2 width^2)), both of the distance d = places[k] - places[y]
    and divided by their sum; triangular: 1 - width on y, and width shared equally by its neighbours, of which
    the first and the last class have one.

    Args:
        kind: sord, gaussian or triangular.
        places: where the K >= 2 classes lie, rising: 0, 1, 2, ... or the years in the middle of each.
        width: > 0, in the unit of `places`, by default 1; for triangular below 1, by default 0.1.

    Returns:
        (K, K) float32, whose rows sum to 1. A soft or mixed target t becomes t @ rows.

    Raises:
        ValueError: for an unknown kind, places that do not rise, and a width out of its range.

    >>> soft_target_rows("triangular", [0, 1, 2])
    tensor([[0.9000, 0.1000, 0.0000],
            [0.0500, 0.9000, 0.0500],
            [0.0000, 0.1000, 0.9000]])

    Source: sord: Diaz, Marathe, "Soft Labels for Ordinal Regression", CVPR (2019), with the absolute
    difference; gaussian: Gao, Xing, Xie, Wu, Geng, "Deep Label Distribution Learning with Label Ambiguity",
    IEEE Transactions on Image Processing (2017). Neither was checked against the paper's text.
    """
    if kind not in TARGET_WIDTHS:
        raise ValueError(f"targets must be one of {', '.join(TARGET_WIDTHS)}, got {kind!r}")
    used = TARGET_WIDTHS[kind] if width is None else width
    if not 0 < used < (1 if kind == "triangular" else math.inf):
        rule = "lie in (0, 1)" if kind == "triangular" else "be a finite number > 0"
        raise ValueError(f"target_width of {kind} targets must {rule}, got {used}")
    x = torch.tensor([float(place) for place in places], dtype=torch.float64)
    if len(x) < 2 or not bool((x.diff() > 0).all()):
        raise ValueError(f"places of classes must be at least two and rise, got {list(places)}")
    distance = (x[None] - x[:, None]).abs()
    if kind == "triangular":
        near = torch.ones(len(x) - 1, dtype=torch.float64)
        beside = near.diag(1) + near.diag(-1)
        rows = used * beside / beside.sum(1, keepdim=True) + (1 - used) * torch.eye(len(x)).double()
    else:
        shape = -distance / used if kind == "sord" else -((distance / used) ** 2) / 2
        rows = shape.softmax(1)
    return rows.float()


def _cut_log_odds(logits: Tensor) -> Tensor:
    """Return log P(class <= k) - log P(class > k) at the K - 1 cuts, shaped as the logits but for that.

    Both sides are sums of exponentials of their own, so that neither tail is one minus the other. They are
    taken in float64, where a device has it: gradients are exponentials of differences of logits of 1e4.
    """
    dim = class_dim(logits)
    cuts = logits.shape[dim] - 1
    z = logits - logits.detach().amax(dim, keepdim=True)
    wide = (z if z.device.type == "mps" else z.double()).clamp_min(_LOWEST)
    lower = _running_logsumexp(wide, dim).narrow(dim, 0, cuts)
    upper = _running_logsumexp(wide.flip(dim), dim).flip(dim).narrow(dim, 1, cuts)
    return (lower - upper).to(logits.dtype)


def _running_logsumexp(z: Tensor, dim: int) -> Tensor:
    """Return `z.logcumsumexp(dim)` in log2(K) steps, each twice as far; differentiable to any order.

    torch's own has no second derivative where the first is zero.
    """
    classes, reach = z.shape[dim], 1
    while reach < classes:
        far, near = z.narrow(dim, 0, classes - reach), z.narrow(dim, reach, classes - reach)
        z = torch.cat([z.narrow(dim, 0, reach), near - F.logsigmoid(near - far)], dim)
        reach *= 2
    return z


def _moments(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the class, each of size 1 along the classes."""
    dim = class_dim(logits)
    p, places = logits.softmax(dim), _places(logits)
    expected = (places * p).sum(dim, keepdim=True)
    return expected, ((places - expected) ** 2 * p).sum(dim, keepdim=True)


def _places(logits: Tensor) -> Tensor:
    dim = class_dim(logits)
    counted = torch.arange(logits.shape[dim], device=logits.device, dtype=logits.dtype)
    return _along(counted, logits, dim)


def _along(values: Tensor, like: Tensor, dim: int) -> Tensor:
    """Return a vector as a tensor that spreads over every dimension of `like` but `dim`."""
    return values.view(-1, *[1] * (like.ndim - 1 - dim))


def _counted(logits: Tensor, factors: Tensor) -> Tensor:
    """Return the logits with zeros where an example counts nothing, whatever stands there."""
    return torch.where(factors != 0, logits, 0.0)


def _weighed(losses: Tensor, factors: Tensor, total: bool) -> Tensor:
    weighed = losses * factors
    return weighed.sum() if total else weighed
