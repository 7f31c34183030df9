"""What DFL's part detectors answered to: boxes and responses of the detectors of the predicted class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finegrained.figures.examples import CHOSEN, Example
from finegrained.figures.image_grid import Line, Strip, Tile, draw_grid, show_pixels
from finetune.figures import canvas
from finetune.figures.evidence import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUTLINED = 3  # detectors whose place is drawn as a box; the others are dots
COLOURS = ("#F0E442", "#56B4E9", "#D55E00")  # Okabe and Ito's yellow, sky and vermilion
STROKE, EDGE = 2.2, 1.4  # points: a frame's line, and its dark edges together
LABEL = (16.0, 13.0)  # points: room for the number of a detector, of two digits
SIDE = 1.78  # inches: an image of the grid
CELLS = 11.5  # VGG's relu4_3 sees 92 px at a stride of 8
SHARE = 0.35  # of the image's shorter side: a larger box would show the whole object

Box = tuple[float, float, float, float]

# crop -> responses of all detectors, float (K k, h, w), class-major
Respond = Callable[[np.ndarray], np.ndarray]


def draw_detectors(
    examples: Sequence[Example],
    respond: Respond,
    detectors: int,
    class_names: Sequence[str],
    out: Path,
) -> Path:
    """Draw, for every example, where the detectors of its predicted class respond most, correct ones first.

    Args:
        examples: correct and wrong ones, each kind in the order to draw.
        respond: crop -> the responses of all detectors to it.
        detectors: k, of each class.
        class_names: the K classes.
        out: the PNG to write.

    Returns:
        `out`.
    """
    strips = []
    for right, heading in ((True, "Correct predictions"), (False, "Wrong predictions")):
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
        f"above the image the true class, below it the prediction; {boxes}{dots}\n"
        "a box stands around the place of the greatest response, its size is a convention"
    )
    return draw_grid(out, title, subtitle, strips)


STRONGEST = "the greatest response of these detectors at each place, each map on a scale of its own"


def _boxes_tile(example: Example, responses: np.ndarray, detectors: int, names: Sequence[str]) -> Tile:
    found = detector_boxes(responses, example.said, detectors, example.crop.shape[:2])
    above, below = example.lines(names)
    told = ", ".join(f"{box.detector + 1}: {box.response:.2f}" for box in found[:OUTLINED])
    told = told or "none of its detectors answered"
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
        frames = place_frames([box.box for box in found[:OUTLINED]], (height, width))
        drawn = list(zip(found[:OUTLINED], frames, COLOURS, strict=False))
        for _, frame, colour in reversed(drawn):
            _draw_frame(axes, frame, colour)
        for box, frame, colour in drawn:
            _label_frame(axes, str(box.detector + 1), frame, colour)
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))

    return draw


def place_frames(
    boxes: Sequence[tuple[int, int, int, int]], size: tuple[int, int]
) -> list[tuple[Box, tuple[float, float]]]:
    """Return for each box the frame to draw and the upper left corner of its label, in pixels.

    A frame that would hide under one before it is set in by the width of a line, as often as need be. A label
    stands in the upper left corner of its frame, inside the image, or beside the labels before it.

    Args:
        boxes: x1, y1, x2, y2, the strongest detector's first.
        size: height and width of the image, which is drawn SIDE inches wide.
    """
    pixel = size[1] / SIDE / 72  # of the image, in a point on the page
    line, wide, tall = pixel * (STROKE + EDGE), LABEL[0] * pixel, LABEL[1] * pixel
    placed: list[tuple[Box, tuple[float, float]]] = []
    for x1, y1, x2, y2 in boxes:
        frame: Box = (max(x1, line / 2), max(y1, line / 2), *_inside((x2, y2), size, line))
        while any(_hides(frame, x, line) for x, _ in placed) and _least_side(frame) > 3 * line:
            frame = (frame[0] + line, frame[1] + line, frame[2] - line, frame[3] - line)
        corner = _free_corner(frame, [taken for _, taken in placed], (wide, tall), size)
        placed.append((frame, corner))
    return placed


def _free_corner(
    frame: Box, taken: Sequence[tuple[float, float]], label: tuple[float, float], size: tuple[int, int]
) -> tuple[float, float]:
    """Return the place for a label nearest to its frame's upper left corner that is inside and free."""
    (wide, tall), (height, width) = label, size
    left, top = min(frame[0], width - wide), min(frame[1], height - tall)
    columns = [left, *(x + step * wide for x, _ in taken for step in (-1, 1))]
    lines = [top, *(y + step * tall for _, y in taken for step in (-1, 1))]
    places = [(x, y) for x in columns for y in lines if 0 <= x <= width - wide and 0 <= y <= height - tall]
    free = [
        (x, y)
        for x, y in places
        if all(abs(x - a) > 0.999 * wide or abs(y - b) > 0.999 * tall for a, b in taken)
    ]
    return min(free, key=lambda place: abs(place[0] - left) + abs(place[1] - top), default=(left, top))


