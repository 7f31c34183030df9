"""Small made-up data sets in the layouts of CUB-200-2011 and class folders, and what all made-up ones share.

Those of Stanford Cars are written by `finegrained.synthetic.cars`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from finegrained.synthetic.drawing import Box, draw_bird
from finetune.errors import UsageError
from finetune.images.class_names import display_name
from finetune.seeding import numpy_generator

COLOURS = ("Rusty", "Mossy", "Snowy", "Sooty", "Dusky", "Amber", "Azure", "Ashen")
KINDS = ("Finch", "Wren", "Gull", "Tern", "Warbler")
DRAWN = "Drawn"
TEST_SHARE = 0.4


def write_lookalike_cub(
    root: Path, classes: int = 6, per_class: int = 10, seed: int = 0, *, image_size: int = 64
) -> LookalikeSummary:
    """Write drawn birds as CUB-200-2011 lies on disk: the four lists, boxes, parts and images/ under `root`.

    Classes come in pairs that share the body's colour. Four of ten images of a class are tested (at least
    one, and one is left to train on). The first image of the second class is greyscale. The same arguments
    write the same bytes. It is a subset of CUB by its counts: read it with subset=True.

    Raises UsageError for fewer than two classes or two images per class, or images smaller than 32 px.
    """
    check_sizes(classes, per_class, image_size)
    names = tuple(f"{index + 1:03d}.{bird_name(index)}" for index in range(classes))
    images = plan(classes, per_class, seed)
    paths, boxes, places = [], [], []
    for number, image in enumerate(images, start=1):
        drawing = draw_bird(image.label, classes, numpy_generator(seed, "bird", number), image_size)
        stem = bird_name(image.label).title()
        path = f"{names[image.label]}/{stem}_{image.number + 1:04d}_{7 * number}.jpg"
        write_jpeg(root / "images" / path, drawing.pixels, grey=image.label == 1 and image.number == 0)
        paths.append(path)
        boxes.append(drawing.box)
        places.append(drawing.parts)
    _write_cub_lists(root, names, images, paths)
    _write_places(root, boxes, places)
    return summary(root, names, images)


def write_lookalike_folders(
    root: Path,
    classes: int = 6,
    per_class: int = 10,
    seed: int = 0,
    *,
    parts: Iterable[str] = ("train", "test"),
    image_size: int = 64,
) -> LookalikeSummary:
    """Write drawn birds as folders of classes under `root`, one tree for each of `parts`; () for none.

    With "val" among the parts, every fourth training image of a class goes there (the summary still counts
    it as training). Otherwise as `write_lookalike_cub`.
    """
    check_sizes(classes, per_class, image_size)
    chosen = tuple(parts)
    if chosen and not {"train"} <= set(chosen) <= {"train", "val", "test"}:
        raise UsageError(f"parts={chosen} must be train and what else is wanted of val and test, or empty")
    names = tuple(bird_name(index) for index in range(classes))
    images = plan(classes, per_class, seed)
    for number, image in enumerate(images, start=1):
        drawing = draw_bird(image.label, classes, numpy_generator(seed, "bird", number), image_size)
        folder = root / _folder_of(image, chosen) / names[image.label]
        write_jpeg(folder / f"{number:05d}.jpg", drawing.pixels, grey=image.label == 1 and image.number == 0)
    return summary(root, names, images)


def bird_name(index: int) -> str:
    """Return the directory name of the drawn bird `index`, without CUB's number.

    >>> bird_name(0), bird_name(41)
    ('Drawn_Rusty_finch', 'Drawn_Mossy_finch_2')
    """
    colour, kind = COLOURS[index % len(COLOURS)], KINDS[index // len(COLOURS) % len(KINDS)]
    round_ = index // (len(COLOURS) * len(KINDS))
    return f"{DRAWN}_{colour}_{kind.lower()}" + (f"_{round_ + 1}" if round_ else "")


def is_drawn(class_names: Iterable[str]) -> bool:
    """Return whether classes are the synthetic ones: there are some, and every name says that it is drawn."""
    names = [display_name(name) for name in class_names]
    return bool(names) and all(name.startswith(f"{DRAWN} ") for name in names)


def _folder_of(image: DrawnImage, parts: tuple[str, ...]) -> str:
    if not parts:
        return ""
    if image.split == "train" and "val" in parts and image.number % 4 == 3:
        return "val"
    return image.split if image.split in parts else "train"


def _write_cub_lists(root: Path, names: tuple[str, ...], images: list[DrawnImage], paths: list[str]) -> None:
    numbered = list(enumerate(images, start=1))
    _write_lines(root / "images.txt", (f"{n} {path}" for n, path in enumerate(paths, start=1)))
    _write_lines(root / "image_class_labels.txt", (f"{n} {image.label + 1}" for n, image in numbered))
    _write_lines(root / "train_test_split.txt", (f"{n} {int(i.split == 'train')}" for n, i in numbered))
    _write_lines(root / "classes.txt", (f"{n} {name}" for n, name in enumerate(names, start=1)))


def _write_places(
    root: Path,
    boxes: Sequence[Box],
    places: Sequence[Mapping[str, tuple[float, float]]],
) -> None:
    _write_lines(
        root / "bounding_boxes.txt",
        (f"{n} {x1} {y1} {x2 - x1} {y2 - y1}" for n, (x1, y1, x2, y2) in enumerate(boxes, start=1)),
    )
    parts = list(places[0])
    _write_lines(root / "parts/parts.txt", (f"{n} {name}" for n, name in enumerate(parts, start=1)))
    _write_lines(
        root / "parts/part_locs.txt",
        (
            f"{image} {part} {float(place[name][0])} {float(place[name][1])} 1"
            for image, place in enumerate(places, start=1)
            for part, name in enumerate(parts, start=1)
        ),
    )


def _write_lines(file: Path, lines: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


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
    """Raise UsageError unless a data set of these sizes can be drawn and split."""
    if classes < 2 or per_class < 2 or image_size < 32:
        raise UsageError(
            "a synthetic data set needs classes >= 2, per_class >= 2 and image_size >= 32, "
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
    """Write an image, uint8 (H, W, 3) RGB, as JPEG, of one channel where it is to be `grey`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    file.write_bytes(encoded.tobytes())
