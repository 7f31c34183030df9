"""The linear head: one matrix on the embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from torch import Tensor, nn

from finetune.errors import UsageError
from finetune.models.heads.base import FeatureDims, Head, HeadOutput

if TYPE_CHECKING:
    from finetune.models.backbone import Features


class LinearHead(Head):
    """Dropout and one linear layer on the embedding: logits = W e + b.

    The weights start as N(0, 0.01) and the bias at zero, so that the first predictions are near uniform.

    Args:
        embedding_dim: D.
        num_classes: K.
        dropout: probability of dropping an entry of the embedding, in [0, 1).
    """

    def __init__(self, embedding_dim: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise UsageError(f"head.dropout must lie in [0, 1), got {dropout}")
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(embedding_dim, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:  # noqa: ARG002
        """Return the logits; a linear head does not look at the target."""
        return HeadOutput(self.classifier(self.dropout(features.embedding)))

    def map_classifier(self) -> nn.Linear | None:
        """Return the layer itself: dropout does nothing in evaluation."""
        return self.classifier

    @classmethod
    def build(cls, backbone: FeatureDims, num_classes: int, *, dropout: float = 0.0) -> Self:
        """Return the head that fits this backbone."""
        return cls(backbone.embedding_dim, num_classes, dropout=dropout)
