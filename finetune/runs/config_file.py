"""The configuration of a run folder: written once, compared when the run is resumed."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import DataError, UsageError, listing
from finetune.runs.files import write_bytes

CONFIG_NAME = "config.yaml"
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
    "evaluate.batch_size",
)


def settle_config(
    folder: Path, config: dict[str, Any], allow_change: Sequence[str], free_keys: Sequence[str]
) -> tuple[bool, list[str]]:
    """Write config.yaml, or compare `config` with it; return whether there was one, and the changes.

    The file keeps the first run's text until an allowed change replaces it; free keys never do.

    Raises:
        UsageError: a value changed that neither list covers; all such keys are shown, old -> new.
        DataError: config.yaml is damaged.
    """
    file = folder / CONFIG_NAME
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
    """
    old, new = _flat(former), _flat(config)
    keys = sorted(old.keys() | new.keys())
    return {
        key: f"{old.get(key, _ABSENT)} -> {new.get(key, _ABSENT)}"
        for key in keys
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    }


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(key, each) or key.startswith(f"{each}.") for each in patterns)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    if not isinstance(config, dict):
        raise DataError(f"{file} holds no configuration (a mapping of keys), got {type(config).__name__}")
    return config
