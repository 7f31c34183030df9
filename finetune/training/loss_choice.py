"""Which loss a training minimises: its name and options, checked against the loss itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from core_losses import LOSSES, build_loss, checked_options, loss_options
from finetune.cli.console import say
from finetune.cli.options import GENERATED_HELP
from finetune.cli.words import Value, Worded, split_word, value_text
from finetune.errors import UsageError
from finetune.runs.config_file import OLD_LOSS_OPTIONS
from finetune.runs.former_losses import word_in_full

SMOOTHING = "label_smoothing"
Targets = Literal["hard", "sord", "gaussian", "triangular"]
HARD = "hard"
# How a loss is applied: what a word may give beside the loss's own options, with the values of a plain one.
APPLIED: Mapping[str, Any] = MappingProxyType(
    {SMOOTHING: 0.0, "targets": HARD, "target_width": None, "distance": "index"}
)


def loss_names() -> str:
    """Return the names of all losses as help texts and refusals list them."""
    return ", ".join(LOSSES)


@dataclass(frozen=True)
class LossConfig(Worded):
    """The loss: its name, its own options, and how it is applied.

    Args:
        name: the loss, alone or with options as one word, crl:alpha=1:beta=0.5. There are
        options: the loss's own options by name (--loss.options.alpha 1); one that is left out has the loss's
            default. --loss crl:alpha=1 gives name and options at once.
        label_smoothing: fraction of the target spread over all classes, in [0, 1).
        targets: hard (the class alone), or for classes with an order its row of soft targets: sord falls
            exponentially with the distance from the class, gaussian as a bell, triangular gives a fixed share
            to the neighbours. Mixed images get the mixture of their rows. Branches with a target of their own
            keep it.
        target_width: how far soft targets reach: in classes or years, 1 by default; for triangular the share
            of the neighbours, 0.1 by default.
        distance: between classes for sord and gaussian: index (neighbours are 1 apart) or years (between the
            middles of age groups).
        class_weights: none, inverse (1 / frequency) or inverse_sqrt, from the training rows, mean one. The
            weighted mean is taken within each process and each accumulated batch, then averaged.
        branches: the loss of single classifiers of the head, by the branch's name, each as a word
            (adversarial: crl:alpha=1). Main stands for the main logits.

    Raises:
        UsageError: for a word that cannot be read, and an option that is given in the word and beside it.

    >>> LossConfig("crl:alpha=1") == LossConfig("crl", {"alpha": 1})
    True
    """

    OLD_KEYS = MappingProxyType({name: f"options.{name}" for name in OLD_LOSS_OPTIONS})

    name: str = field(default="cel", metadata={GENERATED_HELP: lambda: f"{loss_names()}."})
    options: dict[str, Value] = field(default_factory=dict)
    label_smoothing: float = 0.0
    targets: Targets = "hard"
    target_width: float | None = None
    distance: Literal["index", "years"] = "index"
    class_weights: Literal["none", "inverse", "inverse_sqrt"] = "none"
    branches: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def names() -> Iterable[str]:
        """Return the names of all losses."""
        return LOSSES

    def __post_init__(self) -> None:
        name, options = split_word(self.name, "loss")
        given = {key: getattr(self, key) for key in APPLIED}
        beside = [*self.options, *(key for key, plain in APPLIED.items() if given[key] != plain)]
        if twice := [key for key in options if key in beside]:
            raise UsageError(f"loss: {self.name} gives {', '.join(twice)}, which is given beside it too")
        applied = {key: options.pop(key, given[key]) for key in APPLIED}
        if fault := _kind_fault(applied):
            raise UsageError(f"loss: {self.name}: {fault}")
        chosen = {"name": known_name(name), "options": {**self.options, **options}, **applied}
        for key, value in chosen.items():
            object.__setattr__(self, key, value)

    def parameters(self) -> dict[str, Any]:
        """Return the loss's own options that were given, as keywords of the loss.

        Raises ValueError for an unknown loss, and an option that it does not take or that is of another kind.
        """
        return checked_options(self.name, self.options)

    def resolved(self) -> LossConfig:
        """Return the same choice with every option of the loss, so that a record says what ran.

        >>> LossConfig("crl:beta=0.5").resolved().options
        {'alpha': 1.5, 'beta': 0.5}
        """
        every = {**loss_options(self.name), **self.parameters()}
        branches = {branch: word_in_full(word) for branch, word in self.branches.items()}
        own = {key: value for key, value in every.items() if value is not None}
        width = self.target_width if self.targets == HARD else self.width
        return replace(self, options=own, branches=branches, target_width=width)

    @property
    def width(self) -> float:
        """How far soft targets reach, the default where none was given."""
        from core_losses.ordinal import TARGET_WIDTHS

        return TARGET_WIDTHS[self.targets] if self.target_width is None else self.target_width  # type: ignore[index]

    def rows(self, places: Sequence[float]) -> Any:
        """Return the soft target of every class, a tensor (K, K); None for hard targets.

        Args:
            places: where the K classes lie, in the unit of `distance`.

        Raises ValueError as `core_losses.soft_target_rows` does.
        """
        from core_losses import soft_target_rows

        return None if self.targets == HARD else soft_target_rows(self.targets, places, self.width)  # type: ignore[arg-type]

    def build(self, **more: Any) -> Any:
        """Return the loss, a `core_losses.LossModule`; `more` are keywords that all losses share."""
        return build_loss(self.name, label_smoothing=self.label_smoothing, **self.parameters(), **more)


def known_name(name: str) -> str:
    """Return a loss's name as the table has it, however its letters are written.

    >>> known_name("CRL"), known_name("other")
    ('crl', 'other')
    """
    spelled = {known.lower(): known for known in LOSSES}
    return name if name in LOSSES else spelled.get(name.lower(), name)


def loss_refusals(loss: LossConfig, heads: Sequence[str]) -> list[str]:
    """Return what is wrong with a chosen loss and with those of its branches; say what they warn of.

    Args:
        loss: the choice; its label smoothing is not looked at.
        heads: names of heads, which may be taken for losses.
    """
    refused = _refused(replace(loss, label_smoothing=0.0), f"loss.name {loss.name}", heads)
    refused += [f"loss.{fault}" for fault in target_faults(loss)]
    for branch, word in loss.branches.items():
        key = f"loss.branches.{branch}"
        try:
            own = LossConfig(word)
            refused += _refused(own, f"{key} {word}", heads)
        except UsageError as error:
            refused.append(f"{key}: {error}")
            continue
        if any(getattr(own, name) != APPLIED[name] for name in ("targets", "target_width", "distance")):
            refused.append(f"{key} {word}: soft targets are those of all branches: give --loss.targets")
    return refused


def target_faults(loss: LossConfig) -> list[str]:
    """Return what is wrong with a choice of soft targets, beginning with the option's name."""
    if loss.targets == HARD:
        idle = [key for key in ("target_width", "distance") if getattr(loss, key) != APPLIED[key]]
        return [
            f"{key} changes nothing with targets hard: give targets sord, or leave it out" for key in idle
        ]
    faults = []
    if loss.label_smoothing:
        faults.append(f"targets {loss.targets} and label_smoothing both soften the target: give one of them")
    if loss.targets == "triangular" and loss.distance != "index":
        faults.append("distance years changes nothing with targets triangular, which reach the neighbours")
    try:
        loss.rows((0.0, 1.0))
    except ValueError as error:
        faults.append(str(error))
    return faults


