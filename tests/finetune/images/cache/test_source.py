from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.errors import DataError, ResourceError
from finetune.images.cache.source import BadImagesError, CachedSource, ImageSource, open_source
from finetune.images.decode import BadImageError, decode_image
from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec, prepare
from tests.finetune.pictures import SHORT, WARP, smooth_picture, write_pictures


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_pictures(tmp_path / "data", 9)


def cache_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pixels"))


def open_cached(
    manifest: Manifest, folder: Path, spec: PreprocessSpec = WARP, **options: bool
) -> ImageSource:
    return open_source(manifest, spec, cache_dir=folder, workers=2, **options)


@pytest.mark.parametrize("spec", [WARP, SHORT], ids=["warp", "short"])
def test_cached_and_fresh_pictures_are_identical(
    manifest: Manifest, tmp_path: Path, spec: PreprocessSpec
) -> None:
    fresh = open_source(manifest, spec, cache_dir=None, workers=1)
    cached = open_cached(manifest, tmp_path / "cache", spec)
    assert len(fresh) == len(cached) == 9
    for row in range(9):
        expected = prepare(decode_image(manifest.file(row)), spec)
        np.testing.assert_array_equal(fresh[row], expected)
        np.testing.assert_array_equal(cached[row], expected)
        assert cached.file(row) == fresh.file(row) == manifest.file(row)


def test_a_second_opening_reads_the_same_file(manifest: Manifest, tmp_path: Path) -> None:
    open_cached(manifest, tmp_path / "cache")
    (file,) = cache_files(tmp_path / "cache")
    os.utime(file, (0, 0))
    built = file.read_bytes(), file.stat().st_ino
    open_cached(manifest, tmp_path / "cache")
    assert (file.read_bytes(), file.stat().st_ino) == built
    assert file.stat().st_mtime > time.time() - 60  # the time of its last use


def test_order_and_choice_of_crop_share_a_cache_but_the_resize_rule_does_not(
    manifest: Manifest, tmp_path: Path
) -> None:
    reordered = manifest.select(np.arange(9)[::-1])
    first, last = open_cached(manifest, tmp_path / "c"), open_cached(reordered, tmp_path / "c")
    np.testing.assert_array_equal(first[0], last[8])
    open_cached(manifest, tmp_path / "c", dataclasses.replace(WARP, image_size=24, mean=(0.1, 0.2, 0.3)))
    assert len(cache_files(tmp_path / "c")) == 1
    open_cached(manifest, tmp_path / "c", dataclasses.replace(WARP, resize_size=48))
    open_cached(manifest, tmp_path / "c", SHORT)
    open_cached(manifest, tmp_path / "c", dataclasses.replace(WARP, interpolation="bilinear"))
    assert len(cache_files(tmp_path / "c")) == 4


def test_a_picture_changed_in_place_is_noticed_even_with_size_and_date_restored(
    manifest: Manifest, tmp_path: Path
) -> None:
    file = manifest.file(3).with_suffix(".bmp")
    Image.fromarray(smooth_picture(1)).save(file)
    columns = {"path": np.array([file.name]), "label": np.array([0])}
    single = Manifest(manifest.root, ("a",), columns)
    before = open_cached(single, tmp_path / "cache")[0]
    stat = file.stat()
    Image.fromarray(smooth_picture(2)).save(file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    after = open_cached(single, tmp_path / "cache")[0]
    np.testing.assert_array_equal(after, prepare(smooth_picture(2), WARP))
    assert (before != after).any()


def test_the_data_may_move_without_a_new_cache(manifest: Manifest, tmp_path: Path) -> None:
    open_cached(manifest, tmp_path / "cache")
    manifest.root.rename(tmp_path / "moved")
    moved = Manifest(tmp_path / "moved", manifest.class_names, manifest.columns)
    open_cached(moved, tmp_path / "cache")
    assert len(cache_files(tmp_path / "cache")) == 1


def test_a_file_listed_twice_is_stored_once(manifest: Manifest, tmp_path: Path) -> None:
    rows = np.array([0, 1, 0, 2, 1])
    source = open_cached(manifest.select(rows), tmp_path / "cache")
    (file,) = cache_files(tmp_path / "cache")
    assert file.stat().st_size < 4 * 40 * 40 * 3
    for place, row in enumerate(rows):
        np.testing.assert_array_equal(source[place], prepare(decode_image(manifest.file(row)), WARP))


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "fresh"])
def test_bad_pictures_stop_with_the_whole_list_every_time(
    manifest: Manifest, tmp_path: Path, cached: bool
) -> None:
    manifest.file(2).write_bytes(b"")
    manifest.file(5).write_bytes(b"<html>")
    manifest.file(7).unlink()
    folder = tmp_path / "cache" if cached else None
    for _ in range(2):
        with pytest.raises(BadImagesError, match="3 of 9 images") as caught:
            open_source(manifest, WARP, cache_dir=folder, workers=2)
        assert [path for path, _ in caught.value.bad] == [str(manifest.file(row)) for row in (2, 5, 7)]
        assert "empty" in str(caught.value)
        assert "web page" in str(caught.value)
        assert "--data.skip_bad" in str(caught.value)
        assert caught.value.exit_code == 3


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "fresh"])
def test_skip_bad_names_the_rows_and_reading_one_fails(
    manifest: Manifest, tmp_path: Path, cached: bool
) -> None:
    manifest.file(2).write_bytes(manifest.file(2).read_bytes()[:300])
    folder = tmp_path / "cache" if cached else None
    source = open_source(manifest, WARP, cache_dir=folder, workers=1, skip_bad=True)
    assert list(source.bad) == [2]
    assert "truncated" in source.bad[2]
    with pytest.raises(BadImageError, match=manifest.file(2).name):
        source[2]
    np.testing.assert_array_equal(source[3], prepare(decode_image(manifest.file(3)), WARP))


