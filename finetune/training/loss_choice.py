"""Which loss a training minimises: its name and options, checked against the loss itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from core_losses import LOSSES, build_loss, checked_options, loss_options
from finetune.cli.console import say
from finetune.cli.options import GENERATED_HELP
from finetune.cli.words import Value, Worded, split_word, value_text
from finetune.errors import UsageError
from finetune.runs.config_file import OLD_LOSS_OPTIONS
from finetune.runs.former_losses import word_in_full

SMOOTHING = "label_smoothing"


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
    class_weights: Literal["none", "inverse", "inverse_sqrt"] = "none"
    branches: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def names() -> Iterable[str]:
        """Return the names of all losses."""
        return LOSSES

    def __post_init__(self) -> None:
        name, options = split_word(self.name, "loss")
        twice = [key for key in options if key in self.options or (key == SMOOTHING and self.label_smoothing)]
        if twice:
            raise UsageError(f"loss: {self.name} gives {', '.join(twice)}, which is given beside it too")
        smoothing = options.pop(SMOOTHING, self.label_smoothing)
        if isinstance(smoothing, bool | str):
            raise UsageError(f"loss: {self.name}: {SMOOTHING} must be a number, got {value_text(smoothing)}")
        own = {**self.options, **options}
        chosen = {"name": known_name(name), "options": own, SMOOTHING: smoothing}
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
        return replace(self, options=own, branches=branches)

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
    for branch, word in loss.branches.items():
        key = f"loss.branches.{branch}"
        try:
            refused += _refused(LossConfig(word), f"{key} {word}", heads)
        except UsageError as error:
            refused.append(f"{key}: {error}")
    return refused


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
