"""Heads whose classes are parts of a scale, such as ages in years: one distribution on it, cut at the edges.

The network says where it lies and how wide it is. A class's posterior is the mass between its edges, so
that the same two numbers answer for years and for groups. Logits are log masses, as in `OrdinalHead`:
cross-entropy is the likelihood of a label that is known up to its class, and any class loss may stand on
top. With classes of one year it is the density's own loss, |y - mu| / b + log 2b of the Laplace head, up to a
constant and the curvature within a year.
"""

from __future__ import annotations

import math
import statistics
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import UsageError
from finetune.models.heads.ordinal import OrdinalHead, log_differences, log_one_minus_exp, one_minus_exp

if TYPE_CHECKING:
    from finetune.models.heads.base import FeatureDims

LEAST_WIDTH = 0.25  # of a distribution, in the scale's unit
START = math.log(math.expm1(0.6))  # a width of 0.6 spreads: all classes are then about equally likely


class ScaleHead(OrdinalHead):
    """Location mu and width b of a distribution, from dropout and one linear layer on the embedding.

    mu = middle + spread m, b = 0.25 + spread softplus(0.18 + s), with (m, s) = (W e + c) / sqrt(D)

    Middle and spread are those of the edges, so that any scale is learned at the same rate. The root keeps a
    step over D entries from throwing mu across all classes: without it these heads diverge at the learning
    rate of a linear head (frozen features of FG-NET: at SGD 0.01 and above, at AdamW 0.01). The weights start
    as N(0, 0.01), the distribution in the middle and about as wide as the classes reach.

    Args:
        embedding_dim: D.
        num_classes: K.
        edges: K - 1 rising numbers with commas, where one class ends and the next begins; empty for classes
            that are the whole numbers 0, 1, ..., K - 1. The first and the last class are open.
        dropout: as in the linear head.
    """

    edges: Tensor

    def __init__(
        self, embedding_dim: int, num_classes: int, *, edges: str = "", dropout: float = 0.0
    ) -> None:
        super().__init__(dropout)
        found = read_edges(edges, num_classes)
        self.register_buffer("edges", torch.tensor(found), persistent=False)
        self.middle, self.spread = statistics.fmean(found), max(1.0, statistics.pstdev(found))
        self.layer = nn.Linear(embedding_dim, 2)
        nn.init.normal_(self.layer.weight, std=0.01)
        nn.init.zeros_(self.layer.bias)

    def log_posteriors(self, embedding: Tensor) -> Tensor:
        """Return log p (B, K)."""
        return self.log_masses(*self.location_and_width(embedding))

    def location_and_width(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and b, each (B, 1), in the scale's unit."""
        place, width = (self.layer(embedding) * embedding.shape[1] ** -0.5).split(1, 1)
        return self.middle + self.spread * place, LEAST_WIDTH + self.spread * F.softplus(START + width)

    def log_masses(self, location: Tensor, width: Tensor) -> Tensor:
        """Return the log of each class's mass (B, K)."""
        raise NotImplementedError

    @classmethod
    def build(cls, backbone: FeatureDims, num_classes: int, *, edges: str = "", dropout: float = 0.0) -> Self:
        """Return the head that fits this backbone."""
        return cls(backbone.embedding_dim, num_classes, edges=edges, dropout=dropout)


class YearLaplaceHead(ScaleHead):
    """A Laplace distribution of the years; see `ScaleHead`.

    F(x) = exp((x - mu) / b) / 2 below mu, 1 - exp(-(x - mu) / b) / 2 above
    """

    title: ClassVar[str] = "Laplace years"

    def log_masses(self, location: Tensor, width: Tensor) -> Tensor:
        """Return the log of each class's mass (B, K), exact in both tails and for narrow classes."""
        u = (self.edges - location) / width
        first, last = _log_laplace(u[:, :1]), _log_laplace(-u[:, -1:])
        low, high = u[:, :-1], u[:, 1:]
        apart = self.edges.diff() / width  # high - low, without a difference of large numbers
        beside = log_one_minus_exp(apart) - torch.maximum(low, -high).clamp_min(0)
        across = (one_minus_exp((-low).clamp_min(0)) + one_minus_exp(high.clamp_min(0))).log()
        inner = torch.where((low < 0) & (high > 0), across, beside) - math.log(2)
        return torch.cat([first, inner, last], 1)


class YearLogisticHead(ScaleHead):
    """A logistic distribution of the years: the cumulative head with edges that are given; see `ScaleHead`.

    log P(class > k) / P(class <= k) = (mu - edge_k) / b
    """

    title: ClassVar[str] = "Logistic years"

    def log_masses(self, location: Tensor, width: Tensor) -> Tensor:
        """Return the log of each class's mass (B, K)."""
        return log_differences((location - self.edges) / width, self.edges.diff() / width)


def read_edges(text: str, num_classes: int) -> list[float]:
    """Return the K - 1 edges that a text holds; those of whole numbers for an empty one.

    Raises UsageError for another count, and edges that do not rise.

    >>> read_edges("2.5,7", 3), read_edges("", 3)
    ([2.5, 7.0], [0.5, 1.5])
    """
    if not text:
        return [k + 0.5 for k in range(num_classes - 1)]
    try:
        edges = [float(part) for part in text.split(",")]
    except ValueError:
        edges = []
    rising = all(low < high for low, high in pairwise(edges))
    if len(edges) != num_classes - 1 or not rising or not all(map(math.isfinite, edges)):
        raise UsageError(
            f"head.options.edges must be {num_classes - 1} rising numbers with commas, one less than there "
            f"are classes, got {text!r}; a run fills them in itself where they are left out"
        )
    return edges


def _log_laplace(u: Tensor) -> Tensor:
    """Return log F(u) of the Laplace distribution of location 0 and width 1."""
    above = torch.log1p(-torch.exp(-u.clamp_min(0)) / 2)
    return torch.where(u < 0, u - math.log(2), above)
