from __future__ import annotations

import numpy as np
import pytest

from finetune.errors import DataError
from finetune.images.boxes import check_boxes, cut
from finetune.images.decode import BadImageError

PICTURE = np.arange(10 * 20 * 3, dtype=np.uint8).reshape(10, 20, 3)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((0, 0, 20, 10), slice(0, 10), slice(0, 20)),
        ((3, 2, 5, 4), slice(2, 4), slice(3, 5)),
        ((3.5, 2.5, 4.2, 3.1), slice(2, 4), slice(3, 5)),
        ((3.2, 2.2, 3.4, 2.3), slice(2, 3), slice(3, 4)),
        ((-7, -7, 1e9, 1), slice(0, 1), slice(0, 20)),
    ],
)
def test_every_pixel_that_a_box_touches_is_kept_and_no_other(
    box: tuple[float, ...], rows: slice, columns: slice
) -> None:
    np.testing.assert_array_equal(cut(PICTURE, np.array(box, dtype=float)), PICTURE[rows, columns])


@pytest.mark.parametrize(
    ("box", "word"),
    [
        ((20, 0, 30, 5), "holds no pixel of its 20 x 10"),
        ((-5, -5, 0, 0), "holds no pixel"),
        ((5, 5, 4, 6), "holds no pixel"),
        ((1, 1, float("nan"), 5), "not known"),
    ],
)
def test_a_box_without_a_pixel_is_refused_by_name(box: tuple[float, ...], word: str) -> None:
    with pytest.raises(BadImageError, match=f"a.jpg: its box.*{word}"):
        cut(PICTURE, np.array(box, dtype=float), "a.jpg")


def test_boxes_of_another_shape_are_refused() -> None:
    assert check_boxes(np.zeros((3, 4), np.int64), 3).dtype == np.float64
    with pytest.raises(DataError, match="3 images need boxes"):
        check_boxes(np.zeros((3, 2)), 3)
