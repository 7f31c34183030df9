"""`face_fast` and `strong_fast`: crop, mirror and affine jitter in one warp, all colours in one product.

`face` and `strong` interpolate twice and round after every step. Here one linear interpolation makes the
whole movement, and brightness, contrast, saturation and hue are one affine map of the three colours, rounded
once. The draws have the same ranges, so the images look alike, but they are not the same images.

Hue turns the two colour axes of YIQ and leaves luma alone. HSV, which the library uses, bends more.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import cv2
import numpy as np

from finetune.images.augmentation.crops import (
    ANTIALIAS_FROM,
    ANY_CROP,
    FACE_CROP,
    FLIP_PROBABILITY,
    Apply,
    draw_crop,
)
from finetune.images.preprocess import PreprocessSpec

Matrix = tuple[tuple[float, float, float], tuple[float, float, float]]

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_TO_YIQ = np.array([LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_GREY = np.tile(LUMA, (3, 1))
_COLOUR = np.eye(3) - _GREY
_QUARTER = np.linalg.inv(_TO_YIQ) @ np.array([[0, 0, 0], [0, 0, 1], [0, -1, 0]]) @ _TO_YIQ


@dataclass(frozen=True)
class Jitter:
    """Ranges of the affine part: degrees and fractions to either side, and how often it is drawn.

    `of_crop` turns and shifts within the crop (the jitter comes after the crop); otherwise within the whole
    prepared image (the jitter comes first).
    """

    degrees: float
    scale: float
    shift: float
    probability: float = 1.0
    of_crop: bool = False


@dataclass(frozen=True)
class Colours:
    """Ranges of the factors around 1 (hue: turns to either side), and how often they are drawn."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    probability: float
    grey: float = 0.0  # how often the image loses its colours


