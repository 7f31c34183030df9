"""What two runs must share to be compared, and every setting in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from finetune.errors import DataError, listing
from finetune.experiments.records.record import recorded_format
from finetune.runs.config_file import is_later

# What two results must share before they may be compared at all.
IDENTITY = ("manifest", "policy", "split", "class_names")
PICTURES = "pictures"  # the images' bytes; results of previous versions do not record them

# What run.json records about how a model was made, and about the machine it was made on.
SETTINGS = (
    "protocol",
    "backbone",
    "head",
    "loss",
    "pretraining",
    "preprocess",
    "image_size",
    "train",
    "epochs",
    "batch_size",
    "processes",
    "seed",
    "precision",
    "test_crops",
)
ENVIRONMENT = ("device", "threads", "versions")

# Parts of config.yaml that name places and machines, or that the identity covers already.
NOT_SETTINGS = ("run", "device", "devices", "folds", "data")
# What of the data section is a choice about what is shown; the rest the identity covers or it is a place.
DATA_SETTINGS = ("crop", "box_margin", "val_share", "split_seed")
NOT_SETTING_KEYS = ("evaluate.batch_size", "evaluate.thumbnails", "pretraining.location", "device.asked")


class Result(Protocol):
    """What a comparison needs of a finished run: its folder and what run.json and config.yaml record."""

    @property
    def folder(self) -> Path:
        """The run folder."""

    @property
    def run(self) -> Mapping[str, Any]:
        """The contents of run.json."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The contents of config.yaml."""


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return [{field, a, b}] for every dotted field whose values differ; None where one lacks it.

    An option that came later and stands at what was done before is no difference.

    >>> differing({"loss": {"name": "crl", "alpha": 1.5}, "seed": 0}, {"loss": {"name": "cel"}, "seed": 0})
    [{'field': 'loss.alpha', 'a': 1.5, 'b': None}, {'field': 'loss.name', 'a': 'crl', 'b': 'cel'}]
    """
    flat_a, flat_b = _flat(a), _flat(b)
    names = sorted({*flat_a, *flat_b} - set(NOT_SETTING_KEYS))
    pairs = [(name, flat_a.get(name), flat_b.get(name)) for name in names]
    return [
        {"field": name, "a": left, "b": right}
        for name, left, right in pairs
        if left != right and not is_later(name, flat_a, flat_b)
    ]


def check_comparable(a: Result, b: Result) -> None:
    """Raise DataError, listing both values, when what both must share differs or is not recorded."""
    broken = []
    for name in IDENTITY:
        left, right = a.run.get(name), b.run.get(name)
        if left is None or left != right:
            broken.append(f"{name}: {_told(left)} and {_told(right)}")
    pictures = a.run.get(PICTURES), b.run.get(PICTURES)
    if None not in pictures and pictures[0] != pictures[1]:
        broken.append(f"{PICTURES}: {_told(pictures[0])} and {_told(pictures[1])}")
    if broken:
        raise DataError(
            f"{a.folder} and {b.folder} cannot be compared: they must agree in {', '.join(IDENTITY)} "
            f"(run.json), and these differ or are missing:\n{listing(broken)}\n"
            "Run one of them again with the other's data options (--config of its config.yaml)"
        )


def refuse_unlike_precision(results: Sequence[Result], *, allowed: bool) -> None:
    """Raise DataError where runs were trained in different number formats, and that is not allowed.

    Runs that record none are left out.
    """
    formats = {recorded_format(result.run): result.folder for result in reversed(results)}
    formats.pop(None, None)
    if allowed or len(formats) < 2:
        return
    lines = [f"{name}: {formats[name]}" for name in sorted(map(str, formats))]
    raise DataError(
        f"these runs were trained in different number formats, which move the scores too:\n{listing(lines)}\n"
        f"Train one of them again with the other's (--run.precision {min(map(str, formats))}), or give "
        "--allow_precision to compare them all the same"
    )


def environment_differences(side_a: Sequence[Result], side_b: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the differences in device and library versions of runs paired in order, [{field, a, b}]."""
    pairs = zip(side_a, side_b, strict=True)
    return _distinct([differing(_part(a, ENVIRONMENT), _part(b, ENVIRONMENT)) for a, b in pairs])


