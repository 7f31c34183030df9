"""Read own class folders, and ImageNet's: images squeezed to one size, from one mapped file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.cli.machine import core_count, memory_bytes
from finetune.errors import DataError, ResourceError, UsageError, listing
from finetune.images.cache.file import MAGIC, map_files
from finetune.images.cache.source import CachedSource, ImageSource, open_pictures
from finetune.images.checks import missing_files, refuse_missing
from finetune.images.folders import (
    ClassFolders,
    find_class_folders,
    is_picture,
    list_class_folders,
    part_folders,
)
from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec
from generalcls.config import GeneralDataConfig
from generalcls.data.image_set import ImageSet, Reading

WNID = re.compile(r"n\d{8}")
IMAGENET_SIZE, FOLDERS_SIZE = 224, 64
IMAGENET_CLASSES, IMAGENET_TRAIN, IMAGENET_VAL = 1000, 1_281_167, 50_000
IMAGENET_SOURCE = "https://image-net.org/challenges/LSVRC/2012/ (ILSVRC2012, after registration)"
WHAT = "train/ and test/ (or val/) with one folder of images per class, or the class folders alone"


def read_own_folders(config: GeneralDataConfig, cache: str = "auto") -> Reading:
    """Return the images of own class folders, RGB, squeezed to squares of `image_size` (64) pixels.

    The test part is test/, else val/; a val/ beside a test/ is not used, since nothing is selected here.

    Args:
        config: root, image_size, missing and skip_bad.
        cache: where squeezed images are kept: auto, none, or a folder.

    Raises:
        DataError: no class folders; images in no class; a tested class that has no training images;
            images that cannot be read.
    """
    place = _place(config.root, "own class folders", WHAT)
    parts = part_folders(place)
    tested = next((part for part in ("test", "val") if part in parts), None)
    used = {part: folder for part, folder in parts.items() if part in ("train", tested)}
    found = list_class_folders(place, used)
    notes = list(found.notices)
    if tested == "test" and "val" in parts:
        notes.append(f"{parts['val']}/ is not used: nothing is selected by validation images here")
    alone, untested = _class_differences(found, tested)
    if tested and alone:
        raise DataError(f"{place}: {len(alone)} tested classes have no training images:\n{listing(alone)}")
    if tested and untested:
        notes.append(f"{len(untested)} classes have no test images: {', '.join(untested[:10])}")
    train, test, told, content = _read_pixels(place, found, config, cache, config.image_size or FOLDERS_SIZE)
    names = tuple(found.class_names)
    return Reading(train, test if tested else None, names, False, (*notes, *told), content)


def read_imagenet(config: GeneralDataConfig, cache: str = "auto") -> Reading:
    """Return ImageNet's train/<wnid>/ and val/<wnid>/, RGB, squeezed to squares of `image_size` (224) pixels.

    The published 50,000 validation images are the test part, as in every paper, and count as published at
    224 pixels alone; classes stand in the order of their WordNet ids. Fewer classes than 1,000 are reported,
    not refused.

    Args:
        config: root, image_size, missing and skip_bad.
        cache: where squeezed images are kept: auto, none, or a folder.

    Raises:
        DataError: no train/ and val/; validation images that are not sorted into classes; parts with other
            classes; folders that are no WordNet ids; images that cannot be read.
    """
    what = "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG"
    place = _place(config.root, "ImageNet", f"{what}. Where from: {IMAGENET_SOURCE}")
    parts = part_folders(place)
    if not {"train", "val"} <= set(parts):
        have = ", ".join(f"{name}/" for name in parts.values()) or "class folders alone"
        raise DataError(f"{place}: ImageNet is {what}; found {have}. Where from: {IMAGENET_SOURCE}")
    _refuse_flat(place / parts["val"])
    found = list_class_folders(place, {part: parts[part] for part in ("train", "val")})
    strangers = [name for name in found.class_names if WNID.fullmatch(name) is None]
    if strangers:
        raise DataError(
            f"{place}: {len(strangers)} folders are no WordNet ids such as n01440764; own class folders are "
            f"read with --data.name folders:\n{listing(strangers)}"
        )
    alone, untested = _class_differences(found, "val")
    if alone or untested:
        lines = [f"{name}: in val/ alone" for name in alone]
        lines += [f"{name}: in train/ alone" for name in untested]
        raise DataError(f"{place}: train/ and val/ hold other classes; complete them:\n{listing(lines)}")
    side = config.image_size or IMAGENET_SIZE
    train, test, told, content = _read_pixels(place, found, config, cache, side)
    counts = (len(found.class_names), len(train), len(test))
    official = (counts[0], counts[2], side) == (IMAGENET_CLASSES, IMAGENET_VAL, IMAGENET_SIZE)
    if side != IMAGENET_SIZE:
        told.append(
            f"published scores are on images of {IMAGENET_SIZE} px: at {side} px the test part does not "
            "count as the published one"
        )
    if counts != (IMAGENET_CLASSES, IMAGENET_TRAIN, IMAGENET_VAL):
        told.append(
            f"a part of ImageNet: {counts[0]} of {IMAGENET_CLASSES} classes, {counts[1]} of {IMAGENET_TRAIN} "
            f"training and {counts[2]} of {IMAGENET_VAL} validation images"
        )
    names = tuple(found.class_names)
    return Reading(train, test, names, official, (*found.notices, *told), content)


def _place(root: str | None, title: str, what: str) -> Path:
    if root is None:
        raise UsageError(f"{title} are read from a folder: say --data.root FOLDER, which holds {what}")
    given = Path(root)
    if not given.is_dir():
        raise DataError(f"{given}: there is no such folder; it should hold {what}")
    place = find_class_folders(given)
    if place is None:
        raise DataError(f"{given} holds no class folders; place there {what}")
    return place


def _refuse_flat(folder: Path) -> None:
    """Refuse a folder of validation images as the archive unpacks them: 50,000 files in no class."""
    flat = [entry.name for entry in folder.iterdir() if is_picture(entry.name) and entry.is_file()]
    if flat:
        raise DataError(
            f"{folder} holds {len(flat)} images in no class ({min(flat)}, ...). Move each into a folder "
            "named by its WordNet id: torchvision.datasets.ImageNet(root, 'val') does so from "
            "ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz, or use the widely copied valprep.sh"
        )


def _class_differences(found: ClassFolders, tested: str | None) -> tuple[list[str], list[str]]:
    """Return the classes of the tested part alone, and those without a tested image."""
    train = {name for part, name, _ in found.pictures if part == "train"}
    test = {name for part, name, _ in found.pictures if part == tested}
    return sorted(test - train), sorted(train - test)


def _read_pixels(
    place: Path, found: ClassFolders, config: GeneralDataConfig, cache: str, side: int
) -> tuple[ImageSet, ImageSet, list[str], str]:
    """Return training and other images, notes, and a digest of the files' bytes and the resize rule."""
    if not found.pictures:
        raise DataError(f"{place} holds no folder with images; put each class's images in one of its own")
    manifest, notes = _manifest(place, found, config)
    spec = PreprocessSpec(side, "warp", side, "bicubic", (0.0,) * 3, (1.0,) * 3)
    source = open_pictures(manifest, spec, cache, skip_bad=config.skip_bad)
    if len(source.bad) == len(manifest):
        told = [f"{manifest['path'][row]}: {reason}" for row, reason in source.bad.items()]
        raise DataError(f"{place}: none of the {len(told)} images can be read:\n{listing(told)}")
    good = np.array([row for row in range(len(manifest)) if row not in source.bad], dtype=np.int64)
    if source.bad:
        notes.append(f"{len(source.bad)} images cannot be read and are left out (--data.skip_bad true)")
    mapped = _mapped(source, len(good), side)
    images = _decoded(source, good, side) if mapped is None else mapped
    notes.append(f"images are squeezed to {side} x {side} pixels, whatever their shape")
    whole = ImageSet(images, manifest.label[good])
    split = manifest["split"][good]
    train, rest = (whole.select(np.flatnonzero(rows)) for rows in (split != "test", split == "test"))
    content = hashlib.sha256(f"{source.content} {spec.to_dict()} {sorted(source.bad)}".encode()).hexdigest()
    return train, rest, notes, content


