"""From a face's box and landmarks to the square image that a model expects; no detector is needed here.

Coordinates are continuous: pixel (column i, row j) covers [i, i + 1) x [j, j + 1), so its middle lies at
(i + 0.5, j + 0.5), and scaling an image scales its coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from agecls.faces.crop import FaceCrop
from finetune.errors import UsageError
from finetune.images.preprocess import resize

# Where Adience's aligned images have the eyes, the tip of the nose and the corners of the mouth (px of a
# frame of 816, image-left first). Derived from the published alignment code (eranid/adience_align), which
# fits all six affine parameters: its faces are about 1.3 times as long as natural ones, which turning and
# scaling alone cannot reach.
FRAME = 816
TEMPLATE = np.array([(318, 241.3), (498, 241.3), (408, 365), (348, 488), (468, 488)])
# An affine fit that stretches one direction this much more than the other is of a head seen from the side.
MAX_STRETCH = 3.0

FEWEST_EYE_PIXELS = 20
LOW_SCORE = 0.75
# Passed by two in three heads at 45 degrees, one in five at 30 and one in a hundred frontal ones (Adience).
MOST_TURNED = 0.3
MOST_TILTED = 60  # degrees: beyond it an image lies on its side or stands on its head


@dataclass(frozen=True, eq=False)
class Face:
    """One face in an image.

    Args:
        box: x, y, width and height (px of the whole image), the size being that of the upright face; may
            reach over the image's edges.
        score: the detector's confidence, 0 to 1; NaN from a detector that gives none.
        landmarks: float (5, 2): image-left eye, image-right eye, tip of the nose, image-left and image-right
            corner of the mouth; None from a detector that finds none.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: np.ndarray | None = None

    @property
    def eye_distance(self) -> float:
        """Distance between the eyes (px); NaN without landmarks."""
        if self.landmarks is None:
            return float("nan")
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))

    @property
    def tilt(self) -> float:
        """Angle of the line of the eyes (degrees), above 0 where the right one in the image is lower."""
        if self.landmarks is None:
            return 0.0
        across, down = self.landmarks[1] - self.landmarks[0]
        return float(np.degrees(np.arctan2(down, across)))

    @property
    def turn(self) -> float:
        """How far the nose is off the middle of the eyes, along their line, in eye distances (0: frontal)."""
        if self.landmarks is None or not self.eye_distance:
            return 0.0
        left, right, nose = self.landmarks[:3]
        return float((nose - (left + right) / 2) @ (right - left) / self.eye_distance**2)

    def warnings(self) -> list[str]:
        """Return why a prediction about this face deserves little trust, in words; none for a good face."""
        told = []
        if self.eye_distance < FEWEST_EYE_PIXELS:
            told.append(
                f"small face: the eyes are {self.eye_distance:.0f} px apart (under {FEWEST_EYE_PIXELS})"
            )
        if self.score < LOW_SCORE:
            told.append(f"perhaps no face: the detector is only {100 * self.score:.0f} % sure")
        if abs(self.turn) > MOST_TURNED:
            told.append("the head is turned far to the side")
        if abs(self.tilt) > MOST_TILTED:
            told.append(f"the face is tilted by {abs(self.tilt):.0f} degrees: turn the image upright")
        return told


def crop_face(
    image: np.ndarray, face: Face, crop: FaceCrop, size: int, interpolation: str = "bicubic"
) -> np.ndarray:
    """Return one face as a model with this crop expects it.

    Args:
        image: uint8 (H, W, 3), the whole image that the face was found in.
        face: where the face is, in the image's pixels; may reach over its edges.
        crop: the rule. "aligned" maps the five landmarks onto Adience's template, black outside the image.
            "faces" turns the image until the eyes are level; "plain" turns nothing; both take the region of
            `region_size`, moved by the drop, squeeze it to a square, and repeat the image's edge where it
            ends.
        size: side of the result (px). The model's `resize_size` is best: its `preprocess` then only cuts the
            middle, and no pixel is resampled twice.
        interpolation: what enlarges a plain crop, as in the model's PreprocessSpec.

    Returns uint8 (size, size, 3); what shrinks is averaged over areas.
    Raises UsageError where "aligned" meets a face without landmarks.
    """
    if size < 1:
        raise UsageError(f"a face crop needs a side of at least 1 px, got {size}")
    if crop.style == "plain":
        return _cut_region(image, face, crop, size, interpolation)
    if crop.style == "faces":
        return warp_square(image, upright_matrix(face, crop, size), size, repeat_edge=True)
    if face.landmarks is None:
        raise UsageError(
            "this model expects faces aligned by their eyes, nose and mouth, which this detector does not "
            "tell; use the YuNet detector"
        )
    return warp_square(image, aligning_matrix(face.landmarks, size), size, repeat_edge=False)


def region_size(face: Face, crop: FaceCrop) -> np.ndarray:
    """Return the width and height (px of the image, float (2,)) that "plain" and "faces" cut out.

    The height is the box's longer side with the margin on both ends, the width `aspect` times that.
    """
    height = max(face.box[2:]) * (1 + 2 * crop.margin)
    return np.array([crop.aspect * height, height])


def template(size: int) -> np.ndarray:
    """Return where the five landmarks lie in an aligned image of `size` px, float (5, 2).

    >>> template(256)[0].round(1).tolist()
    [99.8, 75.7]
    """
    scaled: np.ndarray = TEMPLATE * (size / FRAME)
    return scaled