def _part(result: Result, names: Sequence[str]) -> dict[str, Any]:
    return {name: result.run[name] for name in names if name in result.run}


def _data_settings(result: Result, with_config: bool) -> dict[str, Any]:
    """Return what was chosen of how the data are shown: config.yaml's, or what run.json records of the crop.

    The margin of a box is a setting only where images are cut to their boxes.
    """
    crop = result.run.get("crop")
    crop = crop if isinstance(crop, Mapping) else {}
    told = {"crop": crop.get("kind"), "box_margin": crop.get("margin")}
    section = result.config.get("data") if with_config else None
    own = section if isinstance(section, Mapping) else {}
    chosen = {key: own.get(key, told.get(key)) for key in DATA_SETTINGS}
    if chosen["crop"] == "image":
        chosen["box_margin"] = None
    return {f"data.{key}": value for key, value in chosen.items() if value is not None}


def _settings(result: Result, with_config: bool) -> dict[str, Any]:
    """Return dotted settings: config.yaml's, and what run.json adds to them."""
    config = (
        {key: value for key, value in result.config.items() if key not in NOT_SETTINGS} if with_config else {}
    )
    if isinstance(config.get("loss"), Mapping):
        config["loss"] = _flat_loss(config["loss"])
    chosen = _flat(config)
    told = _flat(_part(result, SETTINGS))
    if (trained := recorded_format(result.run)) is not None:  # the sentence also tells how long steps took
        told["precision"] = trained
    nested = [name for name in (*chosen, *told) if "." in name]
    known = {name.rpartition(".")[2] for name in nested} | {name.partition(".")[0] for name in nested}
    chosen |= {name: value for name, value in told.items() if name not in known}
    return chosen | _data_settings(result, with_config)


def _flat_loss(loss: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.yaml's loss as run.json has it: its options beside its name."""
    options = loss.get("options")
    rest = {key: value for key, value in loss.items() if key != "options"}
    return {**rest, **(options if isinstance(options, Mapping) else {})}


def setting_differences(
    side_a: Sequence[Result], side_b: Sequence[Result]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the settings that differ between runs paired in order, [{field, a, b}], and notes in words.

    config.yaml counts where every run has one, without places and machines and of the data only how images
    are shown and held out (`DATA_SETTINGS`); run.json counts always. A note is given when more than the loss
    differs, when runs of one side differ in more than the seed, and when a configuration is missing.
    """
    everyone = [*side_a, *side_b]
    with_config = all(result.config for result in everyone)
    notes = []
    if not with_config:
        bare = ", ".join(str(result.folder) for result in everyone if not result.config)
        notes.append(f"no config.yaml in {bare}: only the settings in run.json were compared")
    pairs = zip(side_a, side_b, strict=True)
    found = _distinct([differing(_settings(a, with_config), _settings(b, with_config)) for a, b in pairs])
    uncontrolled = [item["field"] for item in found if not is_loss(item["field"])]
    if uncontrolled:
        besides = "besides the loss these differ" if len(uncontrolled) < len(found) else "these differ"
        notes.append(f"not a controlled comparison: {besides}: {', '.join(uncontrolled)}")
    for side in (side_a, side_b):
        parts = [differing(_settings(side[0], with_config), _settings(one, with_config)) for one in side[1:]]
        names = {item["field"] for item in _distinct(parts)} - {"seed", "train.seed"}
        if names:
            folders = ", ".join(str(result.folder) for result in side)
            notes.append(f"not seeds of one setting: {', '.join(sorted(names))} differ among {folders}")
    return found, notes


def _distinct(parts: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the differences of several pairs, each field once (the first pair that shows it)."""
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        for item in part:
            found.setdefault(item["field"], item)
    return [found[name] for name in sorted(found)]


def is_loss(field: str) -> bool:
    """Return whether a dotted field belongs to the loss, the one thing a controlled comparison changes."""
    return field == "loss" or field.startswith("loss.")


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return flat


def _told(value: Any) -> str:
    return "missing" if value is None else str(value)