def test_a_mended_picture_is_used_at_once(manifest: Manifest, tmp_path: Path) -> None:
    whole = manifest.file(4).read_bytes()
    manifest.file(4).write_bytes(whole[:200])
    with pytest.raises(BadImagesError):
        open_cached(manifest, tmp_path / "cache")
    manifest.file(4).write_bytes(whole)
    assert open_cached(manifest, tmp_path / "cache").bad == {}


def test_a_damaged_cache_is_built_again(manifest: Manifest, tmp_path: Path) -> None:
    expected = open_cached(manifest, tmp_path / "cache")[8].copy()
    (file,) = cache_files(tmp_path / "cache")
    whole = file.read_bytes()
    for damaged in (whole[:-5], whole[:1000], b"", whole[:50] + whole[80:]):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(open_cached(manifest, tmp_path / "cache")[8], expected)
        assert file.read_bytes() == whole


def test_a_cache_cut_short_while_in_use_is_an_error_not_wrong_pixels(
    manifest: Manifest, tmp_path: Path
) -> None:
    source = open_cached(manifest, tmp_path / "cache")
    (file,) = cache_files(tmp_path / "cache")
    os.truncate(file, 5000)
    with pytest.raises(DataError, match="cut short"):
        source[8]


def test_threads_read_the_right_pictures(manifest: Manifest, tmp_path: Path) -> None:
    source = open_cached(manifest, tmp_path / "cache")
    expected = [source[row].copy() for row in range(9)]
    rows = np.random.default_rng(0).integers(0, 9, 400).tolist()
    with ThreadPoolExecutor(6) as pool:
        for row, picture in zip(rows, pool.map(source.__getitem__, rows), strict=True):
            np.testing.assert_array_equal(picture, expected[row])


def test_a_pickled_source_reads_the_same_and_closes_its_file(manifest: Manifest, tmp_path: Path) -> None:
    source = open_cached(manifest, tmp_path / "cache")
    copy = pickle.loads(pickle.dumps(source))
    assert isinstance(copy, CachedSource)
    np.testing.assert_array_equal(copy[6], source[6])
    if sys.platform == "linux":
        gc.collect()  # what other tests left behind
        before = len(list(Path("/proc/self/fd").iterdir()))
        del copy
        gc.collect()
        assert len(list(Path("/proc/self/fd").iterdir())) == before - 1


def private_memory() -> int:
    """Return the resident memory of this process in KiB, mapped files included."""
    (line,) = [
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")
    ]
    return int(line.split()[1])


