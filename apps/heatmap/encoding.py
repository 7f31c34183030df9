"""Pixels -> the bytes of a picture file: the one place where the programs encode what they draw."""

from __future__ import annotations

import cv2
import numpy as np


def encode_image(image: np.ndarray, kind: str = ".png", quality: int | None = None) -> bytes:
    """Return uint8 (H, W, 3) RGB pixels as a picture file: exact as .png, smaller as .jpg.

    `quality` (0-100) is a .jpg's, None for OpenCV's own. Raises ValueError where OpenCV cannot write it.

    >>> encode_image(np.zeros((8, 8, 3), np.uint8))[1:4]
    b'PNG'
    """
    options = [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, quality]
    made, data = cv2.imencode(kind, cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR), options)
    if not made:
        raise ValueError(f"the picture of shape {image.shape} could not be written as {kind}")
    return bytes(data.tobytes())
