"""Which test images a report explains, and what the network saw of them: chosen by rule, never by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from finegrained.config import FineDataConfig
from finegrained.data.boxes import picture_boxes
from finegrained.figures.image_grid import Line, answer_line
from finetune.errors import DataError, listing
from finetune.images.class_names import display_name

if TYPE_CHECKING:
    from finetune.experiments.result import Result
    from finetune.images.cache.source import ImageSource
    from finetune.images.preprocess import PreprocessSpec

EACH = 4  # correct ones, and wrong ones
CHOSEN = "spread evenly from the least to the most probable prediction"


@dataclass(frozen=True, eq=False)
class Example:
    """A test image as the network saw it, and what was predicted.

    Args:
        crop: uint8 (S, S, 3), the centre crop.
        target: the true class.
        said: the predicted class, as stored with the run.
        probability: of the predicted class.
    """

    crop: np.ndarray
    target: int
    said: int
    probability: float

    @property
    def right(self) -> bool:
        """Whether the predicted class is the true one."""
        return self.said == self.target

    def lines(self, class_names: Sequence[str]) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
        """Return the words above the image, its true class, and below it, the prediction."""
        answer = answer_line(display_name(class_names[self.said]), self.probability, self.right)
        return (Line(display_name(class_names[self.target]), bold=True),), (answer,)


def choose_examples(probs: np.ndarray, target: np.ndarray, each: int = EACH) -> tuple[list[int], list[int]]:
    """Return up to `each` correct rows and as many wrong ones, by the probability of the prediction.

    Both kinds are put in order of the probability of the predicted class, the least first, and the rows in
    the middle of `each` equal parts of that order are taken.

    Args:
        probs: float (N, K).
        target: int (N,).
        each: how many of a kind.

    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    >>> choose_examples(probs, np.array([0, 0, 0, 1]), each=1)
    ([1], [3])
    """
    sure, right = probs.max(axis=1), probs.argmax(axis=1) == target
    chosen = []
    for kind in (right, ~right):
        rows = np.flatnonzero(kind)
        order = rows[np.argsort(sure[rows], kind="stable")]
        count = min(each, len(order))
        places = [(2 * part + 1) * len(order) // (2 * count) for part in range(count)]
        chosen.append([int(order[place]) for place in places])
    return chosen[0], chosen[1]


def read_examples(result: Result, rows: Sequence[int], spec: PreprocessSpec) -> list[Example]:
    """Return these rows of a result's predictions as the network saw them in evaluation.

    Args:
        result: a run with its manifest.
        rows: of its predictions.
        spec: the model's preprocessing.

    Raises DataError where the run has no manifest, or an image is not in it or cannot be read.
    """
    from finetune.images.preprocess import center_crop

    found = result.predictions
    source = _open_pictures(result, found.path[list(rows)], spec)
    crops = [np.ascontiguousarray(center_crop(source[place], spec.image_size)) for place in range(len(rows))]
    return [
        Example(crop, int(found.target[row]), int(found.preds[row]), float(found.probs[row].max()))
        for crop, row in zip(crops, rows, strict=True)
    ]


def _open_pictures(result: Result, paths: np.ndarray, spec: PreprocessSpec) -> ImageSource:
    """Return the prepared images of these paths, cut to their boxes where the run's were."""
    from finetune.images.cache.source import open_pictures

    manifest = result.manifest
    if manifest is None:
        raise DataError(f"{result.folder} has no manifest.parquet, so its images are not known")
    place = {path: row for row, path in enumerate(manifest["path"].tolist())}
    strangers = [path for path in paths.tolist() if path not in place]
    if strangers:
        raise DataError(
            f"{result.folder}: predicted images that are not in its manifest:\n{listing(strangers)}"
        )
    chosen = manifest.select(np.array([place[path] for path in paths.tolist()]))
    crop = result.record.crop
    config = FineDataConfig(crop=crop.get("kind", "image"), box_margin=crop.get("margin", 0.0))
    return open_pictures(chosen, spec, "none", boxes=picture_boxes(chosen, config))
