"""A loss or a head as one word, crl:alpha=1:beta=0.5, and as the name of a folder."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, get_args

from core_losses import LOSSES, checked_options, loss_options
from finetune.cli.console import say
from finetune.cli.option_words import suggestion
from finetune.cli.words import split_word, value_text
from finetune.errors import UsageError
from finetune.models.names import MARGIN_HEADS, ORDINAL_HEADS
from finetune.training.loss_choice import (
    APPLIED,
    HARD,
    SMOOTHING,
    LossConfig,
    Targets,
    known_name,
    loss_names,
    target_faults,
)

HEAD = "head"  # what a loss's word may give: the head that stands in the linear one's place
_told: set[str] = set()  # warnings of losses, each once in a process


@dataclass(frozen=True)
class ChosenLoss:
    """What a word chose: the arm's name, the loss, and the head with all of its options, if it names one."""

    arm_name: str
    loss: LossConfig
    head: str = ""
    head_options: Mapping[str, int | float | bool | str] = field(default_factory=dict)


def parse_word(word: str) -> ChosenLoss:
    """Return what NAME or NAME:OPTION=VALUE[:OPTION=VALUE] chooses.

    A loss takes its own parameters, label_smoothing, targets with target_width and distance, and a head of
    ordered classes to stand on; a head takes its own options, and cross-entropy. An option that is given its
    default changes nothing, the name included.

    Raises:
        UsageError: for a name or an option that there is not, or a value that cannot be (out of its range).

    >>> parse_word("crl:alpha=1").arm_name, parse_word("crl:alpha=1.5").arm_name
    ('crl-alpha1-beta1', 'crl')
    >>> parse_word("cel:targets=sord").arm_name, parse_word("crl:head=corn").arm_name
    ('cel-sord', 'crl-corn')
    """
    name, options = split_word(word, "losses")
    if known_name(name) in LOSSES:
        return _loss(word, known_name(name), options)
    if name in (*MARGIN_HEADS, *ORDINAL_HEADS):
        return _head(word, name, options)
    known = [*LOSSES, *MARGIN_HEADS, *ORDINAL_HEADS]
    raise UsageError(
        f"losses: there is no loss or head {name!r}{suggestion(name.lower(), known, listed=False)}; "
        f"losses: {loss_names()}; margin heads: {', '.join(MARGIN_HEADS)}; heads of ordered classes: "
        f"{', '.join(ORDINAL_HEADS)}"
    )


def word_of(name: str) -> str:
    """Return the word of an arm's name; the name itself where it is no word's, such as a control's.

    >>> word_of("crl-alpha1-beta0.5"), word_of("cel-sord-width2-corn")
    ('crl:alpha=1:beta=0.5', 'cel:targets=sord:target_width=2:head=corn')
    """
    loss, *options = re.split(r"-(?=[a-z])", name)
    parts = [re.sub(r"(?<=[a-z])(?=[0-9.-]|true$|false$)", "=", option, count=1) for option in options]
    full = {"smoothing=": f"{SMOOTHING}=", "width=": "target_width=", "years": "distance=years"}
    full |= {each: f"targets={each}" for each in get_args(Targets)}
    full |= {each: f"{HEAD}={each}" for each in ORDINAL_HEADS}
    parts = [
        next((told + part[len(key) :] for key, told in full.items() if part.startswith(key)), part)
        for part in parts
    ]
    word = ":".join([loss, *parts])
    try:
        return word if parse_word(word).arm_name == name else name
    except UsageError:
        return name


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
    head, rest = options.get(HEAD, ""), {key: value for key, value in options.items() if key != HEAD}
    if HEAD in options and head not in ORDINAL_HEADS:
        raise UsageError(
            f"losses: {word}: a loss stands on the study's own head or on {', '.join(ORDINAL_HEADS)}, "
            f"got head={head}"
        )
    applied = {key: rest.pop(key) for key in APPLIED if key in rest}
    try:
        given = checked_options(name, rest, (*APPLIED, HEAD))
        loss = LossConfig(name, given, **applied)
        if not 0 <= loss.label_smoothing < 1:
            told = value_text(loss.label_smoothing)
            raise UsageError(f"losses: {word}: {SMOOTHING} must lie in [0, 1), got {told}")
        for fault in target_faults(loss):
            raise UsageError(f"losses: {word}: {fault}")
        with warnings.catch_warnings(record=True, action="always") as told_by_loss:
            loss.build()
    except (ValueError, TypeError) as error:
        raise UsageError(f"losses: {word}: {error}") from None
    for warning in told_by_loss:
        say_once(f"note: {warning.message}")
    full = "-".join([arm_name(name, given, loss.label_smoothing), *_target_parts(loss)])
    if not head:
        return ChosenLoss(full, loss.resolved())
    stands = _head(word, str(head), {})
    return replace(stands, arm_name=head if full == "cel" else f"{full}-{head}", loss=loss.resolved())


def _target_parts(loss: LossConfig) -> list[str]:
    """Return what soft targets add to an arm's name: the kind, a width that is not the default, years."""
    if loss.targets == HARD:
        return []
    usual = loss.width == replace(loss, target_width=None).width
    width = [] if usual else [f"width{value_text(loss.width)}"]
    return [loss.targets, *width, *(["years"] if loss.distance == "years" else [])]


def say_once(message: str) -> None:
    """Say something once in a process."""
    if message not in _told:
        say(message)
    _told.add(message)


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
