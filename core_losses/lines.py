"""The posterior losses as functions of the log-odds m, through p = sigmoid(m) and q = 1 - p = sigmoid(-m).

Each line holds a loss's settings and gives its value and its gradient magnitude -dL/dm >= 0, which is also
-dL/dz_c. Both are exact in both tails: -log p = -logsigmoid(m) never leaves the logarithm, and no 1 - p is
ever formed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Line(Protocol):
    """A loss that reads only the target's posterior: a function of the log-odds m, with its derivative."""

    def value(self, m: Tensor) -> Tensor:
        """Return the loss, element by element, in a new tensor."""
        ...

    def push(self, m: Tensor) -> Tensor:
        """Return -dL/dm, which is also -dL/dz_c, element by element and itself differentiable."""
        ...


def log_alpha_plus(alpha: float, log_p: Tensor) -> Tensor:
    """Return log(alpha + p) from log p, exact for any alpha >= 0 and any p in [0, 1].

    From alpha = 1/2 on, log1p(p + (alpha - 1)) keeps a tiny p even where alpha is 1. Below it both terms stay
    logarithms, so that neither a tiny alpha nor a tiny p is lost.

    >>> log_alpha_plus(1.0, torch.tensor(-40.0)) > 0  # about e^-40, where log(1 + e^-40) rounds to 0
    tensor(True)
    """
    if alpha == 0:
        return log_p
    if alpha >= 0.5:
        return torch.log1p(log_p.exp() + (alpha - 1))
    return torch.logaddexp(log_p.new_full((), math.log(alpha)), log_p)


def clamp_bound(clamp: float) -> float:
    """Return the log-odds of p = 1 - clamp, where holding p_c in [clamp, 1 - clamp] begins.

    >>> round(clamp_bound(1e-7), 4)
    16.1181
    """
    return math.log1p(-clamp) - math.log(clamp)


def _held(m: Tensor, clamp: float | None) -> Tensor:
    """Return m as it is when p_c is held in [clamp, 1 - clamp]; without a clamp, m itself."""
    return m.clamp(-clamp_bound(clamp), clamp_bound(clamp)) if clamp else m


def _inside(push: Tensor, m: Tensor, clamp: float | None) -> Tensor:
    """Return a gradient magnitude without that of examples whose p_c is held."""
    return push.masked_fill(m.abs() > clamp_bound(clamp), 0.0) if clamp else push


@dataclass(frozen=True)
class CrossEntropy:
    """-log p_c = softplus(-m), gradient magnitude q."""

    def value(self, m: Tensor) -> Tensor:
        """Return the loss."""
        return -F.logsigmoid(m)

    def push(self, m: Tensor) -> Tensor:
        """Return -dL/dm."""
        return torch.sigmoid(-m)


@dataclass(frozen=True)
class LikelihoodRatio:
    """-m, gradient magnitude 1; with a clamp, constant where p_c is nearer than `clamp` to 0 or 1."""

    clamp: float | None

    def value(self, m: Tensor) -> Tensor:
        """Return the loss."""
        return -_held(m, self.clamp)

    def push(self, m: Tensor) -> Tensor:
        """Return -dL/dm."""
        return _inside(torch.ones_like(m), m, self.clamp)


@dataclass(frozen=True)
class CompetingRatio:
    """beta log(alpha + (1 + alpha) e^-m) + (1 - beta) softplus(-m).

    Its gradient magnitude is beta sigmoid(c - m) + (1 - beta) q.

    This is beta log(alpha + q) - log p, written so that no alpha or m cancels. With c = log(1 + 1 / alpha) it
    is, at beta = 1, log(alpha) + softplus(c - m): cross-entropy with the target's logit lowered by c. With a
    clamp it is constant where p_c is nearer than `clamp` to 0 or 1.
    """

    alpha: float
    beta: float
    clamp: float | None = None

    def value(self, m: Tensor) -> Tensor:
        """Return the loss."""
        m = _held(m, self.clamp)
        if self.alpha >= 0.5:  # nothing cancels: the cheaper of two equal forms
            ratio = self._log_alpha - F.logsigmoid(m - self._margin)
        else:
            ratio = torch.logaddexp(math.log1p(self.alpha) - m, m.new_full((), self._log_alpha))
        return ratio if self.beta == 1 else self.beta * ratio - (1 - self.beta) * F.logsigmoid(m)

    def push(self, m: Tensor) -> Tensor:
        """Return -dL/dm."""
        raised = torch.sigmoid(self._margin - m)
        mixed = raised if self.beta == 1 else self.beta * raised + (1 - self.beta) * torch.sigmoid(-m)
        return _inside(mixed, m, self.clamp)

    @property
    def _log_alpha(self) -> float:
        return math.log(self.alpha) if self.alpha > 0 else -math.inf

    @property
    def _margin(self) -> float:
        return math.log1p(self.alpha) - self._log_alpha


@dataclass(frozen=True)
class Focal:
    """q^gamma softplus(-m), gradient magnitude q^gamma (gamma p softplus(-m) + q)."""

    gamma: float

    def value(self, m: Tensor) -> Tensor:
        """Return the loss."""
        return -torch.exp(self.gamma * F.logsigmoid(-m)) * F.logsigmoid(m)

    def push(self, m: Tensor) -> Tensor:
        """Return -dL/dm."""
        faded = torch.exp(self.gamma * F.logsigmoid(-m))
        steepened = torch.addcmul(torch.sigmoid(-m), torch.sigmoid(m), F.logsigmoid(m), value=-self.gamma)
        return faded * steepened


@dataclass(frozen=True)
class Taming:
    """((1 + softplus(-m))^(1 - a) - 1) / (1 - a), gradient magnitude q (1 + softplus(-m))^(-a)."""

    a: float

    def value(self, m: Tensor) -> Tensor:
        """Return the loss."""
        log_tamed = torch.log1p(-F.logsigmoid(m))
        return log_tamed if self.a == 1 else torch.expm1((1 - self.a) * log_tamed) / (1 - self.a)

    def push(self, m: Tensor) -> Tensor:
        """Return -dL/dm."""
        return torch.sigmoid(-m) * (1 - F.logsigmoid(m)) ** -self.a


def competing_line(alpha: float, beta: float, clamp: float | None = None) -> Line:
    """Return the competing ratio's line; at beta = 0 cross-entropy's, which needs no finite log(alpha)."""
    return CompetingRatio(alpha, beta, clamp) if beta > 0 or clamp else CrossEntropy()


def focal_line(gamma: float) -> Line:
    """Return the focal loss's line; at gamma = 0 cross-entropy's."""
    return Focal(gamma) if gamma > 0 else CrossEntropy()


def taming_line(a: float) -> Line:
    """Return the tamed cross-entropy's line; at a = 0 cross-entropy's."""
    return Taming(a) if a > 0 else CrossEntropy()
