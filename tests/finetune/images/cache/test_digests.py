"""Digests of files: computed once, by whatever process, and again for a file that changed."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.images.cache import digests
from finetune.images.cache.digests import forget_digests, hash_files, keep_digests
from finetune.images.cache.source import open_source
from finetune.images.checks import content_hashes, equal_files
from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec

opened: list[str] | None = None


def _note(event: str, given: tuple[Any, ...]) -> None:
    if opened is not None and event == "open" and str(given[0]).endswith(".png"):
        opened.append(Path(given[0]).name)


sys.addaudithook(_note)


@pytest.fixture(autouse=True)
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Digests of this test alone, all worth keeping, of files however young; what is opened is noted."""
    monkeypatch.setattr(digests, "SETTLED_NS", -1)
    monkeypatch.setattr(digests, "WORTH_KEEPING", 1)
    monkeypatch.setattr(sys.modules[__name__], "opened", [])
    keep_digests(str(tmp_path / "kept"))
    another_process(monkeypatch)
    yield
    keep_digests("auto")


def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what this process knows."""
    monkeypatch.setattr(digests, "_known", {})
    monkeypatch.setattr(digests, "_stores", set())


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Four images of two contents, all of one size."""
    root = tmp_path / "root"
    root.mkdir()
    for number in range(4):
        colours = np.full((8, 8, 3), number % 2, np.uint8)
        Image.fromarray(colours).save(root / f"{number}.png", compress_level=0)
    paths = np.array([f"{number}.png" for number in range(4)])
    seen()  # the writing itself
    return Manifest(root, ("one",), {"path": paths, "label": np.zeros(4, np.int64)})


def seen() -> list[str]:
    assert opened is not None
    found = sorted(opened)
    opened.clear()
    return found


def test_a_file_is_read_once_whatever_asks_and_in_whatever_process(
    manifest: Manifest, tmp_path: Path, monkeypatch
):
    spec = PreprocessSpec(8, "warp", 8, "bicubic", (0.5,) * 3, (0.5,) * 3)

    def everything() -> tuple[object, ...]:
        source = open_source(manifest, spec, cache_dir=tmp_path / "kept", workers=2)
        return list(equal_files(manifest)), source.content, content_hashes(manifest).tolist()

    found = everything()
    assert seen() == sorted([*manifest["path"], *manifest["path"]])  # hashed, and decoded for the cache
    assert everything() == found
    assert seen() == []
    another_process(monkeypatch)
    assert everything() == found
    assert seen() == []
    assert found[2] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in map(Path, manifest.files())]


def test_a_changed_file_is_read_again_though_size_and_date_are_as_before(manifest: Manifest, monkeypatch):
    before = hash_files(manifest.files(), 1, manifest.root)
    first, second = Path(manifest.files()[0]), Path(manifest.files()[1])
    was = first.stat()
    other = first.with_name("new")
    other.write_bytes(second.read_bytes())
    assert other.stat().st_size == was.st_size
    os.utime(other, ns=(was.st_atime_ns, was.st_mtime_ns))
    other.replace(first)
    seen()
    for _ in range(2):
        assert hash_files(manifest.files(), 1, manifest.root) == [before[1], *before[1:]]
        another_process(monkeypatch)
    assert seen() == ["0.png"]
    with second.open("r+b") as stream:
        stream.write(b"P")
    assert hash_files(manifest.files(), 1, manifest.root)[1] != before[1]


def test_a_file_that_has_just_changed_is_not_remembered(manifest: Manifest, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_NS", 60 * 10**9)
    assert hash_files(manifest.files(), 1) == hash_files(manifest.files(), 1)
    assert len(seen()) == 8


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"0.png": 5, "1.png": ""}'])
def test_a_damaged_or_a_forgotten_store_is_made_again(
    manifest: Manifest, tmp_path: Path, monkeypatch, content
):
    found = hash_files(manifest.files(), 1, manifest.root)
    (store,) = (tmp_path / "kept").iterdir()
    for damage in (lambda: store.write_bytes(content), lambda: forget_digests(tmp_path / "kept")):
        damage()
        another_process(monkeypatch)
        assert hash_files(manifest.files(), 1, manifest.root) == found
        assert len(store.read_bytes()) > 4 * 64


def test_none_are_kept_where_none_are_asked_for(manifest: Manifest, tmp_path: Path):
    keep_digests("none")
    assert hash_files([*manifest.files(), tmp_path / "gone"], 1, manifest.root)[-1].startswith("unreadable: ")
    assert not (tmp_path / "kept").exists()
