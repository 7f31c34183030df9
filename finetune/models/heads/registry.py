"""The heads there are: the table by which every head is found, checked and built.

What a head is stands in `finetune.models.heads.base`. Further heads, those of this toolkit's studies as well
as anybody's own, are found by the entry points of installed packages in the group "crl_toolkit.heads": a name
and the class, a subclass of `Head`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from finetune.errors import UsageError
from finetune.models.heads.base import MAIN, FeatureDims, Head
from finetune.models.heads.linear import LinearHead
from finetune.models.heads.margin import ArcFaceHead, ASoftmaxHead, CosFaceHead, LSoftmaxHead
from finetune.models.heads.ordinal import CornHead, CumulativeHead
from finetune.models.heads.years import YearLaplaceHead, YearLogisticHead
from finetune.models.names import head_names as head_names  # its callers find it beside the heads
from finetune.models.names import head_points

# The heads of this room, each in `finetune.models.names` too; `head_names` adds those of installed packages.
HEADS: dict[str, type[Head]] = {
    "linear": LinearHead,
    "lsoftmax": LSoftmaxHead,
    "asoftmax": ASoftmaxHead,
    "cosface": CosFaceHead,
    "arcface": ArcFaceHead,
    "corn": CornHead,
    "cumulative": CumulativeHead,
    "year_laplace": YearLaplaceHead,
    "year_logistic": YearLogisticHead,
}


def head_class(name: str) -> type[Head]:
    """Return the head's class; UsageError lists the names there are."""
    if name in HEADS:
        return HEADS[name]
    if name not in head_points():
        raise UsageError(f"no head is called {name!r}; there is {', '.join(head_names())}")
    found: type[Head] = head_points()[name].load()
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


def unknown_branches(head: str, options: Mapping[str, Any], losses: Iterable[str]) -> list[str]:
    """Return a sentence for every branch that is to have a loss of its own and that the head does not have.

    >>> unknown_branches("linear", {}, ["main", "side"])
    ['loss.branches.side: no branch is called side; the linear head with these options has main']
    """
    names = [MAIN, *head_class(head).branch_names(**resolved(head, options))]
    has = f"the {head} head with these options has {', '.join(names)}"
    return [
        f"loss.branches.{name}: no branch is called {name}; {has}" for name in losses if name not in names
    ]


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
