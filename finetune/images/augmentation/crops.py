"""Crops, mirrors and turns: the policies that move or resize an image once and leave its colours alone.

They are written out: without a library's bookkeeping they take half the time.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import cv2
import numpy as np

from finetune.images.preprocess import INTERPOLATIONS, Place, PreprocessSpec, place_crop, resize

# Writes the augmented image of (prepared, seed) into uint8 (S, S, 3).
Apply = Callable[[np.ndarray, int, np.ndarray], None]

FLIP_PROBABILITY = 0.5
ANY_CROP = (0.08, 1.0)
FACE_CROP = (0.8, 1.0)
ROTATION = 15.0  # degrees to either side
CROP_RATIO = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10
ANTIALIAS_FROM = 1.5


def draw_crop(
    rng: random.Random, height: int, width: int, area: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a random crop, in pixels.

    The crop's fraction of the area is uniform in `area` and the logarithm of its aspect ratio uniform between
    those of 3/4 and 4/3; after ten draws that do not fit, the largest centred square is taken (Szegedy et
    al., Going Deeper with Convolutions, 2015, section 6).
    """
    for _ in range(CROP_ATTEMPTS):
        pixels = rng.uniform(*area) * height * width
        ratio = math.exp(rng.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        crop_height, crop_width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = rng.randint(0, height - crop_height)
            return top, rng.randint(0, width - crop_width), crop_height, crop_width
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def none(_seed: int, height: int, width: int, side: int) -> Place:
    """Return the centre crop, whatever the seed."""
    return (height - side) // 2, (width - side) // 2, False


def flip(seed: int, height: int, width: int, side: int) -> Place:
    """Return the centre crop, mirrored half of the time."""
    return (height - side) // 2, (width - side) // 2, _mirrors(random.Random(seed))


def crop(seed: int, height: int, width: int, side: int) -> Place:
    """Return a crop of the network's size from anywhere in the image, mirrored half of the time."""
    return _draw_place(random.Random(seed), height, width, side)


# Policies that move whole pixels and no more: where the crop of (seed, height, width, side) lies.
PLACES: dict[str, Callable[[int, int, int, int], Place]] = {"none": none, "flip": flip, "crop": crop}


def placed(name: str, spec: PreprocessSpec) -> Apply:
    """Return the policy of `PLACES` with this name."""
    place = PLACES[name]

    def apply(prepared: np.ndarray, seed: int, out: np.ndarray) -> None:
        height, width = prepared.shape[:2]
        place_crop(prepared, place(seed, height, width, spec.image_size), out)

    return apply


def rotate_crop(spec: PreprocessSpec) -> Apply:
    """Return a turn by up to 15 degrees about the middle, black where nothing is, then `crop`."""
    interpolation = INTERPOLATIONS[spec.interpolation]

    def apply(prepared: np.ndarray, seed: int, out: np.ndarray) -> None:
        rng = random.Random(seed)
        turned = rotate(prepared, rng.uniform(-ROTATION, ROTATION), interpolation)
        place_crop(turned, _draw_place(rng, turned.shape[0], turned.shape[1], spec.image_size), out)

    return apply


def rotate(picture: np.ndarray, degrees: float, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Return uint8 (h, w, 3) turned anti-clockwise about its middle, black where no pixel came from."""
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turned: np.ndarray = cv2.warpAffine(picture, turn, (width, height), flags=interpolation)
    return turned


def standard(spec: PreprocessSpec) -> Apply:
    """Return a crop of 8-100 % of the area, resized and mirrored half of the time (Szegedy et al., 2015)."""
    side, antialias = spec.image_size, shrinks(spec)
    interpolation = INTERPOLATIONS[spec.interpolation]

    def apply(prepared: np.ndarray, seed: int, out: np.ndarray) -> None:
        rng = random.Random(seed)
        top, left, height, width = draw_crop(rng, prepared.shape[0], prepared.shape[1], ANY_CROP)
        crop = prepared[top : top + height, left : left + width]
        if antialias:
            out[:] = resize(crop, side, side, spec.interpolation)
        else:
            cv2.resize(crop, (side, side), dst=out, interpolation=interpolation)
        mirror_half(rng, out)

    return apply


def _draw_place(rng: random.Random, height: int, width: int, side: int) -> Place:
    """Return a square crop from anywhere in the image, mirrored half of the time."""
    return rng.randint(0, height - side), rng.randint(0, width - side), _mirrors(rng)


def _mirrors(rng: random.Random) -> bool:
    return rng.random() < FLIP_PROBABILITY


def mirror_half(rng: random.Random, picture: np.ndarray) -> None:
    """Mirror left and right in place, half of the time."""
    if _mirrors(rng):
        cv2.flip(picture, 1, dst=picture)


def shrinks(spec: PreprocessSpec) -> bool:
    """Return whether a crop can shrink enough to alias; below, averaging areas costs and gains nothing."""
    return spec.resize_size >= ANTIALIAS_FROM * spec.image_size
