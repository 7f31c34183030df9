"""Small made-up data sets in the true formats of MNIST, CIFAR, SVHN, ImageNet and class folders, all drawn.

A class is the angle (and, in colour, the hue) of a grating, so that a small network tells the classes apart.
Counts and checksums are not the published ones: read them with `subset=True`.
"""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from finetune.seeding import numpy_generator
from generalcls.data.cifar import CIFARS, PARQUET, CifarName
from generalcls.data.image_set import ImageSet
from generalcls.data.svhn import FILES

WAVES = 3  # of a grating within an image


def draw_images(
    classes: int, per_class: int, side: int, channels: int, *, seed: int = 0, part: str = "train"
) -> ImageSet:
    """Return drawn images, `per_class` of each class, shuffled.

    Args:
        classes: K; class k is a grating at the angle pi k / K, in colour of the hue k / K.
        per_class: images of each class.
        side: pixels.
        channels: 1 or 3.
        seed: decides phases, noise and order.
        part: other parts get other images.

    >>> draw_images(3, 2, 8, 1).images.shape
    (6, 8, 8, 1)
    """
    rng = numpy_generator(seed, "drawn", part)
    target = rng.permutation(np.repeat(np.arange(classes), per_class)).astype(np.int64)
    angle = np.pi * target / classes
    y, x = np.mgrid[0:side, 0:side] / side
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    wave = np.cos(2 * np.pi * (WAVES * along + rng.random((len(target), 1, 1))))
    grey = 128 + 90 * wave + rng.normal(0, 12, wave.shape)
    if channels == 1:
        return ImageSet(np.clip(grey, 0, 255).astype(np.uint8)[..., None], target)
    phase = 2 * np.pi * (target[:, None] / classes + np.arange(3) / 3)
    tint = 0.6 + 0.4 * np.cos(phase)
    return ImageSet(np.clip(grey[..., None] * tint[:, None, None], 0, 255).astype(np.uint8), target)


def write_lookalike_mnist(
    root: Path, train: int = 6, test: int = 2, *, packed: bool = True, seed: int = 0
) -> tuple[ImageSet, ImageSet]:
    """Write MNIST/raw/ with drawn digits, `train` and `test` of each class; return the two parts.

    Args:
        root: the folder.
        train: training images of each class.
        test: test images of each class.
        packed: with gzip, as the archive has them, or not, as torchvision leaves them.
        seed: decides the images.
    """
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    parts = [draw_images(10, count, 28, 1, seed=seed, part=name) for count, name in _named(train, test)]
    for part, name in zip(parts, ("train", "t10k"), strict=True):
        arrays = {"images-idx3": part.images[..., 0], "labels-idx1": part.target.astype(np.uint8)}
        for kind, array in arrays.items():
            content = idx_bytes(array)
            file = folder / f"{name}-{kind}-ubyte{'.gz' * packed}"
            file.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    return parts[0], parts[1]


def idx_bytes(array: np.ndarray) -> bytes:
    """Return unsigned bytes in the idx format that MNIST is published in."""
    header = bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return header + array.tobytes()


def write_lookalike_cifar(
    root: Path,
    name: CifarName = "cifar10",
    train: int = 5,
    test: int = 2,
    *,
    layout: Literal["python", "parquet"] = "python",
    seed: int = 0,
) -> tuple[ImageSet, ImageSet]:
    """Write CIFAR's python batches or a parquet copy (of PNG images); return the two parts.

    Args:
        root: the folder.
        name: cifar10 or cifar100.
        train: training images of each class.
        test: test images of each class.
        layout: python (cifar-10-batches-py/, cifar-100-python/) or parquet (plain_text/, cifar100/).
        seed: decides the images.
    """
    cifar = CIFARS[name]
    classes = len(cifar.class_names)
    parts = [draw_images(classes, count, 32, 3, seed=seed, part=part) for count, part in _named(train, test)]
    folder = root / cifar.layouts[layout == "parquet"].folders[0]
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "parquet":
        for file, part in zip(PARQUET, parts, strict=True):
            _write_parquet(folder / file, part, cifar.column, cifar.class_names)
        return parts[0], parts[1]
    batches = np.array_split(np.arange(len(parts[0])), len(cifar.train))
    for file, rows in zip(cifar.train, batches, strict=True):
        _write_batch(folder / file, parts[0].select(rows), cifar.labels)
    _write_batch(folder / cifar.test, parts[1], cifar.labels)
    _pickle(folder / cifar.meta, {cifar.names: list(cifar.class_names)})
    return parts[0], parts[1]