@dataclass(frozen=True)
class Change:
    """What is done to the colours: three factors, and the hue's turn (0.05 is 18 degrees)."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


NO_CHANGE = Change()


def face_fast(spec: PreprocessSpec) -> Apply:
    """Return the ranges of `face`, in one warp."""
    return _fused(spec, FACE_CROP, Jitter(10, 0.1, 0.05), Colours(0.2, 0.2, 0.2, 0.0, 0.5))


def strong_fast(spec: PreprocessSpec) -> Apply:
    """Return the ranges of `strong`, in one warp; blur and the erased patch follow."""
    jitter = Jitter(15, 0.1, 0.05, probability=0.5, of_crop=True)
    moved = _fused(spec, ANY_CROP, jitter, Colours(0.4, 0.4, 0.4, 0.05, 0.8, grey=0.1))

    def apply(prepared: np.ndarray, seed: int, out: np.ndarray) -> None:
        moved(prepared, seed, out)
        rng = random.Random(~seed)
        if rng.random() < 0.1:
            side = rng.choice((3, 5, 7))
            cv2.GaussianBlur(out, (side, side), 0, dst=out)
        if rng.random() < 0.25:
            height, width = (round(length * rng.uniform(0.1, 0.3)) for length in out.shape[:2])
            top, left = rng.randint(0, out.shape[0] - height), rng.randint(0, out.shape[1] - width)
            out[top : top + height, left : left + width] = 0

    return apply


def _fused(spec: PreprocessSpec, area: tuple[float, float], jitter: Jitter, colours: Colours) -> Apply:
    side = spec.image_size

    def apply(prepared: np.ndarray, seed: int, out: np.ndarray) -> None:
        rng = random.Random(seed)
        height, width = prepared.shape[:2]
        crop = draw_crop(rng, height, width, area)
        mirrored = rng.random() < FLIP_PROBABILITY
        turn = (0.0, 1.0, 0.0, 0.0)
        if rng.random() < jitter.probability:
            turn = _draw_turn(rng, jitter)
        frame = crop if jitter.of_crop else (0, 0, height, width)
        moved = _warp(prepared, crop_to_prepared(crop, side, mirrored, frame, turn), side)
        change = _draw_change(rng, colours) if rng.random() < colours.probability else NO_CHANGE
        if rng.random() < colours.grey:
            change = replace(change, saturation=0.0)
        if change == NO_CHANGE:
            out[:] = moved
        else:
            cv2.transform(moved, colour_map(change, np.array(cv2.mean(moved)[:3])), dst=out)

    return apply


def _draw_change(rng: random.Random, colours: Colours) -> Change:
    brightness, contrast, saturation = (
        rng.uniform(1 - reach, 1 + reach)
        for reach in (colours.brightness, colours.contrast, colours.saturation)
    )
    return Change(brightness, contrast, saturation, rng.uniform(-colours.hue, colours.hue))


def _draw_turn(rng: random.Random, jitter: Jitter) -> tuple[float, float, float, float]:
    """Return degrees, scale and the shifts right and down as fractions."""
    return (
        rng.uniform(-jitter.degrees, jitter.degrees),
        rng.uniform(1 - jitter.scale, 1 + jitter.scale),
        rng.uniform(-jitter.shift, jitter.shift),
        rng.uniform(-jitter.shift, jitter.shift),
    )


def crop_to_prepared(
    crop: tuple[int, int, int, int],
    side: int,
    mirrored: bool,
    frame: tuple[int, int, int, int],
    turn: tuple[float, float, float, float],
) -> Matrix:
    """Return where each pixel of the result comes from: (x, y) of the result -> (x, y) of the prepared image.

    Args:
        crop: (top, left, height, width) in pixels of the image after the turn.
        side: of the square result, px.
        mirrored: whether left and right of the crop change places.
        frame: (top, left, height, width) about whose middle the turn happens, px.
        turn: degrees (anti-clockwise), scale, and the shifts right and down as fractions of the frame.

    >>> crop_to_prepared((2, 3, 4, 4), 4, False, (0, 0, 9, 9), (0, 1, 0, 0))  # x is 3 more, y 2 more
    ((1.0, -0.0, 3.0), (0.0, 1.0, 2.0))
    """
    top, left, height, width = crop
    along, down = width / side, height / side
    start_x, start_y = left + along / 2 - 0.5, top + down / 2 - 0.5
    if mirrored:
        along, start_x = -along, left + width - along / 2 - 0.5
    degrees, scale, right, below = turn
    middle_x, middle_y = frame[1] + (frame[3] - 1) / 2, frame[0] + (frame[2] - 1) / 2
    cosine = math.cos(math.radians(degrees)) / scale
    sine = math.sin(math.radians(degrees)) / scale
    x, y = start_x - middle_x - right * frame[3], start_y - middle_y - below * frame[2]
    return (
        (cosine * along, -sine * down, middle_x + cosine * x - sine * y),
        (sine * along, cosine * down, middle_y + sine * x + cosine * y),
    )


def _warp(prepared: np.ndarray, matrix: Matrix, side: int) -> np.ndarray:
    """Return uint8 (side, side, 3). Four channels are warped in half the time of three."""
    shrink = max(math.hypot(matrix[0][0], matrix[1][0]), math.hypot(matrix[0][1], matrix[1][1]))
    if shrink >= ANTIALIAS_FROM:
        prepared, matrix = _averaged(prepared, matrix, shrink)
    found = cv2.warpAffine(
        cv2.cvtColor(prepared, cv2.COLOR_RGB2RGBA),
        np.array(matrix),
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    moved: np.ndarray = cv2.cvtColor(found, cv2.COLOR_RGBA2RGB)
    return moved


def _averaged(prepared: np.ndarray, matrix: Matrix, shrink: float) -> tuple[np.ndarray, Matrix]:
    """Return the image shrunk by area averages, and the matrix for it: picked pixels alone would alias."""
    height, width = prepared.shape[:2]
    size = max(1, round(width / shrink)), max(1, round(height / shrink))
    small: np.ndarray = cv2.resize(prepared, size, interpolation=cv2.INTER_AREA)
    rows = [
        (a * scale, b * scale, (c + 0.5) * scale - 0.5)
        for (a, b, c), scale in zip(matrix, (size[0] / width, size[1] / height), strict=True)
    ]
    return small, (rows[0], rows[1])


def colour_map(change: Change, mean: np.ndarray) -> np.ndarray:
    """Return the (3, 4) affine map of RGB for this change.

    `mean` is the image's mean colour (3,), 0-255; contrast is relative to its grey.
    """
    angle = 2 * math.pi * change.hue
    mixed = _GREY + change.saturation * (math.cos(angle) * _COLOUR + math.sin(angle) * _QUARTER)
    result = np.zeros((3, 4), np.float32)
    result[:, :3] = change.brightness * change.contrast * mixed
    result[:, 3] = change.brightness * (1 - change.contrast) * float(LUMA @ mean)
    return result
