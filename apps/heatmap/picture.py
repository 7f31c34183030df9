"""The heat map as a PNG, and pixels as the bytes of an image file, for all programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from apps.heatmap.heatmap import HeatMap, short_names
from finetune.errors import UsageError
from finetune.figures import canvas
from finetune.figures.heat_map import MARKS, NAME_LIMIT, Panel, RowLabels, draw_heat_map_figure
from finetune.figures.lettering import class_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_ROWS, MAX_CELLS = 400, 12_000  # what viewers still open, and a few seconds of drawing


def fits_png(found: HeatMap) -> bool:
    """Return whether a PNG can show the heat map."""
    cells = len(found.rows) * len(found.column_names) * len(found.tables)
    return len(found.rows) <= MAX_ROWS and cells <= MAX_CELLS


def draw_png(found: HeatMap, out: Path, *, title: str = "") -> Path:
    """Draw a heat map per model side by side, with one 0-1 scale, and write the PNG `out`.

    The crop that the network saw stands beside the image's name. `title` replaces the usual one.

    Raises UsageError for more images than a PNG can show, naming the other formats.
    """
    count, columns = len(found.rows), found.column_names
    if not fits_png(found):
        raise UsageError(
            f"a PNG cannot show {count:,} images by {len(columns)} columns of {len(found.tables)} models: "
            "give fewer images, or write .html or .csv"
        )
    known = found.targets is not None
    marks = MARKS.format(true="true class", predicted="predicted class")
    subtitle = marks if known else marks.partition(", ")[2]
    if found.hidden:
        subtitle += f"\n{len(found.columns)} of {len(found.class_names)} classes have a column: "
        subtitle += "the most probable" + (" and the true ones" if known else " ones")
    with class_numbers(found.class_names, "the CSV or HTML file has the names"):
        return draw_heat_map_figure(
            out,
            title=title or f"Softmax probabilities: {canvas.count_text(count, 'image')}",
            subtitle=subtitle,
            panels=[Panel(name, found.shown(name), found.predicted(name)) for name in found.tables],
            columns=short_names(columns, NAME_LIMIT),
            truths=found.truths,
            rows=_row_labels(found),
            rest=bool(found.hidden),
        )


def _row_labels(found: HeatMap) -> RowLabels:
    targets = [found.truth(row) for row in range(len(found.rows))]
    notes = ["" if target is None else f"true: {found.names[target]}" for target in targets]

    def draw(axes: Axes, row: int) -> None:
        axes.set_axis_off()
        crop = found.thumbnail(row)
        if crop is not None:
            axes.imshow(crop, interpolation="antialiased")

    return RowLabels("image", found.rows, notes, draw if found.thumbnails is not None else None)


def encode_image(image: np.ndarray, kind: str = ".png", quality: int | None = None) -> bytes:
    """Return uint8 (H, W, 3) RGB pixels as an image file: exact as .png, smaller as .jpg.

    `quality` (0-100) is a .jpg's, None for OpenCV's own. Raises ValueError where OpenCV cannot write it.

    >>> encode_image(np.zeros((8, 8, 3), np.uint8))[1:4]
    b'PNG'
    """
    options = [] if quality is None else [cv2.IMWRITE_JPEG_QUALITY, quality]
    made, data = cv2.imencode(kind, cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2BGR), options)
    if not made:
        raise ValueError(f"the image of shape {image.shape} could not be written as {kind}")
    return bytes(data.tobytes())
