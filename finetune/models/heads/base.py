"""The head contract: what stands on a backbone, what it says of a batch, and what it may ask of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

import numpy as np
from torch import Tensor, nn

if TYPE_CHECKING:
    from finetune.models.backbone import Features, Tap

# Normalised images and their targets, batch by batch.
Pictures = Iterable[tuple[Tensor, Tensor]]
MAIN = "main"  # what the main logits are called beside the branches


@dataclass(frozen=True)
class Branch:
    """A further classifier that is trained beside the main logits.

    Args:
        logits: (B', K'), which may have other rows and classes than the main ones.
        target: what these logits should say, int64 (B',) or soft (B', K'); None means the batch's own target.
        weight: of this branch's loss in the sum.
        domain: True for a question about the image's making (original or shuffled) rather than its class
            alone; it stays with cross-entropy whatever the class loss is, unless it is replaced by name.
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
        maps: images for explanations (attention, detector responses) by name; empty if it has none.
        logged: scalars by name that are averaged over the epoch's images and written down as train_<name>.
        plain: where the logits carry a margin, those without it (B, K), without gradient: the ones that the
            training accuracy counts. None where the logits are plain themselves.
    """

    logits: Tensor
    branches: Mapping[str, Branch] = field(default_factory=dict)
    terms: Mapping[str, tuple[Tensor, float]] = field(default_factory=dict)
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    logged: Mapping[str, Tensor] = field(default_factory=dict)
    plain: Tensor | None = None


class HostModel(Protocol):
    """What the hooks of a head may use of the model that the head is part of (`Classifier`)."""

    training: bool

    @property
    def backbone(self) -> Callable[[Tensor], Features]:
        """Normalised images (B, 3, S, S) to the features that the head reads."""

    def eval(self) -> Any:
        """Set evaluation mode."""

    def train(self, mode: bool = True) -> Any:
        """Set training mode, or evaluation mode where `mode` is False."""


@dataclass(frozen=True)
class Hooks:
    """What a head may ask of the training run beside gradients.

    Args:
        prepare: called once as (model, images) before the first step, to initialise weights from the data.
            `pictures` can be gone through as often as wanted: every training image in the order of the
            table, prepared as in evaluation, as (normalised images (B, 3, S, S) on the model's device, target
            int64 (B,)). Every process gets all of them, and must come to the same weights.
        batch_transform: called as (images, target, generator) on every training batch, after normalisation;
            it may enlarge the batch and returns the new images and target. Not together with mixup or
            cutmix.
        batch_plan: called as (targets in the batch, generator) before the batch goes to the device; returns
            what batch_transform is to do, int64. batch_transform then gets that in place of the generator, on
            the device: it travels with the target, so that the host does not wait for it.
        views: how often each training image is drawn with an augmentation of its own; above 1 the images
            that batch_transform gets are (B * views, 3, S, S), the views of one image side by side, beside
            a target of (B,).
    """

    prepare: Callable[[HostModel, Pictures], None] | None = None
    batch_transform: Callable[[Tensor, Tensor, Any], tuple[Tensor, Tensor]] | None = None
    batch_plan: Callable[[int, np.random.Generator], Tensor] | None = None
    views: int = 1


class FeatureDims(Protocol):
    """What a head needs to know of a backbone before it is built."""

    @property
    def name(self) -> str:
        """The backbone's name, for messages."""

    @property
    def embedding_dim(self) -> int:
        """D, the length of the embedding."""

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The maps that it gives, in order."""

    @property
    def map_dims(self) -> dict[Tap, int]:
        """Channels of each tapped map."""


class Head(nn.Module):
    """Features in, logits out; everything learned beside the backbone lives here, never in a loss.

    `default_taps` are the maps that a head reads unless it is told otherwise (see `FeatureBackbone`), and
    `uses_embedding` says whether it reads the pooled vector; "pooled" takes it as it is, whatever convolution
    or norm helps to make it (EfficientNet's, ConvNeXt's), but goes without where hidden layers do (VGG's two
    of 4096; the embedding is then empty). Both decide how the backbone is built. `reads_second` is True for a
    head that can take the map of a second backbone (`TwinBackbone`). `needs_classes` is True for a head that
    trains on class indices only, so that images cannot be mixed. `ordered` is True for a head that reads the
    order of the classes, and `title` is what tables of a study call it.
    """

    default_taps: ClassVar[tuple[Tap, ...]] = ()
    uses_embedding: ClassVar[bool | Literal["pooled"]] = True
    reads_second: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    title: ClassVar[str] = ""

    @classmethod
    def build(cls, *backbone_and_classes: Any, **options: Any) -> Self:
        """Return the head for (backbone: FeatureDims, num_classes: int, *, option: type = default, ...).

        The keyword arguments of a head's own method are its options, checked by their annotations.
        """
        raise NotImplementedError

    @classmethod
    def branch_names(cls, **options: Any) -> tuple[str, ...]:
        """Return the names of all branches that a head with these options (every one of them) may give.

        Only these, and "main", can have a loss of their own; none by default.
        """
        del options
        return ()

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:
        """Return everything that the objective needs; `target` serves heads whose logits depend on it."""
        raise NotImplementedError

    def infer(self, features: Features) -> Tensor:
        """Return the logits (B, K) to predict from: the head's published way to combine its branches."""
        return self.forward(features).logits

    def map_classifier(self) -> nn.Linear | None:
        """Return the linear layer on the pooled last map whose output `infer` is; None for any other way.

        With one, its weights on the map itself are class activation maps, which an exported file can carry.
        """
        return None

    def hooks(self) -> Hooks:
        """Return what this head asks of the training run; nothing by default."""
        return Hooks()

    def explain(self, features: Features) -> Mapping[str, Tensor]:
        """Return what a figure of this head's reasons is drawn from, by name; nothing by default."""
        del features
        return {}
