"""Class folders as every study walks them: images by part and class, strangers told, places found."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import DataError
from finetune.images.folders import (
    FolderPicture,
    find_class_folders,
    is_picture,
    list_class_folders,
    part_folders,
    stand_in,
)


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
        "1 folders hold no image and are no class there: test/c",
        "1 files are no images by their ending and are left out: 1 .txt",
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


def test_folders_that_link_to_each_other_are_listed_once_and_told(tmp_path: Path):
    _touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "outside/3.jpg", "outside/deep/4.txt")
    (tmp_path / "train/a/l").symlink_to("../b")
    (tmp_path / "train/b/l").symlink_to("../a")
    (tmp_path / "train/c").symlink_to("../outside")
    (tmp_path / "outside/deep/up").symlink_to("..")
    (tmp_path / "train/d").symlink_to("../outside/")
    found = list_class_folders(tmp_path, part_folders(tmp_path))
    paths = [picture.path for picture in found.pictures]
    assert paths == ["train/a/1.jpg", "train/b/2.jpg", "train/c/3.jpg"]
    told = "3 linked folders are listed under another path already: train/a/l, train/b/l, train/d"
    assert found.notices == [told]


def test_many_folders_that_all_link_to_all_are_walked_once_each(tmp_path: Path):
    names = [f"c{number}" for number in range(8)]
    _touch(tmp_path, *(f"{name}/1.jpg" for name in names))
    for name in names:
        for other in names:
            (tmp_path / name / other).symlink_to(f"../{other}")
    found = list_class_folders(tmp_path, {})
    assert found.class_names == names
    assert len(found.pictures) == 8


def test_classes_stand_in_the_order_of_their_paths_step_by_step(tmp_path: Path):
    _touch(tmp_path, "a/x/1.jpg", "a-b/2.jpg", "outside/3.jpg")
    (tmp_path / "a/w").symlink_to("../outside")
    paths = [picture.path for picture in list_class_folders(tmp_path, {}).pictures]
    assert paths == ["a/x/1.jpg", "a-b/2.jpg", "outside/3.jpg"]
