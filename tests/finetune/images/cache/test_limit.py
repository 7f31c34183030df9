from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from finetune.cli.machine import module_environment
from finetune.errors import UsageError
from finetune.images.cache.limit import (
    LIMIT_VARIABLE,
    bytes_of,
    limit_bytes,
    list_caches,
    make_room,
    remove_oldest,
    remove_unused,
)
from finetune.images.cache.source import CachedSource, open_source
from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec
from tests.finetune.pictures import write_pictures


def rule(size: int) -> PreprocessSpec:
    return PreprocessSpec(size, "warp", size, "bicubic", (0.5,) * 3, (0.25,) * 3)


def open_cached(manifest: Manifest, folder: Path, size: int) -> CachedSource:
    source = open_source(manifest, rule(size), cache_dir=folder, workers=1)
    assert isinstance(source, CachedSource)
    return source


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_pictures(tmp_path / "data", 4)


def limit_to(count: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `count` caches of four images of `size` px fit, and not one more."""
    monkeypatch.setenv(LIMIT_VARIABLE, str((count + 0.9) * 4 * size * size * 3 / 1e9))


def test_the_one_unused_for_the_longest_time_goes(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    for age, size in ((30, 40), (20, 41), (10, 42)):
        file = open_cached(manifest, folder, size).cache_file
        os.utime(file, (1e9 - age, 1e9 - age))
    open_cached(manifest, folder, 40)  # used again just now
    before = [cache.path for cache in list_caches(folder)]
    limit_to(3, 42, monkeypatch)
    added = open_cached(manifest, folder, 43).cache_file
    assert [cache.path for cache in list_caches(folder)] == [*before[1:], added]
    assert "1 file (0.00 GB) unused for the longest time removed" in capsys.readouterr().out


def test_what_a_run_holds_is_never_removed_and_that_is_said(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    held = open_cached(manifest, folder, 40)
    expected = held[0].copy()
    os.utime(held.cache_file, (1, 1))
    limit_to(0, 40, monkeypatch)
    other = open_cached(manifest, folder, 41)
    assert held.cache_file.exists()
    assert other.cache_file.exists(), "the one just made stays, however large"
    assert "more than its limit" in capsys.readouterr().out
    np.testing.assert_array_equal(held[0], expected)
    assert [cache.held for cache in list_caches(folder)] == [True, True]
    assert not remove_unused(held.cache_file)
    name = held.cache_file
    del held
    assert remove_unused(name)
    assert not name.exists()


def test_a_copy_in_another_process_holds_the_file_too(manifest: Manifest, tmp_path: Path) -> None:
    file = open_cached(manifest, tmp_path / "cache", 40).cache_file
    assert [cache.held for cache in list_caches(file.parent)] == [False]
    program = (
        "import os, sys; from pathlib import Path; from finetune.images.cache.limit import hold; "
        "print(hold(os.open(sys.argv[1], os.O_RDONLY), Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-c", program, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=module_environment(),
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "True\n"
        assert not remove_unused(file)
        process.stdin.close()
        process.wait(20)
    assert remove_unused(file)


def test_room_is_made_on_a_full_disk(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    first = open_cached(manifest, folder, 40).cache_file
    os.utime(first, (1, 1))
    second = open_cached(manifest, folder, 41).cache_file

    def usage(place: Path) -> os.terminal_size:
        free = 500_000 if not first.exists() else 10
        return type("Usage", (), {"free": free})()

    monkeypatch.setattr("finetune.images.cache.limit.shutil.disk_usage", usage)
    assert [cache.path for cache in make_room(folder, 400_000)] == [first]
    assert second.exists()


def test_other_files_of_the_folder_are_none_of_its_business(tmp_path: Path) -> None:
    for name in ("face_detection_yunet_2026may.onnx", "notes.pixels", "pictures-1.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert list_caches(tmp_path) == []


@pytest.mark.parametrize(("text", "limit"), [("", 20 * 10**9), ("0.5", 5 * 10**8), (" 3 ", 3 * 10**9)])
def test_the_limit_is_twenty_gigabytes_or_what_the_variable_says(
    text: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    assert limit_bytes() == limit


@pytest.mark.parametrize("text", ["0", "-1", "many", "nan", "inf"])
def test_a_limit_that_is_no_size_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    with pytest.raises(UsageError, match=r"CRL_CACHE_GB must be a number of gigabytes above 0"):
        limit_bytes()


def test_one_rule_says_which_caches_go_first(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"pictures-{number}.pixels").write_bytes(b"x" * 10)
        os.utime(tmp_path / f"pictures-{number}.pixels", (number, number))
    caches, kept = list_caches(tmp_path), tmp_path / "pictures-0.pixels"
    gone = remove_oldest(caches, lambda left: left <= 20, keep=kept)
    assert [cache.path.name for cache in gone] == ["pictures-1.pixels", "pictures-2.pixels"]
    assert (bytes_of(caches), bytes_of(list_caches(tmp_path))) == (40, 20)
