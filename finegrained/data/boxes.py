"""The part of each image that is used: all of it, or its bounding box with a margin."""

from __future__ import annotations

import numpy as np

from finegrained.config import FineDataConfig
from finetune.cli.machine import core_count
from finetune.errors import DataError, listing
from finetune.images.cache.file import map_files
from finetune.images.decode import image_size
from finetune.images.manifest import Manifest

CORNERS = ("x1", "y1", "x2", "y2")


def boxes_of(manifest: Manifest) -> np.ndarray | None:
    """Return a table's boxes (N, 4), x1, y1, x2, y2 in px, NaN where a row has none; None without any."""
    if any(name not in manifest for name in CORNERS):
        return None
    return np.stack([manifest[name] for name in CORNERS], axis=1)


def bad_boxes(manifest: Manifest) -> list[str]:
    """Return a line for each box that is not finite or has no area; rows without a box are none."""
    boxes = boxes_of(manifest)
    if boxes is None:
        return []
    return _lines(manifest, boxes, ~_with_area(boxes) & ~np.isnan(boxes).all(axis=1))


def tiny_boxes(manifest: Manifest) -> str:
    """Return what is wrong with boxes of at most a pixel, as corners from 0 to 1 give; empty for none."""
    boxes = boxes_of(manifest)
    if boxes is None:
        return ""
    tiny = _with_area(boxes) & (boxes[:, 2:] - boxes[:, :2] <= 1).all(axis=1)
    if not tiny.any():
        return ""
    fractions = tiny & (boxes >= 0).all(axis=1) & (boxes <= 1).all(axis=1)
    hint = (
        "; their corners lie between 0 and 1, so they look like fractions of the image (normalised): "
        "multiply x1 and x2 by its width in px, y1 and y2 by its height"
        if fractions.any()
        else "; corners are x1, y1, x2, y2 in px"
    )
    lines = _lines(manifest, boxes, tiny)
    return f"{len(lines)} boxes are one pixel or less{hint}:\n{listing(lines)}"


def boxes_outside(manifest: Manifest) -> tuple[str, str]:
    """Return what is wrong with boxes that hold no pixel of their image, and a note on those that are cut.

    Both are empty where there is none. Only the headers of the images that are there are read.
    """
    boxes = boxes_of(manifest)
    if boxes is None:
        return "", ""
    whole = np.flatnonzero(_with_area(boxes)).tolist()
    sizes = map_files(image_size, [manifest.file(row) for row in whole], core_count(), "reading image sizes")
    outside, beyond = np.zeros((2, len(manifest)), dtype=bool)
    for row, size in zip(whole, sizes, strict=True):
        if size is None:
            continue
        x1, y1, x2, y2 = boxes[row]
        outside[row] = x1 >= size[0] or y1 >= size[1] or x2 <= 0 or y2 <= 0
        beyond[row] = min(x1, y1) < -1 or x2 > size[0] + 1 or y2 > size[1] + 1
    lines, cut = _lines(manifest, boxes, outside), _lines(manifest, boxes, beyond & ~outside)
    wrong = f"{len(lines)} boxes lie outside their image:\n{listing(lines)}" if lines else ""
    told = (
        f"{len(cut)} boxes reach beyond their image, and are cut at its edges:\n{listing(cut, 5)}"
        if cut
        else ""
    )
    return wrong, told


def _with_area(boxes: np.ndarray) -> np.ndarray:
    found: np.ndarray = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(boxes).all(axis=1)
    return found


def _lines(manifest: Manifest, boxes: np.ndarray, rows: np.ndarray) -> list[str]:
    """Return a line for each of these rows: where it stands, its image and its corners."""
    source = manifest.columns.get("source_id")
    found = []
    for row in np.flatnonzero(rows).tolist():
        path = str(manifest["path"][row])
        place = "" if source is None or source[row] in ("", path) else f" ({source[row]})"
        found.append(f"{path}{place}: {', '.join(map(str, boxes[row].tolist()))}")
    return found


def picture_boxes(manifest: Manifest, config: FineDataConfig) -> np.ndarray | None:
    """Return the boxes (N, 4) to cut out, x1, y1, x2, y2 in px, or None for whole images.

    Each side of a box moves outwards by `box_margin` times the box's extent along it; what then leaves the
    image is clipped where the image is opened. Raises DataError for data without boxes, and for images
    that have none, with their names.
    """
    if config.crop == "image":
        return None
    boxes = boxes_of(manifest)
    if boxes is None:
        raise DataError(
            "--data.crop box: these data have no bounding boxes (columns x1, y1, x2, y2); "
            "--data.crop image takes whole images"
        )
    bad = np.flatnonzero(~_with_area(boxes))
    if len(bad):
        rows = [f"{manifest['path'][row]}: {boxes[row].tolist()}" for row in bad]
        raise DataError(f"--data.crop box: {len(bad)} images have no box with an area:\n{listing(rows)}")
    if tiny := tiny_boxes(manifest):
        raise DataError(f"--data.crop box: {tiny}")
    grow = config.box_margin * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - grow, boxes[:, 2:] + grow], axis=1)