def read_all(cache_file: Path, count: int, answers: multiprocessing.Queue[int]) -> None:
    source = CachedSource(cache_file, [cache_file] * count, np.arange(count), spec=WARP)
    source[0].sum()
    before = private_memory()
    for row in range(count):
        source[row].sum()
    answers.put(private_memory() - before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_pictures_read(tmp_path: Path) -> None:
    big = PreprocessSpec(224, "warp", 400, "bicubic", (0.5,) * 3, (0.5,) * 3)
    manifest = write_pictures(tmp_path / "data", 100)
    open_cached(manifest, tmp_path / "cache", big)
    (file,) = cache_files(tmp_path / "cache")
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    reader = context.Process(target=read_all, args=(file, 100, answers))
    reader.start()
    grown = answers.get(timeout=60)
    reader.join()
    assert file.stat().st_size > 48_000_000
    assert grown < 8_000


def test_a_file_that_fails_while_the_cache_is_built_is_not_remembered_as_bad(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: Path) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(DataError, match="could be read a moment ago: Input/output error"):
        open_source(manifest, WARP, cache_dir=tmp_path / "cache", workers=1)
    monkeypatch.undo()
    assert not open_source(manifest, WARP, cache_dir=tmp_path / "cache", workers=1).bad


def test_the_content_of_a_source_follows_the_bytes_of_its_pictures(
    manifest: Manifest, tmp_path: Path
) -> None:
    cached = open_source(manifest, WARP, cache_dir=tmp_path / "cache", workers=1).content
    assert open_source(manifest, SHORT, cache_dir=None, workers=1).content == cached
    manifest.file(0).write_bytes(manifest.file(1).read_bytes())
    assert open_source(manifest, WARP, cache_dir=None, workers=1).content != cached


def boxes_of(count: int) -> np.ndarray:
    """Return boxes that differ from row to row and lie inside every image."""
    rows = np.arange(count)
    return np.column_stack([2 + rows % 3, 1 + rows % 4, 30.0 + rows, 25.5 + rows])


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "fresh"])
def test_pictures_are_cut_to_their_boxes_before_they_are_resized(
    manifest: Manifest, tmp_path: Path, cached: bool
) -> None:
    folder = tmp_path / "cache" if cached else None
    rows = np.array([0, 1, 2, 0, 1])
    boxes = boxes_of(5)
    boxes[4] = boxes[1]
    source = open_source(manifest.select(rows), WARP, cache_dir=folder, workers=2, boxes=boxes)
    for place, row in enumerate(rows):
        picture = decode_image(manifest.file(row))
        x1, y1, x2, y2 = boxes[place]
        part = picture[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))]
        np.testing.assert_array_equal(source[place], prepare(part, WARP))
    assert (source[0] != source[3]).any(), "two boxes of one file are two images"
    np.testing.assert_array_equal(source[1], source[4])


def test_other_boxes_make_another_cache_and_no_boxes_the_one_there_was(
    manifest: Manifest, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    open_cached(manifest, folder)
    (plain,) = cache_files(folder)
    open_source(manifest, WARP, cache_dir=folder, workers=1, boxes=boxes_of(9))
    open_source(manifest, WARP, cache_dir=folder, workers=1, boxes=boxes_of(9) + 1)
    assert len(cache_files(folder)) == 3
    reordered = np.arange(9)[::-1]
    open_source(manifest.select(reordered), WARP, cache_dir=folder, workers=1, boxes=boxes_of(9)[reordered])
    open_cached(manifest, folder)
    assert len(cache_files(folder)) == 3
    assert plain in cache_files(folder)


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "fresh"])
def test_a_box_without_a_pixel_makes_its_picture_a_bad_one(
    manifest: Manifest, tmp_path: Path, cached: bool
) -> None:
    folder = tmp_path / "cache" if cached else None
    boxes = boxes_of(9)
    boxes[3] = (500, 10, 600, 20)
    boxes[5] = (10, 10, 10, 20)
    boxes[7, 2] = np.nan
    with pytest.raises(BadImagesError, match=r"3 of 9 (.|\n)*\(500, 10, 600, 20\) holds no pixel") as told:
        open_source(manifest, WARP, cache_dir=folder, workers=1, boxes=boxes)
    assert "not known" in str(told.value)
    source = open_source(manifest, WARP, cache_dir=folder, workers=1, boxes=boxes, skip_bad=True)
    assert sorted(source.bad) == [3, 5, 7]
    with pytest.raises(DataError, match=r"boxes of shape \(9, 4\), got \(8, 4\)"):
        open_source(manifest, WARP, cache_dir=folder, workers=1, boxes=boxes[:8])


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link"])
def test_what_lies_in_a_caches_place_and_is_no_file_is_never_waited_for(
    manifest: Manifest, tmp_path: Path, kind: str
) -> None:
    expected = open_cached(manifest, tmp_path / "cache")[0]
    (file,) = cache_files(tmp_path / "cache")
    file.unlink()
    if kind == "folder":
        file.mkdir()
        with pytest.raises(ResourceError, match="cannot be written: Is a directory; name another folder"):
            open_cached(manifest, tmp_path / "cache")
        return
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("nowhere")
    np.testing.assert_array_equal(open_cached(manifest, tmp_path / "cache")[0], expected)
