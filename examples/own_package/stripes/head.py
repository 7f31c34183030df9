"""A head outside the toolkit: scaled cosines between the embedding and one direction for each class."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from finetune.errors import UsageError
from finetune.models.backbone import Features
from finetune.models.heads.base import FeatureDims, Head, HeadOutput


class CosineHead(Head):
    """logits = scale * cos(embedding, w_k), with one learned w_k for each class."""

    def __init__(self, embedding_dim: int, num_classes: int, *, scale: float = 10.0) -> None:
        super().__init__()
        if scale <= 0:
            raise UsageError(f"head.options.scale must be a number > 0, got {scale}")
        self.scale = scale
        self.weight = nn.Parameter(torch.randn(num_classes, embedding_dim))

    @classmethod
    def build(cls, backbone: FeatureDims, num_classes: int, *, scale: float = 10.0) -> Self:
        """Return the head that fits this backbone; the keyword arguments are the head's options."""
        return cls(backbone.embedding_dim, num_classes, scale=scale)

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:  # noqa: ARG002
        """Return the logits; the target is not looked at."""
        embedding = nn.functional.normalize(features.embedding)
        return HeadOutput(self.scale * embedding @ nn.functional.normalize(self.weight).T)