def _inside(corner: tuple[int, int], size: tuple[int, int], line: float) -> tuple[float, float]:
    """Return a lower right corner whose line does not leave the image."""
    return min(corner[0], size[1] - line / 2), min(corner[1], size[0] - line / 2)


def _least_side(frame: Box) -> float:
    return min(frame[2] - frame[0], frame[3] - frame[1])


def _hides(frame: Box, other: Box, line: float) -> bool:
    return max(abs(one - two) for one, two in zip(frame, other, strict=True)) < 0.99 * line


def _draw_frame(axes: Axes, frame: tuple[Box, tuple[float, float]], colour: str) -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = frame[0]
    for edge, width in ((canvas.INK, STROKE + EDGE), (colour, STROKE)):
        patch = Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor=edge, linewidth=width)
        patch.set(joinstyle="miter", clip_on=False)
        axes.add_patch(patch)


def _label_frame(axes: Axes, text: str, frame: tuple[Box, tuple[float, float]], colour: str) -> None:
    x, y = frame[1]
    axes.text(
        x,
        y,
        text,
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


@dataclass(frozen=True)
class DetectorBox:
    """Where one part detector responds most, in pixels of the image that the network saw.

    Args:
        detector: j in [0, k), among its class's own.
        response: its greatest response, the entry of z that the classifiers read.
        row, column: the cell of the map.
        box: x1, y1, x2, y2, cut to the image; x2 and y2 lie one past the last pixel.
    """

    detector: int
    response: float
    row: int
    column: int
    box: tuple[int, int, int, int]


def detector_boxes(
    responses: np.ndarray,
    index: int,
    detectors: int,
    image_size: tuple[int, int],
    side: float | None = None,
) -> list[DetectorBox]:
    """Return where the detectors of one class respond most, the strongest first.

    A detector with one response everywhere (zero, behind a ReLU) has no place and is left out.

    The box stands around the centre of the cell: ((column + 1/2) W / w, (row + 1/2) H / h). Ask for the
    predicted class: another class's detectors say nothing of the prediction. Public code draws the first
    class's whatever was predicted, at a stride and size that hold for one backbone at one input size.

    Args:
        responses: (K k, h, w), one image of `DflHead.explain`.
        index: the class, in [0, K).
        detectors: k, `DflHead.detectors`.
        image_size: H, W of the image in pixels.
        side: of the box in pixels; None is 11.5 cells (92 px at stride 8, what VGG's relu4_3 sees), at most
            0.35 of the image's shorter side: deep layers see all of it in theory and far less in effect.

    Raises IndexError for a class that has no detectors.

    >>> responses = np.zeros((2, 4, 4))
    >>> responses[1, 0, 3] = 5.0
    >>> detector_boxes(responses, 1, 1, (64, 64), side=20)
    [DetectorBox(detector=0, response=5.0, row=0, column=3, box=(46, 0, 64, 18))]
    """
    if not 0 <= index < len(responses) // detectors:
        raise IndexError(f"class {index} has no detectors among {len(responses)}, {detectors} a class")
    own = np.asarray(responses[index * detectors : (index + 1) * detectors])
    height, width = own.shape[1:]
    cell = image_size[0] / height, image_size[1] / width
    reach = (side or min(CELLS * min(cell), SHARE * min(image_size))) / 2
    boxes = []
    for detector, answers in enumerate(own):
        if answers.size > 1 and np.ptp(answers) == 0:
            continue
        row, column = divmod(int(answers.argmax()), width)
        centre = (row + 0.5) * cell[0], (column + 0.5) * cell[1]
        box = _box_around(centre, reach, image_size)
        boxes.append(DetectorBox(detector, float(answers[row, column]), row, column, box))
    return sorted(boxes, key=lambda found: -found.response)


def _box_around(
    centre: tuple[float, float], reach: float, image_size: tuple[int, int]
) -> tuple[int, int, int, int]:
    (y, x), (height, width) = centre, image_size
    left, top = max(0, round(x - reach)), max(0, round(y - reach))
    return left, top, min(width, round(x + reach)), min(height, round(y + reach))