def write_lookalike_svhn(
    root: Path, train: int = 4, test: int = 2, extra: int = 3, *, seed: int = 0
) -> dict[str, ImageSet]:
    """Write SVHN's .mat files, the extra one unless `extra` is 0; return the parts by name.

    Args:
        root: the folder.
        train: training images of each class.
        test: test images of each class.
        extra: extra images of each class.
        seed: decides the images.
    """
    from scipy.io import savemat

    root.mkdir(parents=True, exist_ok=True)
    counts = {"train": train, "test": test, "extra": extra}
    parts = {part: draw_images(10, n, 32, 3, seed=seed, part=part) for part, n in counts.items() if n}
    for name, part in parts.items():
        labels = np.where(part.target == 0, 10, part.target).astype(np.uint8)[:, None]
        savemat(root / FILES[name], {"X": part.images.transpose(1, 2, 3, 0), "y": labels})
    return parts


def write_lookalike_imagenet(
    root: Path, classes: int = 3, train: int = 4, test: int = 2, *, side: int = 40, seed: int = 0
) -> tuple[str, ...]:
    """Write train/<wnid>/ and val/<wnid>/ with drawn JPEG images; return the made-up WordNet ids.

    Args:
        root: the folder.
        classes: how many.
        train: training images of each class.
        test: validation images of each class.
        side: height in pixels; the width is half as much again.
        seed: decides the images.
    """
    names = tuple(f"n{1440764 + 13 * label:08d}" for label in range(classes))
    _write_tree(root / "train", names, train, side, seed, "train")
    _write_tree(root / "val", names, test, side, seed, "val")
    return names


def write_lookalike_folders(
    root: Path,
    classes: int = 3,
    per_class: int = 6,
    *,
    parts: tuple[str, ...] = ("train", "test"),
    side: int = 40,
    seed: int = 0,
) -> tuple[str, ...]:
    """Write one folder of drawn images per class, under each of `parts` (() for none); return the names.

    Args:
        root: the folder.
        classes: how many.
        per_class: images of each class in each part.
        parts: folders of the parts.
        side: height in pixels; the width is half as much again.
        seed: decides the images.
    """
    names = tuple(f"grating_{label:02d}" for label in range(classes))
    for part in parts or ("",):
        _write_tree(root / part, names, per_class, side, seed, part)
    return names


def _named(train: int, test: int) -> Iterator[tuple[int, str]]:
    yield train, "train"
    yield test, "test"


def _write_batch(file: Path, part: ImageSet, labels: str) -> None:
    rows = np.ascontiguousarray(part.images.transpose(0, 3, 1, 2)).reshape(len(part), -1)
    names = [f"drawn_{place:05d}.png" for place in range(len(part))]
    _pickle(file, {"data": rows, labels: part.target.tolist(), "filenames": names})


def _pickle(file: Path, content: dict[str, Any]) -> None:
    file.write_bytes(pickle.dumps(content, protocol=2))


def _write_parquet(file: Path, part: ImageSet, column: str, names: tuple[str, ...]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": _encoded(image, ".png"), "path": f"{at}.png"} for at, image in enumerate(part.images)]
    table = pa.table({"img": cells, column: part.target})
    told = {"info": {"features": {column: {"names": list(names), "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(told)}), file)


def _write_tree(root: Path, names: tuple[str, ...], count: int, side: int, seed: int, part: str) -> None:
    drawn = draw_images(len(names), count, side, 3, seed=seed, part=part)
    for place, (image, label) in enumerate(zip(drawn.images, drawn.target.tolist(), strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        wide = cv2.resize(image, (side * 3 // 2, side))
        (folder / f"{names[label]}_{place:04d}.JPEG").write_bytes(_encoded(wide, ".jpg"))


def _encoded(image: np.ndarray, ending: str) -> bytes:
    _, encoded = cv2.imencode(ending, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()