def order_faults(head: str, loss: LossConfig) -> list[str]:
    """Return what of a head and a loss reads the order of the classes, each with its own name."""
    from finetune.models.heads.registry import head_class

    found = [f"the {head} head"] * head_class(head).ordered
    names = [loss.name, *(LossConfig(word).name for word in loss.branches.values())]
    found += [f"the loss {name}" for name in names if name in LOSSES and LOSSES.reads_order(name)]
    return found + [f"soft targets ({loss.targets})"] * (loss.targets != HARD)


def _kind_fault(applied: Mapping[str, Any]) -> str:
    """Return why an option of how a loss is applied is of another kind; "" where all are right."""
    for key in (SMOOTHING, "target_width"):
        value = applied[key]
        if isinstance(value, bool | str) or (value is None and key == SMOOTHING):
            return f"{key} must be a number, got {value_text(value)}"
    known = {"targets": get_args(Targets), "distance": ("index", "years")}
    for key, names in known.items():
        if applied[key] not in names:
            return f"{key} must be one of {', '.join(names)}, got {value_text(applied[key])}"
    return ""


def _refused(loss: LossConfig, key: str, heads: Sequence[str]) -> list[str]:
    try:
        with warnings.catch_warnings(record=True, action="always") as told:
            loss.build()
    except (ValueError, TypeError) as error:
        hint = f"; {loss.name} is a head: --head.name {loss.name}" if loss.name in heads else ""
        return [f"{key}: {error}{hint}"]
    for warning in told:  # a loss warns once in a process: here
        say(f"note: {warning.message}")
    return []
