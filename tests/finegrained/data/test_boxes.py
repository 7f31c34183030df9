"""Boxes: whole images without them, margins by hand, and rows without one named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from finegrained.config import FineDataConfig
from finegrained.data.boxes import boxes_outside, picture_boxes, tiny_boxes
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


def test_boxes_from_0_to_1_are_refused_with_a_hint_that_they_are_fractions():
    table = boxed([[0, 0, 9, 9], [0.1, 0.2, 0.9, 0.8]])
    hint = r"1 boxes are one pixel or less; .*normalised\): multiply(.|\n)*1\.jpg: 0\.1, 0\.2, 0\.9, 0\.8"
    with pytest.raises(DataError, match=rf"--data\.crop box: {hint}"):
        picture_boxes(table, BOX)
    assert "normalised" not in tiny_boxes(boxed([[5, 5, 6, 6]]))
    assert tiny_boxes(boxed([[5, 5, 7, 6], [np.nan] * 4])) == ""


def test_boxes_outside_their_image_are_found_and_cut_ones_told(tmp_path: Path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for row in range(4):
        image = Image.fromarray(np.zeros((20, 40, 3), np.uint8))
        image.save(tmp_path / f"{row}.jpg", exif=exif if row == 3 else Image.Exif())
    table = boxed([[0, 0, 40, 20], [40, 0, 50, 20], [-9, 0, 9, 20], [0, 21, 20, 40], [90, 90, 99, 99]])
    outside, cut = boxes_outside(replace(table, root=tmp_path))
    assert outside == "1 boxes lie outside their image:\n  1.jpg: 40.0, 0.0, 50.0, 20.0"
    assert cut.startswith("1 boxes reach beyond their image")
    assert "2.jpg" in cut
