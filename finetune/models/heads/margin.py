"""Heads that train with a margin between the classes: L-Softmax, A-Softmax, CosFace and ArcFace.

All are one matrix without a bias on the pooled embedding. In training the target's logit is lowered by a rule
of `core_losses.margin_rules`; predictions are made from the plain logits. Any class loss may stand on top:
the papers' is cross-entropy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from core_losses.margin import annealed_blend, build_margin_rule, margin_logits
from finetune.errors import UsageError
from finetune.models.heads.base import FeatureDims, Head, HeadOutput

if TYPE_CHECKING:
    from finetune.models.backbone import Features


class MarginHead(Head):
    """One matrix on the embedding, and a margin on the target's logit while it trains.

    z_c = r_c (lambda cos(theta_c) + psi(theta_c)) / (1 + lambda), see `core_losses.margin.margin_logits`

    Given a target in training mode the head counts the batch in `step`, a buffer that is saved with the
    weights, so that a resumed run goes on with the same lambda, which is logged as `blend`. Batches are not
    optimiser steps: --train.accumulate N makes one step of N of them, and a `rate` divided by N gives the
    same lambda at the same optimiser step.

    The weights start as N(0, 1 / D), of length about one, and not as a linear head of the same seed: where
    only their direction matters, short ones would turn with every step many times faster than the learning
    rate says.

    Args:
        embedding_dim: D.
        num_classes: K.
        rule: the rule's name in `core_losses.margin.MARGIN_RULES`.
        annealing: `start`, `rate`, `power` and `lowest` of `annealed_blend`, all >= 0; None for lambda = 0.
        options: the rule's own.
    """

    needs_classes: ClassVar[bool] = True

    def __init__(
        self,
        embedding_dim: int,
        num_classes: int,
        rule: str,
        annealing: dict[str, float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        try:
            self.rule = build_margin_rule(rule, **options)
        except ValueError as error:
            raise UsageError(f"the {rule} head's {error}") from None
        for name, value in (annealing or {}).items():
            if not 0 <= value < float("inf"):
                raise UsageError(f"the {rule} head's blend_{name} must be a finite number >= 0, got {value}")
        self.annealing = annealing
        self.step: Tensor
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.classifier = nn.Linear(embedding_dim, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=embedding_dim**-0.5)

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:
        """Return the logits, in training mode with the target's margin where a target is given.

        Raises UsageError for soft targets, which name no class for the margin.
        """
        if target is None or not self.training:
            return HeadOutput(self.infer(features))
        if target.dtype != torch.int64:
            raise UsageError(
                "a margin head trains on class indices: soft targets, as mixup and cutmix make them, name no "
                "class for its margin; give --train.mixup 0 --train.cutmix 0"
            )
        blend = self._blend()
        weight = self.classifier.weight
        logits = margin_logits(self.rule, features.embedding, weight, target, blend=blend)
        with torch.no_grad():
            plain = self.infer(features)
        self.step += 1
        return HeadOutput(logits, logged={"blend": blend} if self.annealing else {}, plain=plain)

    def infer(self, features: Features) -> Tensor:
        """Return the plain logits: no margin."""
        return margin_logits(self.rule, features.embedding, self.classifier.weight)

    def map_classifier(self) -> nn.Linear | None:
        """Return the layer, with its weights at the length that the rule gives them; None with a scale.

        With a scale the embedding is brought to a fixed length, which no linear layer on the map does.
        """
        if self.rule.scale is not None:
            return None
        if not self.rule.unit_weights:
            return self.classifier
        return MadeLinear(nn.functional.normalize(self.classifier.weight))

    def _blend(self) -> Tensor:
        if self.annealing is None:
            return torch.zeros((), device=self.step.device)
        return annealed_blend(self.step.clone(), **self.annealing)


class MadeLinear(nn.Linear):
    """A linear layer without a bias, whose weights (K, D) are made of others and no parameter."""

    def __init__(self, weight: Tensor) -> None:
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.register_parameter("bias", None)
        self.__dict__["weight"] = weight


class AnnealedMarginHead(MarginHead):
    """A margin that training begins without, as its class attribute RULE names it; see `annealed_blend`."""

    RULE: ClassVar[str]

    @classmethod
    def build(
        cls,
        backbone: FeatureDims,
        num_classes: int,
        *,
        margin: int = 4,
        blend_start: float = 1000.0,
        blend_rate: float = 0.12,
        blend_power: float = 1.0,
        blend_lowest: float = 5.0,
    ) -> Self:
        """Return the head that fits this backbone."""
        annealing = {"start": blend_start, "rate": blend_rate, "power": blend_power, "lowest": blend_lowest}
        return cls(backbone.embedding_dim, num_classes, cls.RULE, annealing, margin=margin)


class LSoftmaxHead(AnnealedMarginHead):
    """The large-margin softmax; see `core_losses.margin_rules.LSoftmaxRule` and `MarginHead`."""

    RULE = "lsoftmax"


class ASoftmaxHead(AnnealedMarginHead):
    """The angular softmax of SphereFace; see `core_losses.margin_rules.ASoftmaxRule` and `MarginHead`."""

    RULE = "asoftmax"


class CosFaceHead(MarginHead):
    """The additive cosine margin; see `core_losses.margin_rules.CosFaceRule` and `MarginHead`."""

    @classmethod
    def build(
        cls, backbone: FeatureDims, num_classes: int, *, margin: float = 0.35, scale: float = 64.0
    ) -> Self:
        """Return the head that fits this backbone."""
        return cls(backbone.embedding_dim, num_classes, "cosface", margin=margin, scale=scale)


class ArcFaceHead(MarginHead):
    """The additive angular margin; see `core_losses.margin_rules.ArcFaceRule` and `MarginHead`."""

    @classmethod
    def build(
        cls, backbone: FeatureDims, num_classes: int, *, margin: float = 0.5, scale: float = 64.0
    ) -> Self:
        """Return the head that fits this backbone."""
        return cls(backbone.embedding_dim, num_classes, "arcface", margin=margin, scale=scale)
