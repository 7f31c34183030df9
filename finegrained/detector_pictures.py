"""What DFL's part detectors answered to: boxes and responses of the detectors of the predicted class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finegrained.detector_boxes import DetectorBox, detector_boxes
from finegrained.examples import CHOSEN, Example
from finegrained.picture_grid import Line, Strip, Tile, draw_grid, show_pixels
from finetune import canvas
from finetune.evidence import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUTLINED = 3  # detectors whose place is drawn as a box; the others are dots
COLOURS = ("#F0E442", "#56B4E9", "#D55E00")  # Okabe and Ito's yellow, sky and vermilion
STROKE = 2.2  # points

# crop -> responses of all detectors, float (K k, h, w), class-major
Respond = Callable[[np.ndarray], np.ndarray]


def draw_detectors(
    examples: Sequence[Example],
    respond: Respond,
    detectors: int,
    class_names: Sequence[str],
    out: Path,
) -> Path:
    """Draw, for every example, where the detectors of its predicted class answer most, right ones first.

    Args:
        examples: right and wrong ones, each kind in the order to draw.
        respond: crop -> the responses of all detectors to it.
        detectors: k, of each class.
        class_names: the K classes.
        out: the PNG to write.

    Returns:
        `out`.
    """
    strips = []
    for right, heading in ((True, "Right answers"), (False, "Wrong answers")):
        kind = [example for example in examples if example.right == right]
        if not kind:
            continue
        maps = [respond(example.crop) for example in kind]
        pairs = list(zip(kind, maps, strict=True))
        strips += [
            Strip([_boxes_tile(x, m, detectors, class_names) for x, m in pairs], heading, CHOSEN),
            Strip([_map_tile(x, m, detectors) for x, m in pairs], label=STRONGEST),
        ]
    title = f"Part detectors of the predicted class: {canvas.count_text(len(examples), 'test image')}"
    boxes = f"boxes: its {min(OUTLINED, detectors)} strongest of {detectors} detectors, by number"
    dots = ", dots: the others" if detectors > OUTLINED else ""
    subtitle = (
        f"above the picture the true class, below it the answer; {boxes}{dots}\n"
        "a box stands around the place of the greatest response, its size is a convention"
    )
    return draw_grid(out, title, subtitle, strips)


STRONGEST = "the greatest response of these detectors at each place, each map on a scale of its own"


def _boxes_tile(example: Example, responses: np.ndarray, detectors: int, names: Sequence[str]) -> Tile:
    found = detector_boxes(responses, example.said, detectors, example.crop.shape[:2])
    above, below = example.lines(names)
    told = ", ".join(f"{box.detector + 1}: {box.response:.2f}" for box in found[:OUTLINED])
    return Tile(_show_boxes(example, responses.shape[1:], found), above, (*below, Line(told, canvas.MUTED)))


def _show_boxes(
    example: Example, grid: tuple[int, ...], found: Sequence[DetectorBox]
) -> Callable[[Axes], None]:
    show = show_pixels(example.crop)

    def draw(axes: Axes) -> None:
        show(axes)
        height, width = example.crop.shape[:2]
        for box in found[OUTLINED:]:
            x, y = (box.column + 0.5) * width / grid[1], (box.row + 0.5) * height / grid[0]
            axes.plot([x], [y], "o", markersize=3.6, color=canvas.PAPER, markeredgecolor=canvas.INK)
        for box, colour in reversed(list(zip(found[:OUTLINED], COLOURS, strict=False))):
            _draw_box(axes, box, colour)
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))

    return draw


def _draw_box(axes: Axes, box: DetectorBox, colour: str) -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = box.box
    for edge, width in ((canvas.INK, STROKE + 1.4), (colour, STROKE)):
        frame = Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=width)
        frame.set(joinstyle="miter", clip_on=False)
        axes.add_patch(frame)
    axes.text(
        x1,
        y1,
        str(box.detector + 1),
        size=canvas.SMALL,
        weight="bold",
        color=canvas.INK,
        ha="left",
        va="top",
        bbox={"boxstyle": "square,pad=0.15", "facecolor": colour, "edgecolor": canvas.INK, "linewidth": 0.6},
    )


def _map_tile(example: Example, responses: np.ndarray, detectors: int) -> Tile:
    own = responses[example.said * detectors : (example.said + 1) * detectors].max(axis=0)
    evidence = own - own.min()  # responses may all be negative: a linear filter has no floor
    return Tile(show_pixels(overlay(example.crop, evidence)))
