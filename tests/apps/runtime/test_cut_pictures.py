"""Pictures cut to boxes: opened one at a time, and only when asked for."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import apps.runtime.cut_pictures
from apps.runtime.cut_pictures import CutPictures, files_or_cuts
from finetune.images.decode import BadImageError
from tests.apps.tiny_run import write_pictures

BOXES = np.array([[2.0, 3.0, 12.0, 9.0], [0.0, 0.0, 400.0, 400.0], [5.0, 5.0, 18.0, 18.0]])


def files(folder: Path) -> tuple[list[Path], list[np.ndarray]]:
    pixels = write_pictures(folder / "images", 3)
    return [folder / "images" / f"{number:02}.png" for number in range(3)], pixels


def test_each_picture_is_the_part_in_its_box(tmp_path: Path):
    names, pixels = files(tmp_path)
    found = list(CutPictures(names, BOXES))
    np.testing.assert_array_equal(found[0], pixels[0][3:9, 2:12])
    np.testing.assert_array_equal(found[1], pixels[1])
    np.testing.assert_array_equal(CutPictures(names, BOXES)[1:][1], pixels[2][5:18, 5:18])


def test_a_part_of_the_sequence_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names, _ = files(tmp_path)
    opened: list[str] = []

    def decode(file: Path) -> np.ndarray:
        opened.append(file.name)
        return cv2.imread(str(file))

    monkeypatch.setattr(apps.runtime.cut_pictures, "decode_image", decode)
    part = CutPictures(names, BOXES)[1:]
    assert (len(part), opened) == (2, [])
    next(iter(part))
    assert opened == ["01.png"]


def test_a_box_without_a_pixel_is_told_by_the_file(tmp_path: Path):
    names, _ = files(tmp_path)
    with pytest.raises(BadImageError, match=r"00\.png: its box .* holds no pixel"):
        CutPictures(names, BOXES + 1000)[0]


def test_whole_pictures_stay_files(tmp_path: Path):
    names, _ = files(tmp_path)
    assert files_or_cuts(names, None) == names
