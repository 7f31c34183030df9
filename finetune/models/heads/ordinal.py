"""Heads for classes with an order, which say what a class means by the classes below and above it.

Each gives K logits z that are log posteriors: softmax(z) = p and logsumexp(z) = 0. So everything that reads
logits reads these, and any class loss may stand on top: cross-entropy is then the model's own likelihood.
Everything after the linear layer is computed in float32, whatever autocast says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.errors import UsageError
from finetune.models.heads.base import FeatureDims, Head, HeadOutput
from finetune.models.heads.precision import full_precision, wide

if TYPE_CHECKING:
    from finetune.models.backbone import Features

LEAST_GAP = 1e-3  # between two cut points of the cumulative head, so that their order is strict
# How many logits the direction and the cuts of the cumulative head move for one of their numbers. A direction
# sums over the whole embedding and moves fast; cuts at the pace of single weights hold it back. Of what was
# tried on frozen features of FG-NET, this trains with AdamW at 0.001 to 0.01 and SGD at 0.01 to 0.1 alike.
DIRECTION_PACE, CUT_PACE = 0.3, 3.0


class OrdinalHead(Head):
    """Dropout on the embedding, and log posteriors (B, K) of it by `log_posteriors`.

    Args:
        dropout: probability of dropping an entry of the embedding, in [0, 1).
    """

    ordered: ClassVar[bool] = True

    def __init__(self, dropout: float) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UsageError(f"head.dropout must lie in [0, 1), got {dropout}")
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:  # noqa: ARG002
        """Return the log posteriors as logits; the target is not looked at."""
        embedding = features.embedding
        with full_precision(embedding):
            return HeadOutput(self.log_posteriors(self.dropout(wide(embedding))))

    def log_posteriors(self, embedding: Tensor) -> Tensor:
        """Return log p (B, K) of embeddings (B, D), float32 or float64."""
        raise NotImplementedError


class CornHead(OrdinalHead):
    """Continuation ratios (CORN): one binary question after the other, "is it above k, being at least k?".

    log p_k = sum_{m<k} log s(f_m) + log s(-f_k), the last class without the second term; f = W e + b

    s is the sigmoid. Any posterior can be said. With cross-entropy this is CORN's loss, as a mean over
    images: its released code divides by the number of questions asked instead. The bias starts where all
    classes are equally likely, the weights as N(0, 0.01).

    Args:
        embedding_dim: D.
        num_classes: K.
        dropout: as in the linear head.

    Source: Shi, Cao, Raschka, "Deep Neural Networks for Rank-Consistent Ordinal Regression Based on
    Conditional Probabilities" (2021).
    """

    title: ClassVar[str] = "CORN"

    def __init__(self, embedding_dim: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.classifier = nn.Linear(embedding_dim, num_classes - 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        with torch.no_grad():
            self.classifier.bias.copy_(torch.arange(num_classes - 1, 0, -1.0).log())

    def log_posteriors(self, embedding: Tensor) -> Tensor:
        """Return log p (B, K)."""
        questions = self.classifier(embedding)
        none = torch.zeros_like(questions[:, :1])
        reached = torch.cat([none, log_sigmoid(questions).cumsum(1)], 1)
        return reached + torch.cat([log_sigmoid(-questions), none], 1)

    @classmethod
    def build(cls, backbone: FeatureDims, num_classes: int, *, dropout: float = 0.0) -> Self:
        """Return the head that fits this backbone."""
        return cls(backbone.embedding_dim, num_classes, dropout=dropout)


class CumulativeHead(OrdinalHead):
    """Cumulative logits (proportional odds, the model of CORAL): one direction, cut at K - 1 points.

    log P(class > k) / P(class <= k) = l_k = w . e + b_k, with b_k falling strictly

    Every image lies on one line. Unlike CORAL's own bias, which may cross, b_0 = c and
    b_k = b_{k-1} - softplus(d_k) - 0.001, so that the posteriors are exact differences and positive. With
    the loss `olog` this is CORAL. The cuts start where all classes are equally likely, w as N(0, 0.01).

    Args:
        embedding_dim: D.
        num_classes: K.
        dropout: as in the linear head.

    Source: McCullagh, "Regression Models for Ordinal Data", Journal of the Royal Statistical Society B
    (1980); Cao, Mirjalili, Raschka, "Rank Consistent Ordinal Regression for Neural Networks with Application
    to Age Estimation", Pattern Recognition Letters (2020).
    """

    title: ClassVar[str] = "Cumulative logits"

    def __init__(self, embedding_dim: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__(dropout)
        self.direction = nn.Linear(embedding_dim, 1, bias=False)
        nn.init.normal_(self.direction.weight, std=0.01)
        self.cuts = nn.Parameter(torch.empty(num_classes - 1))  # c, and d_1, d_2, ..., over CUT_PACE
        above = torch.arange(num_classes - 1, 0, -1.0)
        self.place_cuts((above / (num_classes - above)).log())

    @torch.no_grad()
    def place_cuts(self, points: Tensor) -> None:
        """Let the cut points be b (K-1,), which fall by more than the least gap."""
        gaps = (-points.diff() - LEAST_GAP).clamp_min(1e-6)
        self.cuts.copy_(torch.cat([points[:1], torch.expm1(gaps).log()]) / CUT_PACE)

    def log_posteriors(self, embedding: Tensor) -> Tensor:
        """Return log p (B, K)."""
        cuts = CUT_PACE * self.cuts
        gaps = F.softplus(cuts[1:]) + LEAST_GAP
        below = torch.cat([torch.zeros_like(cuts[:1]), gaps.cumsum(0)])
        line = DIRECTION_PACE * self.direction(embedding)
        return log_differences(line + (cuts[0] - below), gaps)

    @classmethod
    def build(cls, backbone: FeatureDims, num_classes: int, *, dropout: float = 0.0) -> Self:
        """Return the head that fits this backbone."""
        return cls(backbone.embedding_dim, num_classes, dropout=dropout)


def log_differences(logits: Tensor, gaps: Tensor) -> Tensor:
    """Return log p (B, K) from l_k = log P(class > k) / P(class <= k) and the gaps between neighbours.

    s(l_{k-1}) - s(l_k) = s(l_{k-1}) s(-l_k) (1 - exp(-gap)), where no sigmoids are subtracted and nothing
    cancels.

    Args:
        logits: l (B, K-1), falling along the classes.
        gaps: l_{k-1} - l_k > 0, (K-2,) or (B, K-2).
    """
    none = torch.zeros_like(logits[:, :1])
    above = torch.cat([none, log_sigmoid(logits)], 1)
    below = torch.cat([log_sigmoid(-logits), none], 1)
    inner = log_one_minus_exp(gaps) + torch.zeros_like(logits[:, 1:])
    return above + below + torch.cat([none, inner, none], 1)


def log_sigmoid(x: Tensor) -> Tensor:
    """Return log s(x), exact in both tails in a file too, where s(x) itself would stand and round away."""
    return -F.softplus(-x, threshold=40)


def log_one_minus_exp(gap: Tensor) -> Tensor:
    """Return log(1 - exp(-gap)) for gap > 0."""
    return one_minus_exp(gap).log()


def one_minus_exp(gap: Tensor) -> Tensor:
    """Return 1 - exp(-gap) for gap >= 0, exact near 0 in operators that files have: no expm1.

    1 - exp(-g) = 2 t / (1 + t), with t = tanh(g / 2)
    """
    half = torch.tanh(gap / 2)
    return 2 * half / (1 + half)
