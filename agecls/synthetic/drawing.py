"""Polygons, lines and soft spots on a small colour image whose origin is its middle."""

from __future__ import annotations

import math
from functools import lru_cache

import cv2
import numpy as np

from agecls.synthetic.person import Colour

FRACTION_BITS = 4


class Pencils:
    """A square canvas, RGB uint8; coordinates are x to the right, y down, in image widths from the middle.

    `tilt` (degrees, clockwise), `zoom` and `shift` (image widths) place the whole drawing. `alpha` in the
    methods is the opacity, 0 to 1.
    """

    def __init__(self, size: int, tilt: float, zoom: float, shift: tuple[float, float]) -> None:
        self.size, self.zoom = size, zoom
        self.canvas = np.empty((size, size, 3), np.uint8)
        angle = math.radians(tilt)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        pixel = size << FRACTION_BITS
        self._turn = turn.T * (zoom * pixel)
        self._centre = (np.array([0.5, 0.5]) + shift) * pixel

    def fill(self, points: np.ndarray, colour: Colour, alpha: float = 1.0) -> None:
        """Fill a polygon, float (n, 2)."""
        layer = self.canvas if alpha >= 1 else self.canvas.copy()
        cv2.fillPoly(layer, [self._pixels(points)], colour, cv2.LINE_AA, FRACTION_BITS)
        self._lay(layer, alpha)

    def stroke(self, points: np.ndarray, colour: Colour, width: float, alpha: float = 1.0) -> None:
        """Draw an open line through points, float (n, 2), `width` in image widths."""
        layer = self.canvas if alpha >= 1 else self.canvas.copy()
        thickness = max(1, round(width * self.size * self.zoom))
        cv2.polylines(layer, [self._pixels(points)], False, colour, thickness, cv2.LINE_AA, FRACTION_BITS)
        self._lay(layer, alpha)

    def glow(self, x: float, y: float, radius: float, colour: Colour, alpha: float) -> None:
        """Lay a soft round spot: discs on top of one another, each a little smaller."""
        for share in (1.0, 0.75, 0.5):
            self.fill(arc(x, y, radius * share, radius * share), colour, alpha / 3)

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        placed: np.ndarray = points @ self._turn + self._centre
        pixels: np.ndarray = np.rint(placed).astype(np.int32)
        return pixels

    def _lay(self, layer: np.ndarray, alpha: float) -> None:
        if layer is not self.canvas:
            cv2.addWeighted(layer, alpha, self.canvas, 1 - alpha, 0, dst=self.canvas)


def blend(one: Colour, other: Colour, share: float) -> tuple[float, ...]:
    """Return the colour that is `share` (0 to 1) of the way from one to the other."""
    return tuple(a + (b - a) * share for a, b in zip(one, other, strict=True))


def shade(colour: Colour, factor: float) -> tuple[float, ...]:
    """Return a darker (factor below 1) or lighter colour."""
    return tuple(min(255.0, part * factor) for part in colour)


def arc(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> np.ndarray:
    """Return points of an ellipse from `start` to `stop` degrees, clockwise from the right, float (28, 2)."""
    points: np.ndarray = _unit_arc(start, stop) * (rx, ry) + (x, y)
    return points


@lru_cache(maxsize=64)
def _unit_arc(start: float, stop: float) -> np.ndarray:
    angle = np.radians(np.linspace(start, stop, 28))
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)
