"""What the image tests share: reading a PNG back."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from finetune.images.decode import decode_image


def pixels_of(file: Path) -> np.ndarray:
    """Return the image's pixels after checking that it is a PNG that fits a README and is not blank."""
    assert file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = decode_image(file)
    height, width, _ = pixels.shape
    assert 800 <= width <= 2000
    assert 300 <= height <= 2400
    assert pixels.std() > 5
    return pixels


def has_colour(pixels: np.ndarray, colour: str) -> bool:
    """Return whether any pixel has exactly the colour "#rrggbb"."""
    wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return bool((pixels == wanted).all(axis=2).any())
