"""The heads there are: the linear head, and the table by which every head is found, checked and built.

What a head is stands in `finetune.models.heads.base`. Further heads, those of this toolkit's studies as well
as anybody's own, are found by the entry points of installed packages in the group "crl_toolkit.heads": a name
and the class, a subclass of `Head`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from finetune.errors import UsageError
from finetune.models.heads.base import Branch, FeatureDims, Head, HeadOutput, Hooks, Pictures
from finetune.models.heads.margin import ArcFaceHead, ASoftmaxHead, CosFaceHead, LSoftmaxHead

if TYPE_CHECKING:
    from finetune.models.backbone import Features

__all__ = [
    "HEADS",
    "ASoftmaxHead",
    "ArcFaceHead",
    "Branch",
    "CosFaceHead",
    "FeatureDims",
    "Head",
    "HeadOutput",
    "Hooks",
    "LSoftmaxHead",
    "LinearHead",
    "Pictures",
    "build_head",
    "check_head_options",
    "head_class",
    "head_names",
    "head_options",
    "resolved",
]

ENTRY_POINTS = "crl_toolkit.heads"


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
    "lsoftmax": LSoftmaxHead,
    "asoftmax": ASoftmaxHead,
    "cosface": CosFaceHead,
    "arcface": ArcFaceHead,
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
