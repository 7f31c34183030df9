"""What small changes of the image do to predicted ages: crop, angle, size, JPEG quality, position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from agecls.audit.answers import Answers
from agecls.audit.rates import Resampling
from finetune.metrics.bootstrap import paired_cluster_bootstrap
from finetune.seeding import numpy_generator

MARGINS, ANGLES, SIDES, QUALITIES = (0.0, 0.2, 0.4), (-10, 0, 10), (32, 64, 128, 224), (30, 60, 90)
SHIFT = 0.05  # of the image's side
JITTER_GOAL = 0.5  # years

Image = np.ndarray
Ages = Callable[[Sequence[Image]], np.ndarray]


def with_margin(image: Image, margin: float) -> Image:
    """Return the image with `margin` of its sides added on every side, its edge pixels repeated."""
    high, wide = (round(margin * side) for side in image.shape[:2])
    return np.asarray(cv2.copyMakeBorder(image, high, high, wide, wide, cv2.BORDER_REPLICATE))


def turned(image: Image, degrees: float) -> Image:
    """Return the image turned about its middle, its edge pixels repeated."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return _warped(image, matrix)


def shifted(image: Image, right: float, down: float) -> Image:
    """Return the image moved by fractions of its sides, its edge pixels repeated."""
    height, width = image.shape[:2]
    return _warped(image, np.array([[1.0, 0.0, right * width], [0.0, 1.0, down * height]]))


def _warped(image: Image, matrix: np.ndarray) -> Image:
    size = (image.shape[1], image.shape[0])
    return np.asarray(
        cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )


def of_side(image: Image, side: int) -> Image:
    """Return the image reduced until its longer side has `side` pixels; smaller ones stay as they are."""
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    size = tuple(max(1, round(scale * length)) for length in image.shape[1::-1])
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def as_jpeg(image: Image, quality: int) -> Image:
    """Return the image after it was stored as a JPEG file of this quality."""
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "an image in memory can be stored"
    stored = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return np.ascontiguousarray(stored[..., ::-1])


CHANGES: Mapping[str, tuple[Sequence[Any], Callable[[Image, Any], Image]]] = {
    "crop margin": (MARGINS, with_margin),
    "rotation (degrees)": (ANGLES, turned),
    "longer side (px)": (SIDES, of_side),
    "JPEG quality": (QUALITIES, as_jpeg),
}


def chosen_rows(count: int, wanted: int, seed: int) -> np.ndarray:
    """Return which of `count` images are tried: all, or `wanted` of them by a seed, ascending."""
    if count <= wanted:
        return np.arange(count)
    return np.sort(numpy_generator(seed, "robustness").choice(count, wanted, replace=False))


def robustness(
    answers: Answers, images: Callable[[np.ndarray], list[Image]], ages: Ages, wanted: int, how: Resampling
) -> dict[str, Any]:
    """Return the change in MAE (years) for each change of the images, and the jitter.

    Jitter is the standard deviation (n - 1) of the predicted age over nine positions: the image moved by -5,
    0 and 5 % of its sides across and down.

    Args:
        answers: of the model to the images as they are.
        images: rows -> images, uint8 (H, W, 3) RGB.
        ages: images -> predicted ages (N,).
        wanted: how many images are tried, chosen by the seed.
        how: resamples and seed of the intervals.
    """
    rows = chosen_rows(len(answers), wanted, how.seed)
    shown = images(rows)
    age, unit = answers.age[rows], answers.unit[rows]
    plain = ages(shown)
    before = np.abs(plain - age)
    table = []
    for name, (values, change) in CHANGES.items():
        for value in values:
            after = np.abs(ages([change(image, value) for image in shown]) - age)
            moved = paired_cluster_bootstrap(before, after, unit, resamples=how.resamples, seed=how.seed)
            table.append(
                {
                    "change": name,
                    "value": value,
                    "mae": float(after.mean()),
                    "difference": moved.difference,
                    "size": abs(moved.difference),
                    "interval": [moved.low, moved.high],
                }
            )
    places = [(right, down) for down in (-SHIFT, 0, SHIFT) for right in (-SHIFT, 0, SHIFT)]
    moved_ages = np.stack([ages([shifted(image, *place) for image in shown]) for place in places])
    each = moved_ages.std(axis=0, ddof=1)
    return {
        "images": len(rows),
        "mae": float(before.mean()),
        "changes": table,
        "jitter": {"mean": float(each.mean()), "p95": float(np.percentile(each, 95)), "goal": JITTER_GOAL},
    }
