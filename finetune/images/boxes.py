"""Bounding boxes: the part of a decoded image that is looked at, everything else cut away."""

from __future__ import annotations

import numpy as np

from finetune.errors import DataError
from finetune.images.decode import BadImageError


def cut(picture: np.ndarray, box: np.ndarray, name: str = "the image") -> np.ndarray:
    """Return the part of an image inside a box, as a view, with every pixel that the box touches.

    Args:
        picture: (H, W, 3), upright.
        box: x1, y1, x2, y2 in pixels from the image's upper left corner, x2 and y2 behind the last pixel;
            what lies outside the image is left out.
        name: of the image, for the message.

    Raises:
        BadImageError: not one pixel of the image lies in the box, or it is not known (NaN).

    >>> cut(np.zeros((10, 20, 3), np.uint8), np.array([-5.0, 2.5, 4.0, 6.0])).shape
    (4, 4, 3)
    """
    if not np.isfinite(box).all():
        raise BadImageError(name, "its box is not known")
    height, width = picture.shape[:2]
    left, top = np.maximum(np.floor(box[:2]), 0).astype(int)
    right, bottom = np.minimum(np.ceil(box[2:]), (width, height)).astype(int)
    if right <= left or bottom <= top:
        corners = ", ".join(f"{value:g}" for value in box)
        raise BadImageError(name, f"its box ({corners}) holds no pixel of its {width} x {height}")
    return picture[top:bottom, left:right]


def check_boxes(boxes: np.ndarray, count: int) -> np.ndarray:
    """Return boxes as float64 (count, 4); DataError for another shape."""
    if boxes.shape != (count, 4):
        raise DataError(f"{count} images need boxes of shape ({count}, 4), got {boxes.shape}")
    return np.asarray(boxes, dtype=np.float64)
