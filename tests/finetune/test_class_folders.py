"""Class folders as every study walks them: pictures by part and class, strangers told, places found."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.class_folders import (
    FolderPicture,
    find_class_folders,
    is_picture,
    list_class_folders,
    part_folders,
    stand_in,
)
from finetune.errors import DataError


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_pictures_are_listed_by_part_and_class_and_strangers_are_told(tmp_path: Path):
    _touch(tmp_path, "train/b/1.jpg", "train/a/2.PNG", "train/a/notes.txt", "test/a/3.jpg", "test/c/.x.jpg")
    found = list_class_folders(tmp_path, part_folders(tmp_path))
    assert found.pictures == [
        FolderPicture("train", "a", "train/a/2.PNG"),
        FolderPicture("train", "b", "train/b/1.jpg"),
        FolderPicture("test", "a", "test/a/3.jpg"),
    ]
    assert found.class_names == ["a", "b"]
    assert found.notices == [
        "1 folders hold no picture and are no class there: test/c",
        "1 files are no pictures by their ending and are left out: 1 .txt",
    ]


def test_only_the_parts_asked_for_are_walked(tmp_path: Path):
    _touch(tmp_path, "train/a/1.jpg", "val/a/2.jpg", "val/loose.jpg")
    assert len(list_class_folders(tmp_path, {"train": "train"}).pictures) == 1
    with pytest.raises(DataError, match="in no class"):
        list_class_folders(tmp_path, part_folders(tmp_path))


def test_class_folders_are_found_at_below_and_around_the_folder_given(tmp_path: Path):
    _touch(tmp_path, "one/two/train/a/1.jpg", "one/two/test/a/2.jpg")
    place = tmp_path / "one/two"
    assert [find_class_folders(tmp_path / inner) for inner in ("", "one", "one/two", "one/two/test")] == [
        place
    ] * 4
    assert stand_in(place)
    (tmp_path / "empty/one").mkdir(parents=True)
    (tmp_path / "empty/two").mkdir()
    assert find_class_folders(tmp_path / "empty") is None


def test_pictures_go_by_their_ending():
    assert is_picture("a.JPEG")
    assert not is_picture("a.tar")
