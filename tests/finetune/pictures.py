"""Small images on disk for the tests of decoding, caching and batching."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec

WARP = PreprocessSpec(32, "warp", 40, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
SHORT = PreprocessSpec(32, "short", 40, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def smooth_picture(seed: int, height: int = 60, width: int = 50) -> np.ndarray:
    """Return a smooth random image, uint8 (height, width, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def write_pictures(root: Path, count: int) -> Manifest:
    """Write `count` JPEGs of different shapes and return their manifest, with two classes in turn."""
    root.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        Image.fromarray(smooth_picture(number, 44 + number % 7, 60 - number % 5)).save(
            root / name, quality=90
        )
    label = np.arange(count, dtype=np.int64) % 2
    return Manifest(root, ("even", "odd"), {"path": np.array(names), "label": label})
