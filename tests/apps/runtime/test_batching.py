"""Images cut to boxes: opened one at a time, and only when asked for."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

import apps.runtime.batching
from apps.runtime.batching import CutPictures, files_or_cuts, in_batches, pixels_of, views
from finetune.errors import DataError, UsageError
from finetune.images.decode import BadImageError
from finetune.images.preprocess import PreprocessSpec, preprocess
from finetune.images.streams.guard import DecodeProcesses
from tests.apps.tiny_onnx import SPEC
from tests.apps.tiny_run import write_pictures

BOXES = np.array([[2.0, 3.0, 12.0, 9.0], [0.0, 0.0, 400.0, 400.0], [5.0, 5.0, 18.0, 18.0]])


@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize("at_once", [1, 3, 8, 100])
def test_batches_keep_the_order(monkeypatch: pytest.MonkeyPatch, cores: int, at_once: int):
    """However late an image is ready, it comes in its place."""
    monkeypatch.setattr(apps.runtime.batching, "core_count", lambda: cores)

    def make(picture: object) -> int:
        number = int(str(picture))
        time.sleep(0.002 * (number % 3))
        return number

    numbers = [Path(str(number)) for number in range(10)]
    found = list(in_batches(numbers, make, at_once))
    assert [number for batch in found for number in batch] == list(range(10))
    assert [len(batch) for batch in found] == [min(at_once, 10 - start) for start in range(0, 10, at_once)]


def test_no_picture_no_batch():
    assert list(in_batches([], lambda picture: picture, 4)) == []


def test_the_next_batch_is_made_while_this_one_is_looked_at_and_none_further(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(apps.runtime.batching, "core_count", lambda: 4)
    made: list[object] = []
    batches = in_batches([Path(str(number)) for number in range(12)], lambda item: made.append(item), 3)
    next(batches)
    time.sleep(0.1)
    assert len(made) == 6
    batches.close()
    assert len(made) == 6


def test_an_error_ends_everything_and_leaves_no_thread(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(apps.runtime.batching, "core_count", lambda: 4)
    before = threading.active_count()

    def make(picture: object) -> object:
        if picture == Path("5"):
            raise DataError("five is bad")
        return picture

    with pytest.raises(DataError, match="five is bad"):
        list(in_batches([Path(str(number)) for number in range(12)], make, 3))
    assert threading.active_count() == before


def test_views_are_the_test_crops_of_the_prepared_picture():
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    assert views(image, SPEC, "ten").shape == (10, 32, 32, 3)
    np.testing.assert_array_equal(views(image, SPEC)[0], preprocess(image, SPEC))


def test_what_is_no_picture():
    for wrong in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((9, 0, 3), np.uint8)):
        with pytest.raises(UsageError, match=r"RGB, uint8 \(H, W, 3\)"):
            views(wrong, SPEC)


def test_a_strip_that_would_fill_the_memory():
    spec = PreprocessSpec(32, "short", 36, "bicubic", (0.5,) * 3, (0.5,) * 3)
    strip = np.zeros((1, 2_000_000, 3), np.uint8)
    with pytest.raises(DataError, match="2000000 x 1 pixels would become 72000000 x 36"):
        views(strip, spec)


def test_a_name_is_the_files_and_nothing_is_none():
    with pytest.raises(BadImageError, match=r"a\.png: cannot be opened"):
        views("a.png", SPEC)
    with pytest.raises(UsageError, match="got NoneType"):
        views(None, SPEC)  # type: ignore[arg-type]


def test_costly_files_are_decoded_in_a_process_and_ordinary_ones_here(
    tmp_path: Path, decoders: DecodeProcesses
):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    for ending in ("jpg", "png"):
        cv2.imwrite(str(tmp_path / f"a.{ending}"), pixels)
        pixels_of(str(tmp_path / f"a.{ending}"))
    assert not decoders._idle
    cv2.imwrite(str(tmp_path / "a.webp"), pixels)
    for picture in (tmp_path / "a.webp", str(tmp_path / "a.webp"), (tmp_path / "a.webp").read_bytes()):
        assert pixels_of(picture).shape == (50, 70, 3)
        assert len(decoders._idle) == 1  # one for all of them
    list(CutPictures([tmp_path / "a.webp"], BOXES[:1]))
    assert len(decoders._idle) == 1
    decoders.close()
    decoders._idle.clear()
    list(CutPictures([tmp_path / "a.webp"], BOXES[:1]))
    assert len(decoders._idle) == 1


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

    monkeypatch.setattr(apps.runtime.batching, "decode_guarded", decode)
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
