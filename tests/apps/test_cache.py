from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from apps.cli import main
from finetune.cli import console
from finetune.images.cache.records import records_file, writing
from finetune.images.cache.source import CachedSource, open_source
from finetune.images.preprocess import PreprocessSpec
from tests.finetune.pictures import write_pictures


@pytest.fixture(autouse=True)
def lines_on_standard_output() -> Iterator[None]:
    yield
    console.reset()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache folder with three files, for 40, 41 and 42 px: the smallest is unused for the longest time."""
    manifest = write_pictures(tmp_path / "data", 4)
    for size in (40, 41, 42):
        spec = PreprocessSpec(size, "warp", size, "bicubic", (0.5,) * 3, (0.25,) * 3)
        source = open_source(manifest, spec, cache_dir=tmp_path / "cache", workers=1)
        assert isinstance(source, CachedSource)
        os.utime(source.cache_file, (1e9 + size, 1e9 + size))
    (tmp_path / "cache" / "detector.onnx").write_bytes(b"x")
    return tmp_path / "cache"


def test_ls_shows_every_file_and_the_limit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls", "--folder", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("pictures-") == 3
    assert "3 caches, 0.00 of at most 20 GB (CRL_CACHE_GB)" in shown
    assert "days ago" in shown
    rows = [line.split() for line in shown.splitlines() if "pictures-" in line]
    images = str(folder.parent / "data")
    assert sorted(row[2:5] for row in rows) == [["4", str(size), images] for size in (40, 41, 42)]


def test_ls_says_which_files_hold_features(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = records_file(folder, "0" * 32)
    with writing(file, waiting=lambda: None, ask=lambda: None) as writer:
        writer.begin(8, 100)
        writer.write(np.ones((8, 100), np.uint8))
        writer.finish({"images": 4})
    assert main(["cache", "ls", "--folder", str(folder)]) == 0
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if "features-" in line]
    assert " ".join(row) == f"{file.name} 0.0 4 features of a frozen backbone today no"
    assert main(["cache", "clean", "--folder", str(folder)]) == 0
    assert not file.exists()


def test_clean_leaves_what_was_used_last_and_what_is_not_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {file.stat().st_size: file for file in folder.glob("*.pixels")}
    keep = str((max(sizes) + 10) / 1e9)
    assert main(["cache", "clean", "--folder", str(folder), "--keep_gb", keep, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert [cache["file"] for cache in made["caches"]] == [sizes[max(sizes)].name]
    assert len(made["removed"]) == 2
    assert [file for file in sizes.values() if file.exists()] == [sizes[max(sizes)]]
    assert main(["cache", "clean", "--folder", str(folder)]) == 0
    assert sorted(file.name for file in folder.iterdir()) == ["detector.onnx", "pictures.lock"]


def test_a_file_in_use_stays(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = PreprocessSpec(40, "warp", 40, "bicubic", (0.5,) * 3, (0.25,) * 3)
    source = open_source(write_pictures(tmp_path / "data", 4), spec, cache_dir=folder, workers=1)
    assert isinstance(source, CachedSource)
    assert main(["cache", "clean", "--folder", str(folder)]) == 0
    assert "removed: 2 of 3 caches" in (shown := capsys.readouterr().out)
    assert "kept: 1 in use by a run" in shown
    assert [*folder.glob("*.pixels")] == [source.cache_file]


@pytest.mark.parametrize(
    ("words", "said"),
    [(["lst"], "takes ls or clean, got 'lst'"), (["clean", "--keep_gb", "-1"], "keep_gb must be 0 or more")],
)
def test_other_wishes_are_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", *words, "--folder", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_a_user_without_a_home_folder_has_no_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home").write_bytes(b"")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("CRL_CACHE", raising=False)
    assert main(["cache", "ls", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["folder"] is None
    assert "no folder to keep caches in: 0 caches" in shown.err
