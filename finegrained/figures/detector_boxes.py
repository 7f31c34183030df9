"""Where a class's part detectors answer most, as boxes in the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CELLS = 11.5  # VGG's relu4_3 sees 92 px at a stride of 8
SHARE = 0.35  # of the picture's shorter side: a larger box would show the whole object


@dataclass(frozen=True)
class DetectorBox:
    """Where one part detector answers most, in pixels of the picture that the network saw.

    Args:
        detector: j in [0, k), among its class's own.
        response: its greatest answer, the entry of z that the classifiers read.
        row, column: the cell of the map.
        box: x1, y1, x2, y2, cut to the picture; x2 and y2 lie one past the last pixel.
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
    """Return where the detectors of one class answer most, the strongest first.

    A detector that answers alike everywhere (nought, behind a ReLU) has no place and is left out.

    The box stands around the centre of the cell: ((column + 1/2) W / w, (row + 1/2) H / h). Ask for the
    predicted class: another class's detectors tell nothing of the prediction. Public code draws the first
    class's whatever was predicted, at a stride and size that hold for one backbone at one input size.

    Args:
        responses: (K k, h, w), one picture of `DflHead.explain`.
        index: the class, in [0, K).
        detectors: k, `DflHead.detectors`.
        image_size: H, W of the picture in pixels.
        side: of the box in pixels; None is 11.5 cells (92 px at stride 8, what VGG's relu4_3 sees), at most
            0.35 of the picture's shorter side: deep layers see all of it in theory and far less in effect.

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
