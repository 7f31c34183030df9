"""The policies that albumentations computes, and other pipelines of that library.

It keeps generators of its own that ignore numpy's and torch's seeds and repeat in every worker. Here both are
replaced before every single image, so that the result depends neither on the process nor on the order of
calls. The library is imported when a policy that needs it is built (it takes about a second).
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from finetune.images.augmentation.crops import (
    ANY_CROP,
    CROP_RATIO,
    FACE_CROP,
    FLIP_PROBABILITY,
    Apply,
    shrinks,
)
from finetune.images.preprocess import INTERPOLATIONS, PreprocessSpec

if TYPE_CHECKING:
    import albumentations as A


def face(spec: PreprocessSpec) -> Apply:
    """Return jitter, a crop of most of the image, mirror and light colours, each step on its own."""
    A = _albumentations()  # noqa: N806
    return seeded(
        [
            _jitter(A, degrees=10, scale=0.1, shift=0.05),
            _random_crop(A, spec, FACE_CROP),
            A.HorizontalFlip(p=FLIP_PROBABILITY),
            A.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.0, p=0.5),
        ]
    )


def strong(spec: PreprocessSpec) -> Apply:
    """Return the standard crop with jitter, colours, grey, blur and an erased patch, each step on its own."""
    A = _albumentations()  # noqa: N806
    return seeded(
        [
            _random_crop(A, spec, ANY_CROP),
            A.HorizontalFlip(p=FLIP_PROBABILITY),
            _jitter(A, degrees=15, scale=0.1, shift=0.05, p=0.5),
            A.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05, p=0.8),
            A.ToGray(p=0.1),
            A.GaussianBlur(blur_limit=(3, 7), p=0.1),
            A.CoarseDropout(
                num_holes_range=(1, 1), hole_height_range=(0.1, 0.3), hole_width_range=(0.1, 0.3), p=0.25
            ),
        ]
    )


def _albumentations() -> Any:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import asks a server for newer versions otherwise
    import albumentations

    return albumentations


def _random_crop(A: Any, spec: PreprocessSpec, area: tuple[float, float]) -> A.BasicTransform:  # noqa: N803
    return A.RandomResizedCrop(
        (spec.image_size, spec.image_size),
        scale=area,
        ratio=CROP_RATIO,
        interpolation=INTERPOLATIONS[spec.interpolation],
        area_for_downscale="image" if shrinks(spec) else None,
    )


def _jitter(A: Any, degrees: float, scale: float, shift: float, p: float = 1.0) -> A.BasicTransform:  # noqa: N803
    return A.Affine(
        rotate=(-degrees, degrees),
        scale=(1 - scale, 1 + scale),
        translate_percent=(-shift, shift),
        border_mode=cv2.BORDER_REFLECT_101,
        p=p,
    )


def seeded(transforms: list[A.BasicTransform]) -> Apply:
    """Return these transforms, drawn from the seed alone."""
    pipeline = _albumentations().Compose(transforms)

    def apply(prepared: np.ndarray, seed: int, out: np.ndarray) -> None:
        # One pair of generators for all transforms: a quarter of the cost of seeding each one separately.
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        out[:] = pipeline(image=prepared)["image"]

    return apply
