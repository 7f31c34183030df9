"""Several models on the same images: each image is decoded once, and prepared once for those alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apps.runtime.batching import Picture, in_batches, pixels_of, views
from apps.runtime.session import OnnxClassifier
from finetune.cli.console import progress
from finetune.errors import ModelFileError
from finetune.images.class_names import normalised
from finetune.images.preprocess import TEST_CROPS


def probabilities(
    models: Sequence[OnnxClassifier],
    pictures: Sequence[Picture],
    crops: Sequence[str],
    *,
    batch_size: int = 64,
    told: str = "images",
) -> list[np.ndarray]:
    """Return each model's probabilities, float64 (N, K), for the same images, decoded once for all models.

    Args:
        models: one or more.
        pictures: files, bytes of files, or pixels.
        crops: the test crops that each model averages over: center, flip or ten.
        batch_size: images decoded, and views shown to a network, at once.
        told: what the progress bar calls the work.

    Raises BadImageError, naming the file, for an image that cannot be read.
    """
    wanted = [(model.facts.preprocess, crop) for model, crop in zip(models, crops, strict=True)]
    unique = list(dict.fromkeys(wanted))

    def make(picture: Picture) -> list[np.ndarray]:
        pixels = pixels_of(picture)
        return [views(pixels, spec, crop) for spec, crop in unique]

    found: list[list[np.ndarray]] = [[np.zeros((0, len(model.class_names)))] for model in models]
    at_once = max(1, batch_size // max(TEST_CROPS[crop] for crop in crops))
    with progress(len(pictures), told) as bar:
        for made in in_batches(pictures, make, at_once):
            batches = {
                key: np.concatenate(part) for key, part in zip(unique, zip(*made, strict=True), strict=True)
            }
            for parts, model, key in zip(found, models, wanted, strict=True):
                probs = model.run(batches[key]).probs.astype(np.float64)
                parts.append(probs.reshape(len(made), -1, probs.shape[1]).mean(axis=1))
            bar.advance(len(made))
    return [np.concatenate(parts) for parts in found]


def align_classes(models: Sequence[OnnxClassifier]) -> list[str]:
    """Let all models answer in the order of the first one's classes; return a sentence for each that differs.

    Raises ModelFileError where a model has other classes, or the order of the classes means something.
    """
    notes = []
    for model in models[1:]:
        first = models[0]
        if model.class_names == first.class_names:
            continue
        wanted, names = ([normalised(name) for name in one.class_names] for one in (first, model))
        alike = sorted(wanted) == sorted(names) and len(set(names)) == len(names)
        if not alike or first.facts.ordered or model.facts.ordered:
            check_same_classes([first, model])
        model.answer_in_order_of(first)
        notes.append(f"{model.title}: {model.order_note}")
    return notes


def check_same_classes(models: Sequence[OnnxClassifier]) -> None:
    """Raise ModelFileError, telling the lists apart, unless all models have the same classes in one order."""
    for model in models[1:]:
        first, names = models[0].class_names, model.class_names
        if names == first:
            continue
        lost = [name for name in first if name not in names]
        extra = [name for name in names if name not in first]
        told = (
            f"the second lacks {_few(lost)} and adds {_few(extra)}" if lost or extra else "in another order"
        )
        raise ModelFileError(
            f"{models[0].path} and {model.path} have different classes and cannot stand side by side: "
            f"{len(first)} and {len(names)}, {told}. Give them one after the other"
        )


def _few(names: Sequence[str]) -> str:
    return (", ".join(names[:5]) + (" ..." if len(names) > 5 else "")) or "nothing"
