"""What stands on a backbone: the head contract, the linear head, and the table of heads.

Further heads, those of this toolkit's studies as well as anybody's own, are found by the entry points of
installed packages in the group "crl_toolkit.heads": a name and the class, a subclass of `Head`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from types import SimpleNamespace
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Literal,
    Protocol,
    Self,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from torch import Tensor, nn

from finetune.errors import UsageError

if TYPE_CHECKING:
    from finetune.backbone import Features, Tap
    from finetune.model import Classifier

ENTRY_POINTS = "crl_toolkit.heads"


# Normalised pictures and their targets, batch by batch.
Pictures = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Branch:
    """A further classifier that is trained beside the main logits.

    Args:
        logits: (B', K'), which may have other rows and classes than the main ones.
        target: what these logits should say, int64 (B',) or soft (B', K'); None means the batch's own target.
        weight: of this branch's loss in the sum.
        domain: True for a question about the picture's making (original or shuffled) rather than its class
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
        prepare: called once as (model, pictures) before the first step, to initialise weights from the data.
            `pictures` can be gone through as often as wanted: every training picture in the order of the
            table, prepared as in evaluation, as (normalised images (B, 3, S, S) on the model's device, target
            int64 (B,)). Every process gets all of them, and must come to the same weights.
        batch_transform: called as (images, target, generator) on every training batch, after normalisation;
            it may enlarge the batch and returns the new images and target. Not together with mixup or
            cutmix.
        views: how often each training picture is drawn with an augmentation of its own; above 1 the images
            that batch_transform gets are (B * views, 3, S, S), the views of one picture side by side, beside
            a target of (B,).
    """

    prepare: Callable[[Classifier, Pictures], None] | None = None
    batch_transform: Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, Tensor]] | None = None
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
    head that can take the map of a second backbone (`TwinBackbone`).
    """

    default_taps: ClassVar[tuple[Tap, ...]] = ()
    uses_embedding: ClassVar[bool | Literal["pooled"]] = True
    reads_second: ClassVar[bool] = False

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
        """Return what a picture of this head's reasons is drawn from, by name; nothing by default."""
        del features
        return {}


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


# The heads of this room; `head_names` adds those of installed packages.
HEADS: dict[str, type[Head]] = {
    "linear": LinearHead,
}


def head_names() -> list[str]:
    """Return the names of all heads there are, sorted; no head is imported."""
    return sorted({*HEADS, *_entry_points()})


def head_class(name: str) -> type[Head]:
    """Return the head's class; UsageError lists the names there are."""
    if name in HEADS:
        return HEADS[name]
    if name not in _entry_points():
        raise UsageError(f"no head is called {name!r}; there is {', '.join(head_names())}")
    found: type[Head] = _entry_points()[name].load()
    return found


def head_options(name: str) -> dict[str, Any]:
    """Return a head's own options with their defaults.

    >>> head_options("linear")
    {'dropout': 0.0}
    """
    parameters = inspect.signature(head_class(name).build).parameters
    skipped = ("backbone", "num_classes")
    return {key: item.default for key, item in parameters.items() if key not in skipped}


def resolved(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option of a head: the given ones, and the defaults of the others.

    A study puts them into its configuration before it opens the run folder, so that config.yaml, the
    checkpoints and the finished model say what ran, whatever the defaults are later. Files that hold only
    some of the options load all the same.

    >>> resolved("linear", {}), resolved("linear", {"dropout": 0.5})
    ({'dropout': 0.0}, {'dropout': 0.5})
    """
    return {**head_options(name), **options}


def build_head(name: str, backbone: FeatureDims, num_classes: int, **options: Any) -> Head:
    """Return the head `name` for this backbone, with `num_classes` >= 2 outputs and the head's own options.

    Raises UsageError for an unknown name (listing the names), for fewer than two classes, and for an option
    that the head does not take (listing those it takes) or cannot have.
    """
    head = head_class(name)
    if num_classes < 2:
        raise UsageError(f"a classifier needs at least two classes, got {num_classes}")
    check_head_options(name, options)
    return head.build(backbone, num_classes, **options)


def check_head_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise UsageError for options that are of another kind, or that the head does not have."""
    known = head_options(name)
    unknown = [option for option in options if option not in known]
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise UsageError(f"the {name} head does not take the option {', '.join(unknown)}; {takes}")
    build = head_class(name).build
    for option, value in options.items():
        kind = build.__annotations__[option]  # alone: what a head needs for type checks only is not imported
        named = SimpleNamespace(__annotations__={option: kind})
        hint = get_type_hints(named, vars(sys.modules[build.__module__]))[option]
        if not _fits(value, hint):
            raise UsageError(f"the {name} head's option {option} must be {kind}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    """Return whether an option's value is of its annotated kind; whole numbers may stand for any number."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_args(hint):
        return any(_fits(value, part) for part in get_args(hint))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


@cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}
