"""Drawn birds and cars in visually similar pairs, for demonstrations and tests without real data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

Box = tuple[float, float, float, float]
MARK_COLOURS = ((250, 250, 250), (20, 20, 20))


@dataclass(frozen=True)
class Drawing:
    """An image, uint8 (side, side, 3) RGB; the object's box, x1, y1, x2, y2; its parts' places, x, y."""

    pixels: np.ndarray
    box: Box
    parts: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class _Place:
    """Where an object lies: its centre, half its length, and 1 or -1 for the way it faces."""

    x: float
    y: float
    half: float
    facing: int

    def at(self, along: float, up: float) -> tuple[int, int]:
        """Return the pixel at shares of the half length from the centre."""
        return round(self.x + self.facing * along * self.half), round(self.y - up * self.half)


def draw_bird(index: int, classes: int, rng: np.random.Generator, side: int) -> Drawing:
    """Draw a bird of class `index`: a pair of classes shares the body's colour, the cap tells them apart.

    The pose, the size and the background are drawn from `rng`; the class decides colours alone.
    """
    pixels, place = _background(rng, side), _place(rng, side)
    body, mark = class_colours(index, classes)
    half = place.half
    _ellipse(pixels, place.at(-0.1, -0.05), (0.62 * half, 0.36 * half), body)
    _polygon(pixels, [place.at(-0.6, 0.0), place.at(-1.0, 0.22), place.at(-1.0, -0.1)], body)
    _ellipse(pixels, place.at(0.55, 0.38), (0.27 * half, 0.27 * half), body)
    _ellipse(pixels, place.at(0.53, 0.54), (0.2 * half, 0.13 * half), mark)
    _polygon(pixels, [place.at(0.78, 0.46), place.at(1.0, 0.36), place.at(0.78, 0.28)], (230, 160, 40))
    _ellipse(pixels, place.at(-0.15, 0.0), (0.32 * half, 0.16 * half), mark)
    parts = {"crown": place.at(0.53, 0.54), "beak": place.at(0.9, 0.36), "left wing": place.at(-0.15, 0.0)}
    return Drawing(_grain(pixels, rng), _box(place, 0.68, 0.45, side), parts)


def draw_car(index: int, classes: int, rng: np.random.Generator, side: int) -> Drawing:
    """Draw a car of class `index`: a pair of classes shares the paint, the roof tells them apart."""
    pixels, place = _background(rng, side), _place(rng, side)
    body, mark = class_colours(index, classes)
    cv2.rectangle(pixels, place.at(-1.0, 0.1), place.at(1.0, -0.35), body, -1)
    _polygon(
        pixels, [place.at(-0.7, 0.1), place.at(-0.45, 0.5), place.at(0.35, 0.5), place.at(0.65, 0.1)], body
    )
    cv2.rectangle(pixels, place.at(-0.45, 0.5), place.at(0.35, 0.36), mark, -1)
    for along in (-0.55, 0.55):
        _ellipse(pixels, place.at(along, -0.35), (0.2 * place.half, 0.2 * place.half), (25, 25, 30))
    cv2.rectangle(pixels, place.at(0.75, -0.02), place.at(0.98, -0.14), mark, -1)
    return Drawing(_grain(pixels, rng), _box(place, 0.52, 0.56, side), {})


def class_colours(index: int, classes: int) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """Return a class's body colour, shared by pairs of classes, and the colour of its marks, RGB."""
    pairs = max(1, (classes + 1) // 2)
    hue = np.array([[[round(180 * (index // 2) / pairs), 190, 200]]], dtype=np.uint8)
    body = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0]
    return tuple(int(value) for value in body), MARK_COLOURS[index % 2]


def _place(rng: np.random.Generator, side: int) -> _Place:
    half = side * rng.uniform(0.34, 0.44)
    x, y = side * rng.uniform(0.45, 0.55), side * rng.uniform(0.45, 0.6)
    return _Place(x, y, half, 1 if rng.random() < 0.5 else -1)


def _box(place: _Place, above: float, below: float, side: int) -> Box:
    x1, x2 = place.x - place.half, place.x + place.half
    y1, y2 = place.y - above * place.half, place.y + below * place.half
    return tuple(float(np.clip(round(value), 0, side)) for value in (x1, y1, x2, y2))  # type: ignore[return-value]


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    corners = rng.uniform(90, 190, (2, 2, 3)).astype(np.float32)
    return np.ascontiguousarray(cv2.resize(corners, (side, side)).astype(np.uint8))


def _grain(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noisy = pixels + rng.normal(0.0, 6.0, pixels.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _ellipse(
    pixels: np.ndarray, centre: tuple[int, int], axes: tuple[float, float], colour: tuple[int, ...]
) -> None:
    cv2.ellipse(pixels, centre, (round(axes[0]), round(axes[1])), 0, 0, 360, colour, -1, cv2.LINE_AA)


def _polygon(pixels: np.ndarray, corners: list[tuple[int, int]], colour: tuple[int, ...]) -> None:
    cv2.fillPoly(pixels, [np.array(corners, dtype=np.int32)], colour, cv2.LINE_AA)
