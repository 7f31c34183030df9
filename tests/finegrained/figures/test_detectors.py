"""Detector images show the predicted class's detectors, at the places where they answer most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finegrained.figures.detectors import COLOURS, LABEL, SIDE, detector_boxes, draw_detectors, place_frames
from finegrained.figures.examples import Example
from tests.finegrained.made_results import class_names
from tests.finetune.drawing import has_colour, pixels_of

SIZE, CLASSES = 64, 4


def example(target: int, said: int) -> Example:
    return Example(np.full((SIZE, SIZE, 3), 128, np.uint8), target, said, 0.5)


def peak(detectors: int, filter_index: int, row: int, column: int) -> np.ndarray:
    """Return responses of all detectors that are zero but for one cell of one filter."""
    responses = np.zeros((CLASSES * detectors, 8, 8), np.float32)
    responses[filter_index, row, column] = 5
    return responses


@pytest.mark.parametrize("detectors", [1, 2, 10])
def test_it_is_drawn_for_few_and_many_detectors(detectors: int, tmp_path: Path):
    generator = np.random.default_rng(0)
    responses = generator.normal(size=(CLASSES * detectors, 8, 8)).astype(np.float32)
    examples = [example(0, 0), example(1, 2)]
    out = draw_detectors(
        examples, lambda crop: responses, detectors, class_names(CLASSES), tmp_path / "d.png"
    )
    assert has_colour(pixels_of(out), COLOURS[0])


def test_the_box_lies_where_the_predicted_class_answers(tmp_path: Path):
    """The first colour's box of class 2 moves with the peak of class 2's filter, and of no other's."""
    pictures = []
    for filter_index, row, column in ((2, 1, 1), (2, 6, 6), (1, 6, 6)):
        responses = peak(1, filter_index, row, column)
        out = tmp_path / f"{filter_index}{row}{column}.png"
        draw_detectors([example(0, 2)], lambda crop, r=responses: r, 1, class_names(CLASSES), out)
        wanted = [int(COLOURS[0][start : start + 2], 16) for start in (1, 3, 5)]
        places = np.argwhere((pixels_of(out) == wanted).all(axis=2))
        pictures.append(places.mean(axis=0) if len(places) else None)
    upper, lower, other = pictures
    assert (lower > upper + 50).all()  # down and to the right, by more than 50 of 285 px
    assert other is None  # class 2's filter says zero everywhere: no place, no box


def test_boxes_that_coincide_are_all_seen(tmp_path: Path):
    generator = np.random.default_rng(0)
    responses = np.zeros((CLASSES * 3, 8, 8), np.float32)
    responses[:, 4, 4] = generator.uniform(1, 2, CLASSES * 3)
    out = draw_detectors([example(0, 0)], lambda crop: responses, 3, class_names(CLASSES), tmp_path / "d.png")
    pixels = pixels_of(out)
    for colour in COLOURS:
        wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
        places = np.argwhere((pixels == wanted).all(axis=2))
        assert (np.ptp(places, axis=0) > 50).all()  # a frame, not its label alone


def test_frames_differ_and_labels_neither_meet_nor_leave_the_picture():
    size = (448, 448)
    for box in ((100, 100, 250, 250), (0, 0, 120, 120), (360, 360, 448, 448), (370, 0, 448, 78)):
        for others in ([box, box], [tuple(x + 3 for x in box[:2]) + box[2:], box]):
            placed = place_frames([box, *others], size)
            frames = [frame for frame, _ in placed]
            assert len(set(frames)) == 3
            wide, tall = (points * 448 / SIDE / 72 for points in LABEL)
            corners = [corner for _, corner in placed]
            for i, (x, y) in enumerate(corners):
                assert 0 <= x <= 448 - wide
                assert 0 <= y <= 448 - tall
                assert all(abs(x - a) > 0.99 * wide or abs(y - b) > 0.99 * tall for a, b in corners[:i])


def responses(peaks, shape, channels):
    """Faint answers everywhere, and of each channel one peak (row, column, value)."""
    maps = np.random.default_rng(0).uniform(-1, 0, (channels, *shape))
    for channel, (row, column, value) in peaks.items():
        maps[channel, row, column] = value
    return maps


def test_boxes_are_those_of_the_class_asked_for():
    maps = responses({0: (0, 0, 99.0), 4: (1, 2, 3.0), 5: (3, 0, 7.0)}, (4, 4), channels=6)
    strong, weak = detector_boxes(maps, 2, 2, (64, 64), side=16)
    assert (strong.detector, strong.response, strong.row, strong.column) == (1, 7.0, 3, 0)
    assert (weak.detector, weak.response, weak.row, weak.column) == (0, 3.0, 1, 2)
    assert strong.box == (0, 48, 16, 64)  # around (8, 56)
    assert weak.box == (32, 16, 48, 32)  # around (40, 24)


def test_the_box_follows_the_map_and_the_picture_not_a_backbone():
    for shape, size, centre in [((56, 56), (448, 448), (164, 84)), ((14, 28), (224, 448), (328, 168))]:
        box = detector_boxes(responses({0: (10, 20, 1.0)}, shape, 1), 0, 1, size, side=10)[0].box
        assert ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) == centre


def test_the_usual_side_is_that_of_relu4_3_and_never_most_of_the_picture():
    fine = detector_boxes(responses({0: (28, 28, 1.0)}, (56, 56), 1), 0, 1, (448, 448))[0].box
    assert (fine[2] - fine[0], fine[3] - fine[1]) == (92, 92)
    coarse = detector_boxes(responses({0: (7, 7, 1.0)}, (14, 14), 1), 0, 1, (224, 224))[0].box
    assert coarse[2] - coarse[0] == pytest.approx(0.35 * 224, abs=1)


def test_boxes_end_at_the_picture():
    corner = detector_boxes(responses({0: (3, 3, 1.0)}, (4, 4), 1), 0, 1, (64, 48), side=40)[0].box
    assert corner == (22, 36, 48, 64)


def test_a_class_beyond_the_last_is_refused():
    for index in (-1, 3):
        with pytest.raises(IndexError, match=f"class {index} has no detectors among 6, 2 a class"):
            detector_boxes(np.zeros((6, 2, 2)), index, 2, (64, 64))
