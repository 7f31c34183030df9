from __future__ import annotations

import numpy as np
import pytest

from agecls.audit.rates import Resampling
from agecls.audit.robustness import as_jpeg, chosen_rows, of_side, robustness, shifted, turned, with_margin
from tests.agecls.audit.made_answers import answers

PICTURE = np.arange(40 * 20 * 3, dtype=np.int64).reshape(40, 20, 3).astype(np.uint8)


def test_changes_of_nothing_change_nothing():
    for same in (with_margin(PICTURE, 0.0), turned(PICTURE, 0), of_side(PICTURE, 40), shifted(PICTURE, 0, 0)):
        np.testing.assert_array_equal(same, PICTURE)


def test_each_change_does_what_it_says():
    assert with_margin(PICTURE, 0.2).shape == (56, 28, 3)
    assert of_side(PICTURE, 20).shape == (20, 10, 3)
    np.testing.assert_array_equal(shifted(PICTURE, 0.1, 0)[:, 2:], PICTURE[:, :-2])
    np.testing.assert_array_equal(shifted(PICTURE, 0, -0.1)[:-4], PICTURE[4:])
    mark = np.zeros((41, 41, 3), dtype=np.uint8)
    mark[20, 36] = 255
    row, column = np.unravel_index(turned(mark, 90)[..., 0].argmax(), (41, 41))
    assert (row, column) == (4, 20)  # a quarter turn against the clock
    red = np.zeros((16, 16, 3), dtype=np.uint8)
    red[..., 0] = 200
    stored = as_jpeg(red, 90).reshape(-1, 3).mean(axis=0)
    assert stored[0] == pytest.approx(200, abs=3)
    assert stored[1:].max() < 5


def test_a_choice_of_images_is_by_seed_and_keeps_order():
    rows = chosen_rows(100, 10, 0)
    assert len(set(rows.tolist())) == 10
    assert (np.diff(rows) > 0).all()
    assert chosen_rows(5, 10, 0).tolist() == [0, 1, 2, 3, 4]


def test_changes_of_the_error_and_jitter_by_hand():
    """A model that says how wide an image is, and one that reads the left edge."""
    found = answers([20.0, 30.0], [20.0, 20.0])
    shown = [np.zeros((20, 20, 3), dtype=np.uint8)] * 2

    def width(images):
        return np.array([float(image.shape[1]) for image in images])

    table = robustness(found, lambda rows: [shown[row] for row in rows], width, 10, Resampling(20))
    at = {(row["change"], row["value"]): row for row in table["changes"]}
    assert at["crop margin", 0.2]["mae"] == pytest.approx((8 + 2) / 2)  # 28 px against 20 and 30 years
    assert at["crop margin", 0.0]["difference"] == 0.0
    assert at["crop margin", 0.4]["size"] == pytest.approx((16 + 6) / 2 - 5)
    assert len(at) == 3 + 3 + 4 + 3
    assert table["jitter"]["mean"] == 0.0

    ramp = np.tile(np.arange(20, dtype=np.uint8)[None, :, None] * 10, (20, 1, 3))

    def middle(images):
        return np.array([float(image[10, 10, 0]) for image in images])

    for picture in (ramp, np.ascontiguousarray(ramp.transpose(1, 0, 2))):
        moved = robustness(found, lambda rows, p=picture: [p for _ in rows], middle, 10, Resampling(5))
        assert moved["jitter"]["mean"] == pytest.approx(np.std([90, 100, 110] * 3, ddof=1))
