"""A loss or a margin head as one word, crl:alpha=1:beta=0.5, and as the name of a folder."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from core_losses import LOSSES, checked_options, loss_options
from finetune.cli.console import say
from finetune.cli.option_words import suggestion
from finetune.cli.words import split_word, value_text
from finetune.errors import UsageError
from finetune.training.loss_choice import SMOOTHING, LossConfig, known_name, loss_names

MARGIN_HEADS = ("lsoftmax", "asoftmax", "cosface", "arcface")
_told: set[str] = set()  # warnings of losses, each once in a process


@dataclass(frozen=True)
class ChosenLoss:
    """What a word chose: the arm's name, the loss, and the margin head with all of its options."""

    arm_name: str
    loss: LossConfig
    head: str = ""
    head_options: Mapping[str, int | float | bool | str] = field(default_factory=dict)


def parse_word(word: str) -> ChosenLoss:
    """Return what NAME or NAME:OPTION=VALUE[:OPTION=VALUE] chooses.

    A loss takes its own parameters and label_smoothing, a margin head the options of the head. An option
    that is given its default changes nothing, the name included.

    Raises:
        UsageError: for a name or an option that there is not, or a value that cannot be (out of its range).

    >>> parse_word("crl:alpha=1").arm_name, parse_word("crl:alpha=1.5").arm_name
    ('crl-alpha1-beta1', 'crl')
    """
    name, options = split_word(word, "losses")
    if known_name(name) in LOSSES:
        return _loss(word, known_name(name), options)
    if name in MARGIN_HEADS:
        return _head(word, name, options)
    known = [*LOSSES, *MARGIN_HEADS]
    raise UsageError(
        f"losses: there is no loss or margin head {name!r}{suggestion(name.lower(), known, listed=False)}; "
        f"losses: {loss_names()}; margin heads: {', '.join(MARGIN_HEADS)}"
    )


def arm_name(loss: str, parameters: Mapping[str, Any], smoothing: float = 0.0) -> str:
    """Return the name of a loss with these of its own parameters: none where all have their defaults.

    >>> arm_name("crl", {"alpha": 1.0}), arm_name("cel", {}, smoothing=0.1)
    ('crl-alpha1-beta1', 'cel-smoothing0.1')
    """
    defaults = loss_options(loss)
    values = {**defaults, **parameters}
    shown = {} if values == defaults else {key: value for key, value in values.items() if value is not None}
    parts = [f"{key}{value_text(value)}" for key, value in shown.items()]
    return "-".join([loss, *parts, *([f"smoothing{value_text(smoothing)}"] if smoothing else [])])


def _loss(word: str, name: str, options: Mapping[str, Any]) -> ChosenLoss:
    try:
        given = checked_options(name, options, (SMOOTHING,))
        smoothing = given.pop(SMOOTHING, 0.0)
        if not 0 <= smoothing < 1:
            raise UsageError(f"losses: {word}: {SMOOTHING} must lie in [0, 1), got {value_text(smoothing)}")
        loss = LossConfig(name, given, label_smoothing=smoothing)
        with warnings.catch_warnings(record=True, action="always") as told:
            loss.build()
    except (ValueError, TypeError) as error:
        raise UsageError(f"losses: {word}: {error}") from None
    for warning in told:
        message = str(warning.message)
        if message not in _told:
            say(f"note: {message}")
        _told.add(message)
    return ChosenLoss(arm_name(name, given, smoothing), loss.resolved())


def _head(word: str, name: str, options: Mapping[str, Any]) -> ChosenLoss:
    from finetune.models.heads.registry import check_head_options, head_options, resolved

    try:
        check_head_options(name, options)
        _try_head(name, options)
    except UsageError as error:
        raise UsageError(f"losses: {word}: {error}") from None
    changed = {key: value for key, value in options.items() if value != head_options(name)[key]}
    parts = [f"{key}{value_text(value)}" for key, value in sorted(changed.items())]
    return ChosenLoss("-".join([name, *parts]), LossConfig("cel"), name, resolved(name, options))


def _try_head(name: str, options: Mapping[str, Any]) -> None:
    """Raise UsageError for options out of their range: the head itself checks them as it is built.

    It is built on the meta device: no memory, and no random number is drawn.
    """
    import torch

    from finetune.models.heads.registry import head_class

    build: Any = head_class(name).build
    with torch.device("meta"):
        build(SimpleNamespace(embedding_dim=2), 2, **options)
