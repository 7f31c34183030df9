"""What stands on a backbone: the head contract, the linear head, and the table of heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from torch import Tensor, nn

from finetune.errors import UsageError

if TYPE_CHECKING:
    from finetune.backbone import Features


@dataclass(frozen=True)
class Branch:
    """A further classifier that is trained beside the main logits.

    Args:
        logits: (B', K'), which may have other rows and classes than the main ones.
        target: what these logits should say, int64 (B',) or soft (B', K'); None means the batch's own target.
        weight: of this branch's loss in the sum.
        domain: True for a two-way question about the picture (original or shuffled) rather than its class;
            it stays with cross-entropy whatever the class loss is.
    """

    logits: Tensor
    target: Tensor | None = None
    weight: float = 1.0
    domain: bool = False


@dataclass(frozen=True)
class HeadOutput:
    """What a head says of a batch while it learns.

    Args:
        logits: the main logits (B, K).
        branches: further classifiers by name.
        terms: losses of the head's own, each a scalar tensor and its weight, by name.
        maps: pictures for explanations (attention, detector responses) by name; empty if it has none.
    """

    logits: Tensor
    branches: Mapping[str, Branch] = field(default_factory=dict)
    terms: Mapping[str, tuple[Tensor, float]] = field(default_factory=dict)
    maps: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Hooks:
    """What a head may ask of the training run beside gradients.

    Args:
        prepare: called once as (model, batches) before the first step, to initialise weights from the data.
        batch_transform: called as (images, target, generator) on every training batch, after normalisation;
            it may enlarge the batch and returns the new images and target.
    """

    prepare: Callable[[nn.Module, Any], None] | None = None
    batch_transform: Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, Tensor]] | None = None


class FeatureDims(Protocol):
    """What a head needs to know of a backbone before it is built."""

    @property
    def name(self) -> str:
        """The backbone's name, for messages."""

    @property
    def embedding_dim(self) -> int:
        """D, the length of the embedding."""

    @property
    def map_dims(self) -> dict[int, int]:
        """Channels of each tapped map, by stride."""


class Head(nn.Module):
    """Features in, logits out; everything learned beside the backbone lives here, never in a loss.

    `default_taps` are the strides of the maps that a head reads unless it is told otherwise, and
    `uses_embedding` says whether it reads the pooled vector; both decide how the backbone is built.
    """

    default_taps: ClassVar[tuple[int, ...]] = ()
    uses_embedding: ClassVar[bool] = True

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:
        """Return everything that the objective needs; `target` serves heads whose logits depend on it."""
        raise NotImplementedError

    def infer(self, features: Features) -> Tensor:
        """Return the logits (B, K) to predict from: the head's published way to combine its branches."""
        return self.forward(features).logits

    def hooks(self) -> Hooks:
        """Return what this head asks of the training run; nothing by default."""
        return Hooks()


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

    @classmethod
    def build(cls, backbone: FeatureDims, num_classes: int, **options: Any) -> LinearHead:
        """Return the head that fits this backbone."""
        return cls(backbone.embedding_dim, num_classes, **options)


@dataclass(frozen=True)
class HeadEntry:
    """A head's class and how it is built from (backbone, num_classes, **options)."""

    head: type[Head]
    build: Callable[..., Head]


HEADS: dict[str, HeadEntry] = {
    "linear": HeadEntry(LinearHead, LinearHead.build),
}


def head_entry(name: str) -> HeadEntry:
    """Return the table's entry; UsageError lists the names there are."""
    if name not in HEADS:
        raise UsageError(f"no head is called {name!r}; there is {', '.join(sorted(HEADS))}")
    return HEADS[name]


def build_head(name: str, backbone: FeatureDims, num_classes: int, **options: Any) -> Head:
    """Return the head `name` for this backbone, with `num_classes` >= 2 outputs and the head's own options.

    Raises UsageError for an unknown name (listing the names), for fewer than two classes, and for an option
    that the head does not take.
    """
    entry = head_entry(name)
    if num_classes < 2:
        raise UsageError(f"a classifier needs at least two classes, got {num_classes}")
    try:
        return entry.build(backbone, num_classes, **options)
    except TypeError as error:
        raise UsageError(
            f"the {name} head does not take these options ({', '.join(options)}): {error}"
        ) from None
