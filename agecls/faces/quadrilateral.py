"""A face cut out by its marked corners: a box, or a quadrilateral that is turned with the head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agecls.faces.alignment import fit_affine, warp_square
from finetune.errors import DataError

LARGEST_SIDE = 512  # px of a stored face: larger ones are averaged over areas


def cut_marked_face(image: np.ndarray, corners: Sequence[float], margin: float = 0.05) -> np.ndarray:
    """Return the marked face as a square image, black where it reaches over the image's edges.

    Args:
        image: uint8 (H, W, 3), upright.
        corners: x1, y1, x2, y2 of a box in pixels, which is widened to a square; or the four corners of a
            quadrilateral (x, y), from the upper left one clockwise, that count the first pixel as 1 and lie
            in the middle of pixels. Three of them fix the affine map, as in the benchmark that marks faces so
            (Paplham and Franc, "A Call to Reflect on Evaluation Practices for Age Estimation", CVPR 2024).
        margin: fraction of the sides that is added on each side.

    Returns uint8 (S, S, 3) with S the mean length of the extended sides in pixels, at most 512.
    Raises DataError for other corners, and for those that enclose nothing.
    """
    if len(corners) == 4:
        points, inset = _square(corners), 0.0
    elif len(corners) == 8:
        points, inset = np.asarray(corners, dtype=float).reshape(4, 2)[:3] - 1 + 0.5, 0.5
    else:
        raise DataError(f"a face is marked by 4 numbers (a box) or 8 (corners), got {len(corners)}")
    first, second, third = points
    across, down = second - first, third - second
    if abs(across[0] * down[1] - across[1] * down[0]) < 1:
        raise DataError(f"the marked corners {[float(value) for value in corners]} enclose no pixel")
    outer = np.stack(
        [
            first - margin * across - margin * down,
            second + margin * across - margin * down,
            third + margin * across + margin * down,
        ]
    )
    sides = (1 + 2 * margin) * np.array([np.linalg.norm(across), np.linalg.norm(down)])
    size = int(np.clip(round(float(sides.mean() + 2 * inset)), 1, LARGEST_SIDE))
    if size < 2:
        inset = 0.0
    end = size - inset
    matrix = fit_affine(outer, np.array([(inset, inset), (end, inset), (end, end)]))
    return warp_square(image, matrix, size, repeat_edge=False)


def _square(box: Sequence[float]) -> np.ndarray:
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        raise DataError(f"the box {[float(value) for value in box]} must have x1 < x2 and y1 < y2")
    half = max(right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    return np.array([(x - half, y - half), (x + half, y - half), (x + half, y + half)])
