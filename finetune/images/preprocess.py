"""Preprocessing as data: one frozen record, and the torch-free functions that apply it everywhere alike.

Resizing is antialiased: an axis that shrinks is averaged over areas, an axis that grows is interpolated. From
Pillow's antialiased bicubic, which timm uses, photographs differ by about one grey level in the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import cv2
import numpy as np

from finetune.errors import UsageError

RESIZERS = ("warp", "short")
INTERPOLATIONS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}
TEST_CROPS = {"center": 1, "flip": 2, "ten": 10}
OPENCV = {"bilinear": "INTER_LINEAR", "bicubic": "INTER_CUBIC", "lanczos": "INTER_LANCZOS4"}
Place = tuple[
    int, int, bool
]  # where a square crop begins, top and left in pixels, and whether it is mirrored
ALGORITHM = 1  # the number of this resize rule, as an exported file names it
RESIZER = f"area-then-grow opencv-{cv2.__version__}"


@dataclass(frozen=True)
class PreprocessSpec:
    """How a decoded image becomes a network's input; saved with the checkpoint and inside the ONNX file.

    `image_size` is the side of the square the network sees (px). `resize` "warp" squeezes the image to
    `resize_size` x `resize_size`; "short" scales its shorter side to `resize_size` and keeps its shape.
    `interpolation` is used where an axis grows. `mean` and `std` belong to pixels scaled to 0-1, as RGB.

    Raises UsageError for a choice that is not offered, `resize_size < image_size` or a deviation <= 0.

    >>> spec = PreprocessSpec(224, "warp", 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    >>> PreprocessSpec.from_dict(spec.to_dict()) == spec
    True
    """

    image_size: int
    resize: Literal["warp", "short"]
    resize_size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    color: str = "RGB"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        _check_choice("resize", self.resize, RESIZERS)
        _check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        _check_choice("color", self.color, ("RGB",))
        if not 1 <= self.image_size <= self.resize_size:
            sizes = f"{self.image_size} and {self.resize_size}"
            raise UsageError(f"preprocess: need 1 <= image_size <= resize_size, got {sizes}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UsageError(
                f"preprocess: mean and std need three numbers, std above 0; got {self.mean}, {self.std}"
            )

    def algorithm(self) -> dict[str, Any]:
        """Return the exact resize rule, as an exported file states it for other programs."""
        return {
            "schema": ALGORITHM,
            "order": "axes that shrink first, then axes that grow",
            "shrinking": {"method": "area average", "opencv": "INTER_AREA"},
            "enlarging": {"method": self.interpolation, "opencv": OPENCV[self.interpolation]},
            "long_side": "rounded down",
            "crop": "centre, an odd pixel stays below and right",
        }

    def describe(self) -> str:
        """Return the exact resize rule in words.

        >>> PreprocessSpec(32, "warp", 36, "bicubic", (0.5,) * 3, (0.5,) * 3).describe()
        'both sides to 36, shrinking by area averages and enlarging by bicubic, then the centre 32 x 32'
        """
        sides = "both sides" if self.resize == "warp" else "the short side"
        how = f"shrinking by area averages and enlarging by {self.interpolation}"
        return f"{sides} to {self.resize_size}, {how}, then the centre {self.image_size} x {self.image_size}"

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PreprocessSpec:
        """Return the record that `to_dict` wrote; UsageError names unknown and missing keys."""
        known = {field.name for field in fields(cls)}
        unknown, missing = sorted(set(values) - known), sorted(known - {"color"} - set(values))
        if unknown or missing:
            raise UsageError(f"preprocess: unknown keys {unknown}, missing keys {missing}")
        return cls(**values)


def _check_choice(field: str, value: str, choices: Mapping[str, int] | tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"preprocess: {field} {value!r} is not offered; choose from {', '.join(choices)}")


def prepared_size(height: int, width: int, spec: PreprocessSpec) -> tuple[int, int]:
    """Return the (height, width) in pixels that `prepare` gives an image of this size.

    >>> spec = PreprocessSpec(224, "short", 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    >>> prepared_size(512, 1024, spec)
    (256, 512)
    """
    side = spec.resize_size
    if spec.resize == "warp":
        return side, side
    short = min(height, width)
    return side * height // short, side * width // short


def prepare(image: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Return the image after the resize rule, before any crop: what the cache stores.

    `image` is uint8 (H, W, 3) RGB. Returns uint8 (h, w, 3): h = w = `resize_size` for "warp", the shorter one
    equal to `resize_size` for "short" (the longer one rounded down).
    """
    height, width = prepared_size(image.shape[0], image.shape[1], spec)
    return resize(image, height, width, spec.interpolation)


def resize(image: np.ndarray, height: int, width: int, interpolation: str = "bicubic") -> np.ndarray:
    """Return uint8 (height, width, 3): shrinking axes by area averages, growing axes by `interpolation`."""
    shrunk = (min(width, image.shape[1]), min(height, image.shape[0]))
    if shrunk != image.shape[1::-1]:
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (width, height):
        image = cv2.resize(image, (width, height), interpolation=INTERPOLATIONS[interpolation])
    return image


def center_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Return the middle `size` x `size` pixels as a view; an odd margin's extra pixel stays below, right."""
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size]


def preprocess(image: np.ndarray, spec: PreprocessSpec) -> np.ndarray:
    """Return the image as the network sees it in evaluation: the centre crop of `prepare`.

    `image` is uint8 (H, W, 3) RGB of any size. Returns contiguous uint8 (S, S, 3), S = `spec.image_size`.
    """
    return np.ascontiguousarray(center_crop(prepare(image, spec), spec.image_size))


def test_places(height: int, width: int, size: int, crops: str) -> list[Place]:
    """Return the (top, left, mirrored) of each test crop of a prepared image, in pixels; see `test_crops`."""
    places: list[Place] = [((height - size) // 2, (width - size) // 2, False)]
    if crops == "ten":
        places += [(top, left, False) for top in (0, height - size) for left in (0, width - size)]
    if crops != "center":
        places += [(top, left, True) for top, left, _ in places]
    return places


def place_crop(image: np.ndarray, place: Place, out: np.ndarray) -> None:
    """Write the square crop that begins at (top, left), mirrored or not, into contiguous uint8 (S, S, 3)."""
    top, left, mirrored = place
    crop = image[top : top + len(out), left : left + len(out)]
    if mirrored:
        cv2.flip(crop, 1, dst=out)  # half the time of a reversed view
    else:
        out[:] = crop


def test_crops(prepared: np.ndarray, spec: PreprocessSpec, crops: str) -> np.ndarray:
    """Return the crops of one prepared image whose softmax outputs are averaged in testing.

    `crops` is "center" (1), "flip" (the centre and its mirror image, 2) or "ten": centre, top left, top
    right, bottom left, bottom right, then the mirror images of these five in the same order (Krizhevsky et
    al., ImageNet Classification with Deep Convolutional Neural Networks, 2012).

    Returns uint8 (n, S, S, 3). Raises UsageError for another name.
    """
    _check_choice("crops", crops, TEST_CROPS)
    size = spec.image_size
    found = np.empty((TEST_CROPS[crops], size, size, 3), np.uint8)
    for place, out in zip(test_places(prepared.shape[0], prepared.shape[1], size, crops), found, strict=True):
        place_crop(prepared, place, out)
    return found
