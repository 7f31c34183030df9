"""What the look-alike data sets share: which images there are, which are tested, and how one is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from finetune.errors import UsageError
from finetune.seeding import numpy_generator

DRAWN = "Drawn"
TEST_SHARE = 0.4


@dataclass(frozen=True)
class LookalikeSummary:
    """What was written: the data set's folder, its class names in order, the images of each part."""

    root: Path
    class_names: tuple[str, ...]
    train: int
    test: int

    @property
    def images(self) -> int:
        """All images."""
        return self.train + self.test


@dataclass(frozen=True)
class DrawnImage:
    """One image to write: its class from 0, its number within the class from 0, its part."""

    label: int
    number: int
    split: str


def check_sizes(classes: int, per_class: int, image_size: int) -> None:
    """Raise UsageError unless a look-alike of these sizes can be drawn and split."""
    if classes < 2 or per_class < 2 or image_size < 32:
        raise UsageError(
            "a look-alike needs classes >= 2, per_class >= 2 and image_size >= 32, "
            f"got {classes}, {per_class} and {image_size}"
        )


def plan(classes: int, per_class: int, seed: int) -> list[DrawnImage]:
    """Return the images to draw, class by class; which of a class are tested is drawn by `seed`."""
    tests = min(per_class - 1, max(1, round(TEST_SHARE * per_class)))
    images = []
    for label in range(classes):
        tested = set(numpy_generator(seed, "tested", label).permutation(per_class)[:tests].tolist())
        images += [DrawnImage(label, n, "test" if n in tested else "train") for n in range(per_class)]
    return images


def summary(root: Path, names: tuple[str, ...], images: list[DrawnImage]) -> LookalikeSummary:
    """Return the counts of what was written."""
    tests = sum(image.split == "test" for image in images)
    return LookalikeSummary(Path(root), names, len(images) - tests, tests)


def write_jpeg(file: Path, pixels: np.ndarray, *, grey: bool = False) -> None:
    """Write a picture, uint8 (H, W, 3) RGB, as JPEG, of one channel where it is to be `grey`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    file.write_bytes(encoded.tobytes())
