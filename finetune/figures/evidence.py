"""Evidence for a class as an image: a coarse map made fine, and laid over its crop."""

from __future__ import annotations

import cv2
import numpy as np

from finetune.errors import UsageError

STRENGTH = 0.75  # share of the colour where the evidence is strongest
DARKEST = 0.25  # where on the colour scale the weakest evidence starts


def evidence_map(coarse: np.ndarray, size: int) -> np.ndarray:
    """Return a coarse map (h, w) as evidence for the class, float32 (size, size) in 0-1.

    Negative values become 0 and the greatest 1, before bicubic interpolation between the places' centres. A
    map without any positive value, or with the same one everywhere, points to no place and becomes zeros.

    >>> evidence_map(np.array([[-3.0, 0.0], [1.0, -1.0]]), 2).tolist()
    [[0.0, 0.0], [1.0, 0.0]]
    >>> evidence_map(np.full((2, 2), 7.0), 4).max()
    np.float32(0.0)
    """
    positive = np.maximum(np.asarray(coarse, dtype=np.float32), 0)
    top = float(positive.max(initial=0))
    if top <= 0 or np.ptp(positive) <= 1e-6 * top:
        return np.zeros((size, size), np.float32)
    fine = cv2.resize(positive / top, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(fine, 0, 1), dtype=np.float32)


def overlay(crop: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Return the crop with the evidence over it: untouched where there is none, brightest where it peaks.

    The colours run from violet over orange to yellow, ever brighter (matplotlib's inferno), so that they read
    in grey and with every kind of colour vision.

    Args:
        crop: uint8 (H, W, 3) RGB.
        evidence: float (h, w) of any size; negative values count as 0, the greatest as 1.

    Returns:
        uint8 (H, W, 3) RGB; a copy of the crop where the map is constant or nowhere positive.

    Raises:
        UsageError: arrays of other shapes, or a map that is not finite.
    """
    if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3:
        raise UsageError(f"the crop must be uint8 (H, W, 3), got {crop.dtype} {crop.shape}")
    if evidence.ndim != 2 or not np.isfinite(evidence).all():
        raise UsageError(f"the map must be a finite (h, w), got {evidence.shape}")
    positive = np.maximum(evidence.astype(np.float32), 0)
    if not positive.max(initial=0) or not np.ptp(positive):
        return crop.copy()
    height, width = crop.shape[:2]
    fine = cv2.resize(positive / positive.max(), (width, height), interpolation=cv2.INTER_CUBIC)
    share = np.clip(fine, 0, 1)
    step = np.round(255 * (DARKEST + (1 - DARKEST) * share)).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(step, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    weight = STRENGTH * share[:, :, None]
    return np.asarray(np.round(crop * (1 - weight) + colours * weight), dtype=np.uint8)


def enlarged(pixels: np.ndarray, least: int = 256) -> np.ndarray:
    """Return a small image, uint8 (H, W, 3), with every pixel as a square, at least `least` px high.

    >>> enlarged(np.zeros((64, 96, 3), np.uint8)).shape
    (256, 384, 3)
    """
    factor = max(1, -(-least // len(pixels)))
    return np.ascontiguousarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1))
