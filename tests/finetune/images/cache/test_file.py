from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from finetune.errors import DataError, ResourceError
from finetune.images.cache import file as module
from finetune.images.cache.digests import hash_files
from finetune.images.cache.file import build_cache, cache_key, map_files, read_index
from finetune.images.decode import decode_image
from finetune.images.preprocess import prepare
from tests.finetune.pictures import SHORT, WARP, write_pictures


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    manifest = write_pictures(tmp_path / "data", 8)
    return [manifest.file(row) for row in range(8)]


def build(target: Path, files: list[Path]) -> None:
    build_cache(target, files, hash_files(files, 1), WARP, threads=1)


def build_slowly(target: Path, files: list[Path]) -> None:
    """As `build`, with a pause after each image, for a killer or a rival to come in between.

    Leaves a file named by the process beside the cache's folder when it really built.
    """

    def pause(done: int, total: int) -> None:
        (target.parent.parent / f"{os.getpid()}.built").touch()
        time.sleep(0.1)

    build_cache(target, files, hash_files(files, 1), WARP, threads=1, progress=pause)


def test_the_index_tells_where_every_picture_lies(files: list[Path], tmp_path: Path) -> None:
    files[3].write_bytes(b"")
    target = tmp_path / "cache" / "a.pixels"
    build_cache(target, files, hash_files(files, 2), SHORT, threads=2)
    index = read_index(target)
    assert index is not None
    assert list(index.bad) == [3]
    content = target.read_bytes()
    for slot in (0, 1, 4, 7):
        height, width = index.shapes[slot]
        start = index.starts[slot]
        pixels = np.frombuffer(content[start : start + height * width * 3], np.uint8).reshape(
            height, width, 3
        )
        np.testing.assert_array_equal(pixels, prepare(decode_image(files[slot]), SHORT))


def test_any_number_of_threads_writes_the_same_bytes(files: list[Path], tmp_path: Path) -> None:
    contents = []
    for threads in (1, 3):
        target = tmp_path / f"{threads}.pixels"
        build_cache(target, files, hash_files(files, threads), WARP, threads=threads)
        contents.append(target.read_bytes())
    assert contents[0] == contents[1]


def test_the_key_follows_contents_order_and_versions(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = hash_files(files, 1)
    keys = {cache_key(WARP, digests), cache_key(WARP, digests[::-1]), cache_key(SHORT, digests)}
    monkeypatch.setattr(module, "DECODER", "pillow-0")
    keys.add(cache_key(WARP, digests))
    monkeypatch.setattr(module, "RESIZER", "opencv-0")
    keys.add(cache_key(WARP, digests))
    assert len(keys) == 5


def test_progress_counts_every_picture(files: list[Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    target = tmp_path / "a.pixels"
    build_cache(
        target, files, hash_files(files, 1), WARP, threads=2, progress=lambda *step: seen.append(step)
    )
    assert seen == [(done, 8) for done in range(1, 9)]


@pytest.mark.alone
def test_a_killed_build_leaves_no_cache_and_the_next_one_cleans_up(files: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "cache" / "a.pixels"
    builder = multiprocessing.get_context("fork").Process(target=build_slowly, args=(target, files))
    builder.start()
    partial = target.with_name("a.pixels.tmp")
    deadline = time.monotonic() + 20
    while not partial.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert builder.pid is not None
    os.kill(builder.pid, signal.SIGKILL)
    builder.join()
    assert partial.exists()
    assert read_index(target) is None
    (target.parent / "older.pixels.tmp").write_bytes(b"left by another killed build")
    build(target, files)
    assert read_index(target) is not None
    assert sorted(file.name for file in target.parent.iterdir()) == ["a.pixels", "pictures.lock"]


def test_builders_at_once_all_succeed_and_only_one_builds(files: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "cache" / "a.pixels"
    context = multiprocessing.get_context("fork")
    builders = [context.Process(target=build_slowly, args=(target, files)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    assert read_index(target) is not None
    assert len(list(tmp_path.glob("*.built"))) == 1


def test_a_disk_too_small_is_refused_before_anything_is_written(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    needed = 8 * 40 * 40 * 3
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=needed - 1))
    with pytest.raises(ResourceError, match=f"disk full.* {needed} bytes.*--run.cache") as caught:
        build(tmp_path / "cache" / "a.pixels", files)
    assert caught.value.exit_code == 5
    assert not list((tmp_path / "cache").glob("*.pixels*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=needed))
    build(tmp_path / "cache" / "a.pixels", files)


class FullDisk:
    """A stream that takes `room` writes and then finds the disk full."""

    def __init__(self, stream: BinaryIO, room: int) -> None:
        self.stream, self.room = stream, room

    def write(self, content: bytes) -> int:
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.stream.write(content)


def test_a_disk_that_fills_up_while_writing_leaves_nothing_behind(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = module._write
    monkeypatch.setattr(module, "_write", lambda stream, *rest: write(FullDisk(stream, 4), *rest))
    with pytest.raises(ResourceError, match=f"disk full.*{8 * 40 * 40 * 3} bytes"):
        build(tmp_path / "cache" / "a.pixels", files)
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["pictures.lock"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_a_clear_error(files: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o500)
    with pytest.raises(ResourceError, match="cannot be written"):
        build(folder / "a.pixels", files)


def test_a_file_where_the_folder_should_be_is_a_clear_error(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ResourceError, match=r"cannot be written.*--run.cache"):
        build(tmp_path / "cache" / "a.pixels", files)


def test_a_picture_that_changes_during_the_build_stops_it(files: list[Path], tmp_path: Path) -> None:
    digests = hash_files(files, 1)
    files[5].write_bytes(files[4].read_bytes())
    target = tmp_path / "cache" / "a.pixels"
    with pytest.raises(DataError, match=f"{files[5].name} changed"):
        build_cache(target, files, digests, WARP, threads=2)
    assert [file.name for file in target.parent.iterdir()] == ["pictures.lock"]


def test_mapping_keeps_the_order_and_only_a_few_results_in_memory() -> None:
    started: list[int] = []

    def work(number: int) -> int:
        started.append(number)
        time.sleep(0.002 * (number % 3))
        return number

    results = map_files(work, range(200), 3, "test", progress=lambda done, total: None)
    assert next(results) == 0
    time.sleep(0.1)
    assert len(started) <= 3 * module.AHEAD
    assert list(results) == list(range(1, 200))
