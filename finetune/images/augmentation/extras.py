"""What a policy can be followed by: RandAugment, TrivialAugment and random erasing, each seeded per image.

The first two are torchvision's. They draw from torch's own generator, which gets the image's seed for the
call and its old state back after it: training draws what it would have drawn.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from finetune.images.preprocess import PreprocessSpec

# Changes uint8 (S, S, 3) in place by a seed.
Change = Callable[[np.ndarray, int], None]

ERASING_PROBABILITY = 0.25
ERASED_AREA = (0.02, 1 / 3)
ERASED_RATIO = (0.3, 3.3)
ERASING_ATTEMPTS = 10


def randaugment(spec: PreprocessSpec) -> Change:
    """Two of 14 operations at magnitude 9 of 30 (Cubuk et al., RandAugment, 2020)."""
    from torchvision.transforms import InterpolationMode, RandAugment

    return _drawn_by_torch(
        RandAugment(2, 9, 31, interpolation=InterpolationMode.BILINEAR, fill=_mean_colour(spec))
    )


def trivialaugment(spec: PreprocessSpec) -> Change:
    """One of 14 operations at any strength (Mueller and Hutter, TrivialAugment, 2021; the wide ranges)."""
    from torchvision.transforms import InterpolationMode, TrivialAugmentWide

    return _drawn_by_torch(
        TrivialAugmentWide(31, interpolation=InterpolationMode.BILINEAR, fill=_mean_colour(spec))
    )


def random_erasing(_spec: PreprocessSpec) -> Change:
    """Random pixels in a rectangle of 2-33 % of the area, for every fourth image (Zhong et al., 2020)."""

    def change(picture: np.ndarray, seed: int) -> None:
        rng = random.Random(seed)
        if rng.random() >= ERASING_PROBABILITY:
            return
        top, left, height, width = _draw_rectangle(rng, *picture.shape[:2])
        noise = np.frombuffer(rng.randbytes(3 * height * width), np.uint8)
        picture[top : top + height, left : left + width] = noise.reshape(height, width, 3)

    return change


def _draw_rectangle(rng: random.Random, height: int, width: int) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) that fits, px; after ten draws that do not, nothing is erased."""
    for _ in range(ERASING_ATTEMPTS):
        pixels = rng.uniform(*ERASED_AREA) * height * width
        ratio = math.exp(rng.uniform(math.log(ERASED_RATIO[0]), math.log(ERASED_RATIO[1])))
        tall, wide = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < tall < height and 0 < wide < width:
            return rng.randint(0, height - tall), rng.randint(0, width - wide), tall, wide
    return 0, 0, 0, 0


def _mean_colour(spec: PreprocessSpec) -> list[int]:
    """Return what the network sees as zero: it fills where a turned image has no pixel."""
    return [round(255 * value) for value in spec.mean]


def _drawn_by_torch(transform: Any) -> Change:
    from PIL import Image
    from torch import default_generator

    def change(picture: np.ndarray, seed: int) -> None:
        before = default_generator.get_state()
        default_generator.manual_seed(seed)
        try:
            picture[:] = np.asarray(transform(Image.fromarray(picture)))
        finally:
            default_generator.set_state(before)

    return change
