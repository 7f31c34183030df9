"""Images that exported models are run on beside their run's own: which options, which rows, which labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from finetune.cli.console import say
from finetune.errors import DataError, ModelFileError, UsageError, listing
from finetune.experiments.config import DataConfig
from finetune.experiments.exported.model import ExportedModel, OtherData
from finetune.images.checks import among_digests, content_hashes, unpack_digests
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

    Raises DataError for images that a model has seen.
    """
    tested = np.flatnonzero(manifest["split"] == "test") if "split" in manifest else np.arange(0)
    rows = tested if len(tested) else np.arange(len(manifest))
    if not len(rows):
        raise DataError("the data holds no image with a class: nothing can be scored")
    known = [] if len(tested) else [manifest.fingerprint]
    told = f"{len(rows)} {'test images of the data' if len(tested) else 'images of other data'}"
    return rows, refuse_seen(models, manifest.select(rows), known, told)


def refuse_seen(
    models: Sequence[ExportedModel], images: Manifest, fingerprints: Sequence[str], told: str
) -> str:
    """Return what the images to be shown are in words: `told`, or that the models were tested on them.

    Seen is a file with the bytes of one that a model was trained or selected on, as `crl fine evaluate` and
    `crl age evaluate` have it. A file exported before it carried digests warns where `fingerprints` hold its
    table's.

    Raises DataError for images that one of the models has seen.
    """
    hashes = content_hashes(images) if any("contents" in model.facts.data for model in models) else None
    again = []
    for model in models:
        contents = model.facts.data.get("contents")
        if hashes is None or not isinstance(contents, Mapping):
            if model.facts.data.get("manifest") in fingerprints:
                say(
                    f"warning: {model.path} was trained on images of this very data, so its scores flatter it"
                )
            continue
        seen = among_digests(hashes, unpack_digests(contents.get("seen")))
        if seen.any():
            shown = listing(images["path"][seen].tolist())
            raise DataError(
                f"{model.path} was trained or validated on {int(seen.sum())} of these {len(images)} images "
                f"(equal bytes), so that scores on them mean nothing:\n{shown}\n"
                "Name other data, or score its own test images by --run RUN"
            )
        again.append(bool(among_digests(hashes, unpack_digests(contents.get("tested"))).all()))
    if len(again) < len(models) or not all(again):
        return told
    tell_shown_again()
    return f"{len(images)} test images of the run's own data"


def tell_shown_again() -> None:
    """Say what a second look at the run's own test images must not be used for."""
    say(
        "note: these test images were scored when the run ended; to choose weights or crops by their "
        "scores would be to train on them"
    )


def short_list(names: Sequence[str]) -> str:
    """Return how many names there are and the first twelve of them."""
    return f"{len(names)} ({', '.join(names[:12])}{' ...' if len(names) > 12 else ''})"
