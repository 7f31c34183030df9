import numpy as np
import pytest

from finegrained.figures.detector_boxes import detector_boxes


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
