"""The configuration of a run folder: written once, compared when the run is resumed."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import DataError, UsageError, listing
from finetune.runs.files import write_bytes
from finetune.runs.former_losses import FORMER, as_meant, told_in_full
from finetune.runs.parse import parse_yaml, text_of

CONFIG_NAME = "config.yaml"
# Options of losses that stood beside the loss's name until the options had a place of their own.
OLD_LOSS_OPTIONS = ("alpha", "beta", "gamma", "a", "clamp")
_ABSENT = "(absent)"

# What may differ between a run and its resumption: where it lies and how fast it goes, not what is learned.
FREE_KEYS = (
    "device",
    "run.dir",
    "run.resume",
    "run.allow_change",
    "run.checkpoint_minutes",
    "run.cache",
    "run.workers",
    "run.track",
    "evaluate.batch_size",
    "evaluate.thumbnails",
)

# Options that came later, each with the value that does what was done before: a run without one had it.
LATER: dict[str, Any] = {
    "data.name": None,
    "data.odd_names": "error",
    "data.crops": None,
    "data.crop_margin": 0.05,
    "data.faeb": None,
    "data.splits": "faeb",
    "data.slice_columns": [],
    "evaluate.thumbnails": False,
    "model.unmapped": "refuse",
    "loss.targets": "hard",
    "loss.target_width": None,
    "loss.distance": "index",
}


def settle_config(
    folder: Path, config: dict[str, Any], allow_change: Sequence[str], free_keys: Sequence[str]
) -> tuple[bool, list[str]]:
    """Write config.yaml, or compare `config` with it; return whether there was one, and the changes.

    The file keeps the first run's text until an allowed change replaces it; free keys never do.

    Raises:
        UsageError: a value changed that neither list covers; all such keys are shown, old -> new.
        DataError: config.yaml is damaged.
    """
    file, config = folder / CONFIG_NAME, told_in_full(config)
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    if not file.exists():
        write_bytes(file, text.encode())
        return False, []
    changes = {
        key: change
        for key, change in config_changes(_read_config(file), yaml.safe_load(text)).items()
        if not _matches(key, free_keys)
    }
    refused = [f"{key}: {change}" for key, change in changes.items() if not _matches(key, allow_change)]
    if refused:
        raise UsageError(
            f"the configuration differs from the run in {folder}:\n{listing(refused, 40)}\n"
            "Take the old values, choose another folder, or allow a change by --run.allow_change KEY."
        )
    if changes:
        write_bytes(file, text.encode())
    return True, [f"{key}: {change}" for key, change in changes.items()]


def config_changes(former: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Return {dotted key: "old -> new"} for every value that differs, sorted by key.

    >>> config_changes({"loss": {"alpha": 1.5}}, {"loss": {"alpha": 2, "beta": 1}})
    {'loss.alpha': '1.5 -> 2', 'loss.beta': '(absent) -> 1'}
    >>> config_changes({"options": {}}, {"options": {"alpha": 2}})
    {'options.alpha': '(absent) -> 2'}
    >>> config_changes({"run": {"compile": False}}, {"run": {"compile": "auto"}})
    {}
    >>> config_changes({"data": {}}, {"data": {"faeb": None, "name": "fgnet"}})
    {'data.name': '(absent) -> fgnet'}
    >>> [config_changes({}, {"data": {"slice_columns": names}}) for names in ([], ["camera"])]
    [{}, {'data.slice_columns': "(absent) -> ['camera']"}]
    """
    old, new = _flat(former), _flat(config)
    filled = {key.rpartition(".")[0] for key in (*old, *new)}
    keys = sorted(key for key in old.keys() | new.keys() if key not in filled)
    return {
        key: f"{old.get(key, _ABSENT)} -> {new.get(key, _ABSENT)}"
        for key in keys
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
        and not _is_left_open(key, old.get(key), new.get(key))
        and not is_later(key, old, new)
    }


def _is_left_open(key: str, old: Any, new: Any) -> bool:
    """Return whether a run that compiled when asked alone, as false meant, is now left to what it began with.

    Auto goes on as the checkpoint says.
    """
    return key == "run.compile" and old is False and new == "auto"


def is_later(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether one of two runs has an option that came later, with the value that changes nothing."""
    here, there = old.get(key, _ABSENT), new.get(key, _ABSENT)
    return key in LATER and _ABSENT in (here, there) and LATER[key] in (here, there)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _matches(key: str, patterns: Sequence[str]) -> bool:
    names = [key, key.replace("loss.options.", "loss.")]  # its key of an earlier release is understood too
    return any(
        fnmatch.fnmatchcase(name, each) or name.startswith(f"{each}.") for each in patterns for name in names
    )


def _read_config(file: Path) -> dict[str, Any]:
    """Return a config.yaml as plain values in today's form; DataError where it cannot be read."""
    try:
        config = parse_yaml(text_of(file.read_bytes()))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    if not isinstance(config, dict):
        raise DataError(f"{file} holds no configuration (a mapping of keys), got {type(config).__name__}")
    return in_todays_form(config)


def in_todays_form(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration with the loss's options where they stand now, all of them.

    An earlier release wrote them beside the loss's name, null for the loss's default. The release after this
    one no longer reads that. An option whose default has changed since has the default of the time.

    >>> old = {"name": "crl", "alpha": 1.0, "beta": None, "gamma": None, "a": None, "clamp": None}
    >>> in_todays_form({"loss": old})
    {'loss': {'name': 'crl', 'options': {'alpha': 1.0, 'beta': 1.0}}}
    """
    from core_losses import LOSSES, loss_options

    loss = config.get("loss")
    if (
        not isinstance(loss, Mapping)
        or "name" not in loss
        or not any(key in loss for key in OLD_LOSS_OPTIONS)
    ):
        return as_meant(config)
    name = loss["name"]
    options = {**loss_options(name), **FORMER.get(name, {})} if name in LOSSES else {}
    options |= {key: loss[key] for key in OLD_LOSS_OPTIONS if loss.get(key) is not None}
    options = {key: value for key, value in options.items() if value is not None}
    rest = {key: value for key, value in loss.items() if key not in (*OLD_LOSS_OPTIONS, "name")}
    return as_meant({**config, "loss": {"name": name, "options": options, **rest}})
