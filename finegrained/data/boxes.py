"""The part of each image that is used: all of it, or its bounding box with a margin."""

from __future__ import annotations

import numpy as np

from finegrained.config import FineDataConfig
from finetune.errors import DataError, listing
from finetune.images.manifest import Manifest

CORNERS = ("x1", "y1", "x2", "y2")


def picture_boxes(manifest: Manifest, config: FineDataConfig) -> np.ndarray | None:
    """Return the boxes (N, 4) to cut out, x1, y1, x2, y2 in px, or None for whole images.

    Each side of a box moves outwards by `box_margin` times the box's extent along it; what then leaves the
    image is clipped where the image is opened. Raises DataError for data without boxes, and for images
    that have none, with their names.
    """
    if config.crop == "image":
        return None
    if any(name not in manifest for name in CORNERS):
        raise DataError(
            "--data.crop box: these data have no bounding boxes (columns x1, y1, x2, y2); "
            "--data.crop image takes whole images"
        )
    boxes = np.stack([manifest[name] for name in CORNERS], axis=1)
    bad = np.flatnonzero(~((boxes[:, 2:] > boxes[:, :2]).all(axis=1) & np.isfinite(boxes).all(axis=1)))
    if len(bad):
        rows = [f"{manifest['path'][row]}: {boxes[row].tolist()}" for row in bad]
        raise DataError(f"--data.crop box: {len(bad)} images have no box with an area:\n{listing(rows)}")
    grow = config.box_margin * (boxes[:, 2:] - boxes[:, :2])
    return np.concatenate([boxes[:, :2] - grow, boxes[:, 2:] + grow], axis=1)