def aligning_matrix(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Return the affine map (2, 3) that brings landmarks (5, 2) nearest to the template, by least squares.

    A head seen from the side has its eyes almost on one line with the nose: six parameters would stretch it
    beyond recognition, so four (turn, scale, shift) are fitted where the stretch would exceed MAX_STRETCH.
    """
    matrix = fit_affine(landmarks, template(size))
    wide, narrow = np.linalg.svd(matrix[:, :2], compute_uv=False)
    flipped = np.linalg.det(matrix[:, :2]) <= 0
    return fit_similarity(landmarks, template(size)) if flipped or wide > MAX_STRETCH * narrow else matrix


def upright_matrix(face: Face, crop: FaceCrop, size: int) -> np.ndarray:
    """Return the map (2, 3) that turns a face upright and brings its region onto a square of `size` px."""
    x, y, width, height = face.box
    angle = np.radians(face.tilt)
    along, down = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    turn = np.stack([along, down]) * (size / region_size(face, crop))[:, None]
    centre = np.array([x + width / 2, y + height / 2]) + crop.drop * max(width, height) * down
    return np.column_stack([turn, size / 2 - turn @ centre])


def fit_affine(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the (2, 3) matrix of the affine map that brings points (n, 2) nearest to targets (n, 2).

    >>> square = np.array([(0.0, 0.0), (2.0, 0.0), (0.0, 2.0), (2.0, 2.0)])
    >>> (fit_affine(square, square * (2, 3) + (1, 0)).round(6) + 0.0).tolist()
    [[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]
    """
    centre = points.mean(axis=0)
    linear = np.linalg.lstsq(points - centre, target - target.mean(axis=0), rcond=None)[0].T
    return np.column_stack([linear, target.mean(axis=0) - linear @ centre])


def fit_similarity(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the (2, 3) matrix of the turn, scale and shift that bring points nearest to targets.

    >>> level, upright = np.array([(0.0, 0.0), (1.0, 0.0)]), np.array([(5.0, 5.0), (5.0, 7.0)])
    >>> fit_similarity(level, upright).round(6).tolist()
    [[0.0, -2.0, 5.0], [2.0, 0.0, 5.0]]
    """
    centre, to = points.mean(axis=0), target.mean(axis=0)
    here, there = points - centre, target - to
    spread = float(np.square(here).sum()) or 1.0
    cosine = float((here * there).sum()) / spread
    sine = float((here[:, 0] * there[:, 1] - here[:, 1] * there[:, 0]).sum()) / spread
    linear = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([linear, to - linear @ centre])


def warp_square(image: np.ndarray, matrix: np.ndarray, size: int, *, repeat_edge: bool) -> np.ndarray:
    """Return uint8 (size, size, 3): the image seen through an affine map, without aliasing.

    Args:
        image: uint8 (H, W, 3) of any size.
        matrix: float (2, 3), from the image's coordinates to those of the result.
        size: side of the result (px).
        repeat_edge: outside the image repeat its edge; else black.

    Only the part that is seen is touched; where it shrinks it is averaged over areas first.
    """
    linear, shift = matrix[:, :2], matrix[:, 2]
    corners = np.array([(0, 0), (size, 0), (0, size), (size, size)], dtype=float)
    seen = np.linalg.solve(linear, (corners - shift).T).T
    shape = np.array(image.shape[1::-1])
    # Cubic interpolation reads two pixels further, in pixels of the shrunk part.
    reach = 2 + 2 / np.linalg.norm(linear, axis=0)
    low = np.clip(np.floor(seen.min(axis=0) - reach), 0, shape - 1).astype(int)
    high = np.clip(np.ceil(seen.max(axis=0) + reach), low + 1, shape).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    shift = shift + linear @ low
    wanted = np.ceil((high - low) * np.minimum(1, np.linalg.norm(linear, axis=0))).astype(int)
    width, height = (max(1, int(side)) for side in wanted)
    linear = linear * ((high - low) / (width, height))
    part = resize(part, height, width)
    middle = shift + linear @ np.array([0.5, 0.5]) - 0.5  # OpenCV counts from the first pixel's middle
    border = cv2.BORDER_REPLICATE if repeat_edge else cv2.BORDER_CONSTANT
    moved = np.column_stack([linear, middle])
    warped = cv2.warpAffine(part, moved, (size, size), flags=cv2.INTER_CUBIC, borderMode=border)
    return np.asarray(warped)


def _cut_region(image: np.ndarray, face: Face, crop: FaceCrop, size: int, interpolation: str) -> np.ndarray:
    """Cut whole pixels and resize once, so that a crop equals a stored image of the same pixels."""
    x, y, width, height = face.box
    region = np.maximum(1, np.round(region_size(face, crop))).astype(int)
    middle = np.array([x + width / 2, y + height / 2 + crop.drop * max(width, height)])
    low = np.floor(middle - region / 2 + 0.5).astype(int)
    high = low + region
    shape = np.array(image.shape[1::-1])
    inside_low = np.clip(low, 0, shape - 1)
    inside_high = np.clip(high, inside_low + 1, shape)
    part = image[inside_low[1] : inside_high[1], inside_low[0] : inside_high[0]]
    # Shrunk before its edges are repeated: a box far outside a large image must not fill the memory.
    scale = np.minimum(1.0, size / region)
    before = np.round(np.maximum(inside_low - low, 0) * scale).astype(int)
    after = np.round(np.maximum(high - inside_high, 0) * scale).astype(int)
    if before.any() or after.any():
        inner = np.maximum(1, np.round((inside_high - inside_low) * scale)).astype(int)
        part = resize(part, int(inner[1]), int(inner[0]))
        edges = (int(before[1]), int(after[1]), int(before[0]), int(after[0]))
        part = cv2.copyMakeBorder(part, *edges, borderType=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(resize(part, size, size, interpolation))
