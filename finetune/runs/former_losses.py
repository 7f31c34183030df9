"""Losses whose default became another one: what a stored choice means where it leaves the option out.

NLLR was its exact form unless a clamp was given; now it is the published one, with posteriors clamped. What
is written today tells the clamp always, so a stored choice without one is the exact form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from core_losses.closed_forms import PUBLISHED_CLAMP, exact_title

# By loss: the options with another default, as they were meant before, and as they are meant today.
FORMER: Mapping[str, Mapping[str, float]] = {"nllr": {"clamp": 0.0}}
TODAY: Mapping[str, Mapping[str, float]] = {"nllr": {"clamp": PUBLISHED_CLAMP}}


def told_in_full(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that tells today's defaults of these options, as it is to be stored.

    >>> told_in_full({"losses": ["cel", "nllr"]})
    {'losses': ['cel', 'nllr:clamp=1e-07']}
    """
    return _with_options(config, TODAY)


def as_meant(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration with what it left out: the defaults of the time.

    >>> as_meant({"loss": {"name": "nllr", "options": {}}, "losses": ["nllr", "nllr:clamp=1e-3"]})
    {'loss': {'name': 'nllr', 'options': {'clamp': 0.0}}, 'losses': ['nllr:clamp=0', 'nllr:clamp=1e-3']}
    """
    return _with_options(config, FORMER)


def is_stored(config: Mapping[str, Any]) -> bool:
    """Return whether a file's content is that of a run folder, or has a null for such an option.

    A program wrote it then: a run folder's tells where it lies, and null stood for the default of the time.
    """
    run, loss = config.get("run"), config.get("loss")
    if isinstance(run, Mapping) and run.get("dir") and "device" in config:
        return True
    if not isinstance(loss, Mapping):
        return False
    own = loss.get("options")
    places = (loss, own if isinstance(own, Mapping) else {})
    former = FORMER.get(str(loss.get("name")), {})
    return any(option in place and place[option] is None for option in former for place in places)


def recorded_loss(loss: Mapping[str, Any]) -> dict[str, Any]:
    """Return a loss of run.json, options beside its name, with what null or nothing meant at the time.

    >>> recorded_loss({"name": "nllr", "clamp": None}), recorded_loss({"name": "crl", "alpha": 1.0})
    ({'name': 'nllr', 'clamp': 0.0}, {'name': 'crl', 'alpha': 1.0})
    """
    former = FORMER.get(str(loss.get("name")), {})
    missing = {option: value for option, value in former.items() if loss.get(option) is None}
    return _with_branches({**loss, **missing}, FORMER)


def loss_text(loss: Mapping[str, Any]) -> str:
    """Return a stored loss as words, with the parameters it was given.

    NLLR that stores no clamp was the exact form.

    >>> loss_text({"name": "crl", "alpha": 1.5, "beta": 1, "label_smoothing": 0.0, "class_weights": "none"})
    'crl (alpha 1.5, beta 1)'
    >>> loss_text({"name": "nllr", "clamp": None}), loss_text({"name": "nllr", "clamp": 1e-7})
    ('nllr, exact', 'nllr (clamp 1e-07)')
    """
    own = recorded_loss(loss)
    name, own = exact_title(str(own.pop("name", "unknown loss")), own)
    given = [f"{key} {_plain(value)}" for key, value in own.items() if value not in (None, "none", "", {})]
    given = [text for text in given if text not in ("label_smoothing 0.0", "label_smoothing 0")]
    return f"{name} ({', '.join(given)})" if given else name


def _plain(value: Any) -> str:
    """Return a value as words: the losses of branches by their names."""
    return (
        ", ".join(f"{key} {own}" for key, own in value.items()) if isinstance(value, Mapping) else str(value)
    )


def word_in_full(word: str, options: Mapping[str, Mapping[str, float]] = TODAY) -> str:
    """Return a loss's word with these options where it gives none of them.

    >>> word_in_full("nllr"), word_in_full("crl:alpha=1"), word_in_full("nllr", FORMER)
    ('nllr:clamp=1e-07', 'crl:alpha=1', 'nllr:clamp=0')
    """
    name, *given = word.strip().split(":")
    known = [part.partition("=")[0] for part in given]
    more = {key: value for key, value in options.get(name.lower(), {}).items() if key not in known}
    return ":".join([word, *(f"{key}={value:g}" for key, value in more.items())])


def todays_arm(name: str) -> str:
    """Return what an arm of a study of that time is called now.

    >>> todays_arm("nllr-smoothing0.1"), todays_arm("nllr-clamp1e-07"), todays_arm("crl-alpha1-beta1")
    ('nllr-clamp0-smoothing0.1', 'nllr', 'crl-alpha1-beta1')
    """
    loss, *parts = re.split(r"-(?=[a-z])", name)
    for option, value in TODAY.get(loss, {}).items():
        told = f"{option}{value:g}"
        if told in parts:
            parts.remove(told)
        elif not any(part.startswith(option) for part in parts):
            parts = [f"{option}{FORMER[loss][option]:g}", *parts]
    return "-".join([loss, *parts])


def _with_options(config: Mapping[str, Any], options: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    told, loss, losses = dict(config), config.get("loss"), config.get("losses")
    if isinstance(loss, str):
        told["loss"] = word_in_full(loss, options)
    elif isinstance(loss, Mapping) and isinstance(loss.get("name"), str):
        told["loss"] = _with_branches(_section_in_full(loss, options), options)
    if isinstance(losses, list | tuple):
        told["losses"] = [word_in_full(each, options) if isinstance(each, str) else each for each in losses]
    return told


def _section_in_full(
    loss: Mapping[str, Any], options: Mapping[str, Mapping[str, float]]
) -> Mapping[str, Any]:
    """Return a section with `name` and `options`; one with its options beside the name keeps those."""
    more = options.get(loss["name"].lower(), {})
    more = {key: value for key, value in more.items() if loss.get(key) is None}
    if not more:
        return loss
    own = loss.get("options")
    given = {k: v for k, v in own.items() if v is not None} if isinstance(own, Mapping) else {}
    return {**loss, "options": {**more, **given}}


def _with_branches(loss: Mapping[str, Any], options: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    branches = loss.get("branches")
    if not isinstance(branches, Mapping):
        return dict(loss)
    return {**loss, "branches": {key: word_in_full(str(each), options) for key, each in branches.items()}}
