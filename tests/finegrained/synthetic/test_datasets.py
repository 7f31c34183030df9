"""The made-up data sets: real formats, reproducible, and drawn so that classes can be told apart."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from finegrained.data.cub import parts_of, read_cub
from finegrained.data.reading import ReadingRules
from finegrained.synthetic.cars import write_lookalike_cars
from finegrained.synthetic.datasets import is_drawn, write_lookalike_cub, write_lookalike_folders
from finegrained.synthetic.drawing import draw_bird, draw_car
from finetune.errors import UsageError
from finetune.seeding import numpy_generator


def _bytes(root: Path) -> dict[str, bytes]:
    return {
        file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()
    }


def test_the_same_arguments_write_the_same_bytes_and_another_seed_others(tmp_path: Path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        write_lookalike_cub(tmp_path / name / "cub", 3, 3, seed, image_size=32)
        write_lookalike_cars(tmp_path / name / "cars", "S", 3, 3, seed, image_size=32)
        write_lookalike_folders(tmp_path / name / "folders", 3, 3, seed, image_size=32)
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    assert _bytes(tmp_path / "one") != _bytes(tmp_path / "three")
    for file in (tmp_path / "one").rglob("*.mat"):
        assert file.read_bytes().startswith(b"MATLAB 5.0 MAT-file, drawn cars   ")


def test_boxes_and_parts_lie_within_the_picture_and_the_box_on_the_bird(tmp_path: Path):
    write_lookalike_cub(tmp_path, classes=4, per_class=6)
    manifest = read_cub(tmp_path, ReadingRules(subset=True)).manifest
    for row in range(len(manifest)):
        x1, y1, x2, y2 = (manifest[name][row] for name in ("x1", "y1", "x2", "y2"))
        assert 0 <= x1 < x2 <= 64
        assert 0 <= y1 < y2 <= 64
        for x, y in parts_of(manifest, row).values():
            assert x1 - 1 <= x <= x2 + 1
            assert y1 - 1 <= y <= y2 + 1


def test_one_picture_has_one_channel(tmp_path: Path):
    write_lookalike_cub(tmp_path, classes=3, per_class=3)
    channels = [cv2.imread(str(file), cv2.IMREAD_UNCHANGED).ndim for file in tmp_path.rglob("*.jpg")]
    assert sorted(channels) == [2] + [3] * 8


@pytest.mark.parametrize("draw", [draw_bird, draw_car])
def test_colours_tell_classes_apart_to_a_plain_rule(draw):
    """Saturated pixels give the pair's hue; very bright against very dark pixels give the member."""
    right = 0
    for number in range(60):
        index = number % 6
        pixels = draw(index, 6, numpy_generator(0, "try", number), 64).pixels
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
        hue = np.median(hsv[..., 0][hsv[..., 1] > 170])
        pair = int(np.argmin([min(abs(hue - 60 * k), 180 - abs(hue - 60 * k)) for k in range(3)]))
        grey = pixels.mean(axis=2)
        member = int((grey > 225).sum() < 40)
        right += 2 * pair + member == index
    assert right >= 57


def test_drawn_classes_are_known_by_their_names_and_real_ones_are_not(tmp_path: Path):
    for names in (
        write_lookalike_cub(tmp_path / "a", 3, 2, image_size=32).class_names,
        write_lookalike_cars(tmp_path / "b", "K", 3, 2, image_size=32).class_names,
        write_lookalike_folders(tmp_path / "c", 3, 2, image_size=32).class_names,
    ):
        assert is_drawn(names)
    assert not is_drawn(["001.Black_footed_Albatross", "002.Drawn_Rusty_finch"])
    assert not is_drawn([])


def test_many_classes_have_different_names(tmp_path: Path):
    wrote = write_lookalike_folders(tmp_path, 90, 2, image_size=32)
    assert len(set(wrote.class_names)) == 90


@pytest.mark.parametrize(
    "options",
    [{"classes": 1}, {"per_class": 1}, {"image_size": 16}, {"parts": ("test",)}, {"parts": ("dev",)}],
)
def test_sizes_and_parts_that_cannot_be_are_refused(tmp_path: Path, options: dict):
    with pytest.raises(UsageError):
        write_lookalike_folders(tmp_path, **options)


@pytest.mark.parametrize(("layout", "labels"), [("Q", "root"), ("S", "nowhere")])
def test_unknown_layouts_and_places_are_refused(tmp_path: Path, layout: str, labels: str):
    with pytest.raises(UsageError, match="S, O, K, S-doubled"):
        write_lookalike_cars(tmp_path, layout, test_labels=labels)  # type: ignore[arg-type]
