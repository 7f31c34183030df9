"""Pictures that a run has seen are found by their bytes, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finegrained.leaks import refuse_seen_pictures
from finetune.errors import DataError
from finetune.manifest import Manifest


def folder_of(folder: Path, files: dict[str, bytes], **columns: list[str]) -> Manifest:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    listed = {"path": np.array(list(files)), "label": np.zeros(len(files), dtype=np.int64)}
    return Manifest(folder, ("a",), listed | {name: np.array(part) for name, part in columns.items()})


def trained(folder: Path) -> Manifest:
    files = {"1": b"one", "2": b"two", "3": b"six"}
    return folder_of(folder / "own", files, part=["train", "validation", "test"])


def test_seen_pictures_are_refused_by_their_new_names(tmp_path):
    other = folder_of(tmp_path / "other", {"x": b"new", "y": b"two", "z": b"one"})
    with pytest.raises(DataError, match=r"on 2 of these 3 pictures \(equal bytes\).*\n *y\n *z") as told:
        refuse_seen_pictures(trained(tmp_path), other, np.arange(3), Path("run"))
    assert "own test pictures" in str(told.value)


def test_test_pictures_and_rows_that_are_not_shown_do_not_count(tmp_path):
    other = folder_of(tmp_path / "other", {"x": b"six", "y": b"two", "z": b"longer"})
    refuse_seen_pictures(trained(tmp_path), other, np.array([0, 2]), Path("run"))


def test_pictures_that_are_gone_cannot_be_compared(tmp_path):
    own = trained(tmp_path)
    (tmp_path / "own" / "1").unlink()
    other = folder_of(tmp_path / "other", {"x": b"one"})
    refuse_seen_pictures(own, other, np.arange(1), Path("run"))
