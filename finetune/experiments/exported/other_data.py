"""Images that exported models are run on beside their run's own: which options, which rows, which labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from finetune.cli.console import say
from finetune.errors import DataError, UsageError, listing
from finetune.experiments.config import DataConfig
from finetune.experiments.exported.model import ExportedModel, OtherData
from finetune.images.checks import among_digests, content_hashes, unpack_digests
from finetune.images.class_names import labels_in, without_samples
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

    Raises ModelFileError for classes that the models do not know, DataError where there is no image.
    """
    target = labels_in(manifest, models[0].class_names, str(models[0].path))
    rows, told = rows_to_show(models, manifest)
    tell_without_samples(models[0].class_names, target[rows])
    return OtherData(manifest.select(rows), target[rows], told, None if boxes is None else boxes[rows])


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
    again = np.ones(len(images), dtype=bool)
    for model in models:
        contents = model.facts.data.get("contents")
        if hashes is None or not isinstance(contents, Mapping):
            if model.facts.data.get("manifest") in fingerprints:
                say(
                    f"warning: {model.path} was trained on images of this very data, so its scores flatter it"
                )
            again[:] = False
            continue
        seen = among_digests(hashes, unpack_digests(contents.get("seen")))
        if seen.any():
            shown = listing(images["path"][seen].tolist())
            raise DataError(
                f"{model.path} was trained or validated on {int(seen.sum())} of these {len(images)} images "
                f"(equal bytes), so that scores on them mean nothing:\n{shown}\n"
                "Name other data, or score its own test images by --run RUN"
            )
        again &= among_digests(hashes, unpack_digests(contents.get("tested")))
    return told_again(int(again.sum()), len(images), told)


def told_again(again: int, count: int, told: str) -> str:
    """Return what `count` images are in words: `told`, or the run's own where all were its test images.

    Where `again` of them alone were, by their bytes, that is said.
    """
    if again == count:
        tell_shown_again()
        return f"{count} test images of the run's own data"
    if again:
        say(f"note: {again} of these {count} images are test images of the run itself (equal bytes)")
    return told


def tell_without_samples(class_names: Sequence[str], target: np.ndarray) -> None:
    """Say which classes of a model have no image among those that it is shown."""
    if told := without_samples(class_names, target):
        say(f"note: {told}")


def tell_shown_again() -> None:
    """Say what a second look at the run's own test images must not be used for."""
    say(
        "note: these test images were scored when the run ended; to choose weights or crops by their "
        "scores would be to train on them"
    )
