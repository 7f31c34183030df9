"""The posterior losses as functions of the log-odds m, with p = sigmoid(m) and q = 1 - p = sigmoid(-m).

Each class holds a loss's settings and gives its value and its push -dL/dm >= 0, which is also -dL/dz_c. Both
are exact in both tails: -log p = -logsigmoid(m) never leaves the logarithm, and no 1 - p is ever formed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core_losses.log_odds import log_alpha_plus


@dataclass(frozen=True)
class CrossEntropy:
    """-log p_c = softplus(-m), push q."""

    def value(self, m: Tensor) -> Tensor:
        """Return the loss."""
        return -F.logsigmoid(m)

    def push(self, m: Tensor) -> Tensor:
        """Return -dL/dm."""
        return torch.sigmoid(-m)


@dataclass(frozen=True)
class LikelihoodRatio:
    """-m, push 1; with a clamp, constant where p_c is nearer than `clamp` to 0 or 1."""

    clamp: float | None

    def value(self, m: Tensor) -> Tensor:
        """Return the loss."""
        return -m if self.clamp is None else -m.clamp(-self._bound, self._bound)

    def push(self, m: Tensor) -> Tensor:
        """Return -dL/dm."""
        constant = torch.ones_like(m)
        return constant if self.clamp is None else constant.masked_fill(m.abs() > self._bound, 0.0)

    @property
    def _bound(self) -> float:
        assert self.clamp is not None
        return math.log1p(-self.clamp) - math.log(self.clamp)


@dataclass(frozen=True)
class CompetingRatio:
    """softplus(-m) + beta log(alpha + q), push q (1 + beta p / (alpha + q))."""

    alpha: float
    beta: float

    def value(self, m: Tensor) -> Tensor:
        """Return the loss."""
        if self.alpha == 0:  # softplus(-m) + beta log q without the cancellation; at beta = 1 exactly -m
            return -self.beta * m if self.beta == 1 else (self.beta - 1) * F.logsigmoid(m) - self.beta * m
        if self.alpha >= 0.5:  # log1p keeps a tiny q even where alpha is 1
            competitors = torch.log1p(torch.sigmoid(-m) + (self.alpha - 1))
        else:
            competitors = log_alpha_plus(self.alpha, F.logsigmoid(-m))
        return (competitors if self.beta == 1 else self.beta * competitors) - F.logsigmoid(m)

    def push(self, m: Tensor) -> Tensor:
        """Return -dL/dm."""
        q = torch.sigmoid(-m)
        if self.alpha == 0:
            return (1 - self.beta) * q + self.beta
        if self.alpha >= 0.5:  # with p = 1 - q
            grown = self.beta * (1 + self.alpha) * (q / (self.alpha + q))
            return grown if self.beta == 1 else (1 - self.beta) * q + grown
        share = torch.sigmoid(F.logsigmoid(-m) - math.log(self.alpha))  # q / (alpha + q)
        return q + self.beta * torch.sigmoid(m) * share


@dataclass(frozen=True)
class Focal:
    """q^gamma softplus(-m), push q^gamma (gamma p softplus(-m) + q)."""

    gamma: float

    def value(self, m: Tensor) -> Tensor:
        """Return the loss."""
        return -torch.exp(self.gamma * F.logsigmoid(-m)) * F.logsigmoid(m)

    def push(self, m: Tensor) -> Tensor:
        """Return -dL/dm."""
        faded = torch.exp(self.gamma * F.logsigmoid(-m))
        return faded * (torch.sigmoid(-m) - self.gamma * torch.sigmoid(m) * F.logsigmoid(m))


@dataclass(frozen=True)
class Taming:
    """((1 + softplus(-m))^(1 - a) - 1) / (1 - a), push q (1 + softplus(-m))^(-a)."""

    a: float

    def value(self, m: Tensor) -> Tensor:
        """Return the loss."""
        log_tamed = torch.log1p(-F.logsigmoid(m))
        return log_tamed if self.a == 1 else torch.expm1((1 - self.a) * log_tamed) / (1 - self.a)

    def push(self, m: Tensor) -> Tensor:
        """Return -dL/dm."""
        return torch.sigmoid(-m) * (1 - F.logsigmoid(m)) ** -self.a