def _manifest(place: Path, found: ClassFolders, config: GeneralDataConfig) -> tuple[Manifest, list[str]]:
    """Return the images sorted by path (so a part lies together), without the missing ones."""
    pictures = sorted(found.pictures, key=lambda picture: picture.path)
    paths = [picture.path for picture in pictures]
    absent = missing_files(place, paths, follow=True)
    gone = [path for path, out in zip(paths, absent, strict=True) if out]
    if config.missing == "error":
        refuse_missing(place, gone, len(paths))
    if len(gone) == len(paths):
        raise DataError(f"{place}: none of the {len(paths)} images is there:\n{listing(gone)}")
    label = {name: index for index, name in enumerate(found.class_names)}
    kept = [picture for picture, out in zip(pictures, absent, strict=True) if not out]
    columns: Mapping[str, Sequence[object]] = {
        "path": [picture.path for picture in kept],
        "label": [label[picture.class_name] for picture in kept],
        "split": ["train" if picture.part in ("train", "") else "test" for picture in kept],
    }
    arrays = {name: np.array(values) for name, values in columns.items()}
    notes = [f"{len(gone)} images are not there and are left out (--data.missing drop)"] if gone else []
    return Manifest(place, tuple(found.class_names), arrays), notes


def _mapped(source: ImageSource, count: int, side: int) -> np.ndarray | None:
    """Return the cache file's pixels, mapped read-only; a bad image takes no room in it.

    None where there is no such file, or it is damaged and cannot be written to.
    """
    if not isinstance(source, CachedSource) or not count or not source.check():
        return None
    return np.memmap(source.cache_file, np.uint8, "r", offset=len(MAGIC), shape=(count, side, side, 3))


def _decoded(source: ImageSource, rows: np.ndarray, side: int) -> np.ndarray:
    needed = len(rows) * side * side * 3
    if 2 * needed > memory_bytes():
        raise ResourceError(
            f"{len(rows)} images of {side} px need {needed / 2**30:.1f} GiB of memory, more than half of "
            "it; keep them in a file with --run.cache auto"
        )
    images = np.empty((len(rows), side, side, 3), np.uint8)
    loaded = map_files(source.__getitem__, rows.tolist(), core_count(), "decoding images")
    for place, picture in enumerate(loaded):
        images[place] = picture
    return images
