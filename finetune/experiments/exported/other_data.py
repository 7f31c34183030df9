"""Images that exported models are run on beside their run's own: which options, which rows, which labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from finetune.cli.console import say
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.config import DataConfig
from finetune.experiments.exported.model import ExportedModel, OtherData
from finetune.images.class_names import class_map, normalised
from finetune.images.manifest import Manifest

Config = TypeVar("Config", bound=DataConfig)


def own_options(asked: DataConfig, config_type: type[Config], refusal: str, **given: Any) -> Config:
    """Return how a task reads the images that `asked` names: the options all tasks share, and `given`.

    `asked` may have options of another task's data. UsageError, ending in `refusal`, for one that is set.
    """
    if type(asked) is config_type:
        return replace(asked, **given)
    default, shared = type(asked)(), [item.name for item in fields(DataConfig)]
    foreign = [
        f"--data.{item.name}"
        for item in fields(asked)
        if item.name not in shared and getattr(asked, item.name) != getattr(default, item.name)
    ]
    if foreign:
        raise UsageError(f"{', '.join(foreign)}: {refusal}")
    return config_type(**{**{name: getattr(asked, name) for name in shared}, **given})


def shown_to(models: Sequence[ExportedModel], manifest: Manifest, boxes: np.ndarray | None) -> OtherData:
    """Return the test part of a table, or all of it where it names none, with its labels moved by name.

    Raises ModelFileError for other classes than the models', DataError where there is no image.
    """
    target = labels_in_order(models[0], manifest)
    rows, told = rows_to_show(models, manifest)
    return OtherData(manifest.select(rows), target[rows], told, None if boxes is None else boxes[rows])


def labels_in_order(model: ExportedModel, manifest: Manifest) -> np.ndarray:
    """Return the data's labels in the model's order of classes, int64 (N,): moved by name, "/" read as "-".

    Raises ModelFileError, telling both lists apart, unless both hold the same classes.
    """
    own = {normalised(name): name for name in manifest.class_names}
    wanted = {normalised(name): name for name in model.class_names}
    if own.keys() != wanted.keys():
        lacks = [name for key, name in own.items() if key not in wanted]
        adds = [name for key, name in wanted.items() if key not in own]
        raise ModelFileError(
            f"{model.path} has other classes than the data: only in the model {short_list(adds)}; only in "
            f"the data {short_list(lacks)}"
        )
    moved: np.ndarray = class_map(manifest.class_names, model.class_names)[manifest.label]
    return moved


def rows_to_show(models: Sequence[ExportedModel], manifest: Manifest) -> tuple[np.ndarray, str]:
    """Return the rows of the test part, or all where the data name none, and what they are in words.

    Says where a model was trained on the same table and no test part shows what it has not seen.
    """
    tested = np.flatnonzero(manifest["split"] == "test") if "split" in manifest else np.arange(0)
    rows = tested if len(tested) else np.arange(len(manifest))
    if not len(rows):
        raise DataError("the data holds no image with a class: nothing can be scored")
    if not len(tested):
        tell_seen(models, [manifest.fingerprint])
    return rows, f"{len(rows)} {'test images of the data' if len(tested) else 'images of other data'}"


def tell_seen(models: Sequence[ExportedModel], fingerprints: Sequence[str]) -> None:
    """Say which models were trained on a table with one of these fingerprints."""
    for model in models:
        if model.facts.data.get("manifest") in fingerprints:
            say(f"warning: {model.path} was trained on images of this very data, so its scores flatter it")


def short_list(names: Sequence[str]) -> str:
    """Return how many names there are and the first twelve of them."""
    return f"{len(names)} ({', '.join(names[:12])}{' ...' if len(names) > 12 else ''})"
