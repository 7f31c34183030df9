"""A cache whose pixels were overwritten on the disk: no wrong pixel is ever read from it."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from finetune.errors import DataError
from finetune.images.cache.file import read_index
from finetune.images.cache.source import CachedSource, open_source
from finetune.images.manifest import Manifest
from tests.finetune.pictures import WARP, write_pictures


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_pictures(tmp_path / "data", 9)


def open_cached(manifest: Manifest, folder: Path, boxes: np.ndarray | None = None) -> CachedSource:
    source = open_source(manifest, WARP, cache_dir=folder, workers=2, boxes=boxes)
    assert isinstance(source, CachedSource)
    return source


def pictures_of(source: CachedSource) -> list[np.ndarray]:
    return [source[row].copy() for row in range(len(source))]


def overwrite_half(file: Path) -> bytes:
    """Overwrite the second half of the pixels with other bytes; return the whole content as it was."""
    whole = file.read_bytes()
    index = read_index(file)
    assert index is not None
    middle, end = int(index.starts[len(index.starts) // 2]), int(index.starts[-1]) + 1
    file.write_bytes(whole[:middle] + b"\x55" * (end - middle) + whole[end:])
    return whole


def test_pixels_overwritten_on_the_disk_are_decoded_again_and_put_back(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = pictures_of(open_cached(manifest, tmp_path / "cache"))
    (file,) = (tmp_path / "cache").glob("*.pixels")
    whole = overwrite_half(file)
    source = open_cached(manifest, tmp_path / "cache")
    other_process = pickle.loads(pickle.dumps(source))
    for row, picture in enumerate(expected):
        np.testing.assert_array_equal(other_process[row], picture)
    assert file.read_bytes() == whole
    assert f"{file} is damaged at {manifest.file(8)}: decoded again" in capsys.readouterr().out
    for row, picture in enumerate(expected):
        np.testing.assert_array_equal(source[row], picture)
    assert capsys.readouterr().out == ""


def test_a_damaged_cache_that_cannot_be_written_gives_the_right_pixels_each_time(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pictures_of(open_cached(manifest, tmp_path / "cache"))
    (file,) = (tmp_path / "cache").glob("*.pixels")
    overwrite_half(file)
    damaged = file.read_bytes()
    source = open_cached(manifest, tmp_path / "cache")
    plain = os.open

    def refuse_writing(path: str | Path, flags: int, *more: int) -> int:
        if flags & os.O_WRONLY:
            raise PermissionError(errno.EACCES, "Permission denied")
        return plain(path, flags, *more)

    monkeypatch.setattr(os, "open", refuse_writing)
    assert not source.check()
    for _ in range(2):
        for row, picture in enumerate(expected):
            np.testing.assert_array_equal(source[row], picture)
    assert file.read_bytes() == damaged


def test_an_image_that_changed_while_its_damaged_cache_is_in_use_is_an_error(
    manifest: Manifest, tmp_path: Path
) -> None:
    source = open_cached(manifest, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.pixels")
    overwrite_half(file)
    manifest.file(8).write_bytes(manifest.file(1).read_bytes())
    with pytest.raises(DataError, match=r"008\.jpg changed while its cache"):
        source[8]


def test_boxes_are_kept_when_damaged_pixels_are_decoded_again(manifest: Manifest, tmp_path: Path) -> None:
    boxes = np.tile([3.0, 2.0, 30.0, 36.0], (len(manifest), 1))
    boxes[8] = [0.0, 0.0, 20.0, 20.0]
    expected = pictures_of(open_cached(manifest, tmp_path / "cache", boxes))
    (file,) = (tmp_path / "cache").glob("*.pixels")
    overwrite_half(file)
    source = open_cached(manifest, tmp_path / "cache", boxes)
    for row, picture in enumerate(expected):
        np.testing.assert_array_equal(source[row], picture)


def test_an_index_that_was_overwritten_makes_the_file_anew(manifest: Manifest, tmp_path: Path) -> None:
    expected = pictures_of(open_cached(manifest, tmp_path / "cache"))
    (file,) = (tmp_path / "cache").glob("*.pixels")
    whole = file.read_bytes()
    for place in (-60, -300):  # in the table of shapes, and among the digests
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert read_index(file) is None
        for row, picture in enumerate(pictures_of(open_cached(manifest, tmp_path / "cache"))):
            np.testing.assert_array_equal(picture, expected[row])
        assert file.read_bytes() == whole
