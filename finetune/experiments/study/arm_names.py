"""A loss or a margin head as one word, crl:alpha=1:beta=0.5, and as the name of a folder."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from finetune.cli.console import say
from finetune.cli.options import suggestion
from finetune.errors import UsageError
from finetune.training.config import LossConfig

MARGIN_HEADS = ("lsoftmax", "asoftmax", "cosface", "arcface")
SMOOTHING = "label_smoothing"
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
    from core_losses import LOSSES

    name, *parts = word.strip().split(":")
    options = dict(_option(word, part) for part in parts)
    if len(options) < len(parts):
        raise UsageError(f"losses: {word} gives an option twice")
    if name in LOSSES:
        return _loss(word, name, options)
    if name in MARGIN_HEADS:
        return _head(word, name, options)
    known = [*LOSSES, *MARGIN_HEADS]
    raise UsageError(
        f"losses: there is no loss or margin head {name!r}{suggestion(name, known, listed=False)}; losses: "
        f"{', '.join(LOSSES)}; margin heads: {', '.join(MARGIN_HEADS)}"
    )


def arm_name(loss: str, parameters: Mapping[str, Any], smoothing: float = 0.0) -> str:
    """Return the name of a loss with these of its own parameters: none where all have their defaults.

    >>> arm_name("crl", {"alpha": 1.0}), arm_name("cel", {}, smoothing=0.1)
    ('crl-alpha1-beta1', 'cel-smoothing0.1')
    """
    defaults = own_defaults(loss)
    values = {**defaults, **parameters}
    parts = [] if values == defaults else [f"{key}{value_text(value)}" for key, value in values.items()]
    return "-".join([loss, *parts, *([f"smoothing{value_text(smoothing)}"] if smoothing else [])])


def own_defaults(loss: str) -> dict[str, float | None]:
    """Return the loss's own parameters with their defaults.

    >>> own_defaults("crl"), own_defaults("cel")
    ({'alpha': 1.5, 'beta': 1.0}, {})
    """
    import inspect

    from core_losses import LOSSES

    known = LossConfig.__dataclass_fields__
    parameters = inspect.signature(LOSSES[loss]).parameters
    return {key: item.default for key, item in parameters.items() if key in known and key != SMOOTHING}


def value_text(value: object) -> str:
    """Return a value as short as it can be told.

    >>> value_text(1.0), value_text(0.25), value_text(True)
    ('1', '0.25', 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, int | float) else str(value)


def _option(word: str, part: str) -> tuple[str, int | float | bool | str]:
    key, equals, text = part.partition("=")
    if not (key and equals and text):
        raise UsageError(
            f"losses: {word!r} must read NAME or NAME:OPTION=VALUE:OPTION=VALUE, got {part!r} in it"
        )
    if text.lower() in ("true", "false"):
        return key, text.lower() == "true"
    for kind in (int, float):
        try:
            return key, kind(text)
        except ValueError:
            continue
    return key, text


def _loss(word: str, name: str, options: Mapping[str, Any]) -> ChosenLoss:
    own = own_defaults(name)
    unknown = [key for key in options if key not in own and key != SMOOTHING]
    if unknown:
        raise UsageError(
            f"losses: {word}: {name} takes {', '.join([*own, SMOOTHING])}, not {', '.join(unknown)}"
        )
    for key, value in options.items():
        if isinstance(value, bool | str) or not math.isfinite(value):
            raise UsageError(f"losses: {word}: {key} must be a number, got {value_text(value)}")
    given = {key: float(value) for key, value in options.items()}
    smoothing = given.pop(SMOOTHING, 0.0)
    if not 0 <= smoothing < 1:
        raise UsageError(f"losses: {word}: {SMOOTHING} must lie in [0, 1), got {value_text(smoothing)}")
    _check_loss(word, name, given)
    values: dict[str, Any] = {**own, **given}
    loss = replace(LossConfig(name, label_smoothing=smoothing), **values)
    return ChosenLoss(arm_name(name, given, smoothing), loss)


def _check_loss(word: str, name: str, parameters: Mapping[str, float]) -> None:
    from core_losses import build_loss

    try:
        with warnings.catch_warnings(record=True, action="always") as told:
            build_loss(name, **parameters)
    except (ValueError, TypeError) as error:
        raise UsageError(f"losses: {word}: {error}") from None
    for warning in told:
        message = str(warning.message)
        if message not in _told:
            say(f"note: {message}")
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
