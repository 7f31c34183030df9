"""Boxes: whole images without them, margins by hand, and rows without one named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finegrained.config import FineDataConfig
from finegrained.data.boxes import picture_boxes
from finetune.errors import DataError
from finetune.images.manifest import Manifest

BOX = FineDataConfig(crop="box")


def boxed(corners: list[list[float]]) -> Manifest:
    columns = {"path": np.array([f"{row}.jpg" for row in range(len(corners))])}
    columns |= {"label": np.zeros(len(corners), dtype=np.int64)}
    columns |= {name: np.array(corners)[:, place] for place, name in enumerate(("x1", "y1", "x2", "y2"))}
    return Manifest(Path(), ("a",), columns)


def test_whole_pictures_need_no_boxes():
    assert picture_boxes(boxed([[0, 0, 1, 1]]), FineDataConfig()) is None


def test_a_margin_moves_every_side_by_its_share_of_the_extent():
    config = FineDataConfig(crop="box", box_margin=0.1)
    boxes = picture_boxes(boxed([[10, 20, 110, 70]]), config)
    assert boxes is not None
    assert boxes.tolist() == [[0, 15, 120, 75]]
    plain = picture_boxes(boxed([[10, 20, 110, 70]]), BOX)
    assert plain is not None
    assert plain.tolist() == [[10, 20, 110, 70]]


def test_data_without_boxes_are_refused_with_the_cure():
    manifest = Manifest(Path(), ("a",), {"path": np.array(["0.jpg"]), "label": np.array([0])})
    with pytest.raises(DataError, match=r"no bounding boxes.*\n?.*--data\.crop image"):
        picture_boxes(manifest, BOX)


@pytest.mark.parametrize("bad", [[5.0, 0, 5, 9], [0, 9, 5, 3], [np.nan, 0, 5, 9], [0, 0, np.inf, 9]])
def test_a_row_without_an_area_is_named(bad):
    with pytest.raises(DataError, match=r"1 images have no box with an area:\n *1\.jpg"):
        picture_boxes(boxed([[0, 0, 9, 9], bad]), BOX)
