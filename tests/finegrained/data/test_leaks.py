"""Pictures that a run has seen are found by their bytes, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from finegrained.data.leaks import content_hashes, refuse_seen_pictures

from finetune.errors import DataError
from finetune.images.manifest import Manifest


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


def test_how_many_of_the_seen_pictures_can_be_compared_is_told(tmp_path, capsys):
    own = trained(tmp_path)
    (tmp_path / "own" / "1").unlink()
    other = folder_of(tmp_path / "other", {"x": b"one"})
    refuse_seen_pictures(own, other, np.arange(1), Path("run"))
    assert "1 of 2 training and validation pictures of run are still there" in capsys.readouterr().out
    (tmp_path / "own" / "2").unlink()
    refuse_seen_pictures(own, other, np.arange(1), Path("run"))
    told = capsys.readouterr().out
    assert "0 of 2 training and validation pictures" in told
    assert "among them cannot be told" in told


@pytest.mark.parametrize("files", [["1"], ["2"], ["2", "1"]])
def test_gone_pictures_are_refused_by_the_very_list_of_their_paths_and_classes(tmp_path, files):
    own = trained(tmp_path)
    for name in ("1", "2"):
        (tmp_path / "own" / name).unlink()
    other = folder_of(tmp_path / "other", dict.fromkeys(files, b"new"))
    with pytest.raises(DataError, match="very paths and classes"):
        refuse_seen_pictures(own, other, np.arange(len(files)), Path("run"))


def test_kept_hashes_are_compared_although_the_pictures_are_gone(tmp_path, capsys):
    own = trained(tmp_path)
    own = own.with_column("sha256", content_hashes(own))
    for name in ("1", "2"):
        (tmp_path / "own" / name).unlink()
    other = folder_of(tmp_path / "other", {"x": b"one", "y": b"six"})
    with pytest.raises(DataError, match=r"on 1 of these 2 pictures"):
        refuse_seen_pictures(own, other, np.arange(2), Path("run"))
    refuse_seen_pictures(own, other, np.array([1]), Path("run"))
    assert capsys.readouterr().out == ""
