"""Class folders as every study walks them: images by part and class, strangers told, places found."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.errors import DataError
from finetune.images.endings import PICTURE_ENDINGS
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
        "1 file is no image by its ending and is left out: 1 .txt",
        "1 images are hidden (their name or folder begins with a dot, or is a system's "
        "own, as __MACOSX and @eaDir are) and are left out: "
        "test/c/.x.jpg (1)",
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


def test_an_image_of_every_ending_that_is_decoded_is_listed(tmp_path: Path):
    names = [
        f"train/a/1{kind.upper() if place % 2 else kind}"
        for place, kind in enumerate(sorted(PICTURE_ENDINGS))
    ]
    _touch(tmp_path, *names)
    found = list_class_folders(tmp_path, part_folders(tmp_path))
    assert sorted(picture.path for picture in found.pictures) == sorted(names)
    assert found.notices == []


def test_images_that_are_not_read_are_counted_by_their_format(tmp_path: Path):
    _touch(tmp_path, "train/a/1.jpg", "train/a/2.HEIC", "train/b/3.heif", "train/b/4.heic")
    assert list_class_folders(tmp_path, part_folders(tmp_path)).notices == [
        "1 folders hold images in formats that are not read alone and are no class there: train/b",
        "3 images are in a format that is not read here and are left out; export them as JPEG: "
        "2 .heic (HEIC), 1 .heif (HEIC)",
    ]


def test_hidden_folders_with_images_are_told_and_macos_leftovers_are_not(tmp_path: Path):
    _touch(tmp_path, "a/1.jpg", "a/._1.jpg", "a/.DS_Store", ".b/2.jpg", ".b/3.jpg", "__MACOSX/a/._1.jpg")
    _touch(tmp_path, ".git/4.jpg", "c/5.jpg")
    found = list_class_folders(tmp_path, {})
    assert found.class_names == ["a", "c"]
    assert [notice for notice in found.notices if "hidden" in notice] == [
        "2 images are hidden (their name or folder begins with a dot, or is a system's "
        "own, as __MACOSX and @eaDir are) and are left out: "
        ".b (2)"
    ]


def test_hidden_images_beside_the_parts_are_counted(tmp_path: Path):
    _touch(tmp_path, "train/a/1.jpg", "test/a/2.jpg", ".3.jpg", ".old/a/4.jpg", ".old/5.jpg", ".cache/6.txt")
    _touch(tmp_path, "train/.7.jpg", "._8.jpg")
    (notice,) = list_class_folders(tmp_path, part_folders(tmp_path)).notices
    assert notice.startswith("4 images are hidden")
    assert notice.endswith("are left out: .3.jpg (1), .old (2), train/.7.jpg (1)")


def test_what_lies_beside_the_parts_is_told_with_its_counts(tmp_path: Path):
    _touch(tmp_path, "train/a/1.jpg", "test/a/2.jpg", "extra/a/3.jpg", "extra/4.jfif", "notes/5.txt", "6.jpg")
    assert list_class_folders(tmp_path, part_folders(tmp_path)).notices == [
        "1 folders beside train/ and test/ belong to no part and are not used: extra/ (2 images)",
        "1 images beside train/ and test/ belong to no part and no class and are not used",
    ]


def test_two_unicode_forms_of_a_name_are_one_class(tmp_path: Path):
    name = "m\u00e9sange"
    other = unicodedata.normalize("NFD", name)
    _touch(tmp_path, f"train/{name}/1.jpg", f"test/{other}/2.jpg", f"train/{other}/3.jpg", "train/b/4.jpg")
    found = list_class_folders(tmp_path, part_folders(tmp_path))
    assert found.class_names == ["b", name]
    assert {picture.path for picture in found.pictures if picture.class_name == name} == {
        f"train/{name}/1.jpg",
        f"test/{other}/2.jpg",
        f"train/{other}/3.jpg",
    }
    assert found.notices == [
        f"1 classes have folders in two Unicode forms of the name, which are read as one class: {name}"
    ]


def test_classes_in_folders_within_folders_are_told(tmp_path: Path):
    _touch(tmp_path, "birds/owl/1.jpg", "birds/wren/2.jpg", "cat/3.jpg")
    assert list_class_folders(tmp_path, {}).notices == [
        "2 classes are folders within folders, and their paths are their names: birds/owl, birds/wren"
    ]


@pytest.mark.parametrize(
    "names", [("cars_train", "cars_test"), ("train2017", "val2017"), ("test/a", "val/a")]
)
def test_parts_by_their_names_are_no_classes(tmp_path: Path, names: tuple[str, str]):
    _touch(tmp_path, *(f"{name}/1.jpg" for name in names))
    with pytest.raises(DataError, match="are parts of a data set by their names, not classes"):
        list_class_folders(tmp_path, part_folders(tmp_path))


def test_a_class_that_is_called_like_a_part_may_stand_beside_others(tmp_path: Path):
    _touch(tmp_path, "test_card/1.jpg", "testament/2.jpg")
    assert list_class_folders(tmp_path, {}).class_names == ["test_card", "testament"]


def test_folders_that_a_system_makes_are_no_classes_and_hold_no_image(tmp_path: Path):
    names = (
        "robin/1.jpg",
        "wren/1.jpg",
        "robin/@eaDir/1.jpg/SYNO.jpg",
        "@eaDir/1.jpg",
        "$RECYCLE.BIN/S/1.jpg",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = list_class_folders(tmp_path, {})
    assert found.class_names == ["robin", "wren"]
    assert [picture.path for picture in found.pictures] == ["robin/1.jpg", "wren/1.jpg"]
    assert "3 images are hidden" in found.notices[0]
    assert "$RECYCLE.BIN (1), @eaDir (1), robin/@eaDir (1)" in found.notices[0]
    (tmp_path / "own" / "set" / "a").mkdir(parents=True)
    (tmp_path / "own" / "set" / "a" / "1.jpg").write_bytes(b"")
    (tmp_path / "own" / "__MACOSX").mkdir()
    assert find_class_folders(tmp_path / "own") == tmp_path / "own" / "set"


def test_links_that_lead_nowhere_and_to_themselves_are_told(tmp_path: Path):
    _touch(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg", "test/b/4.jpg")
    (tmp_path / "train" / "kite").symlink_to("nowhere")
    (tmp_path / "train" / "self").symlink_to("self")
    (tmp_path / "val").symlink_to("nowhere")
    found = list_class_folders(tmp_path, part_folders(tmp_path))
    assert found.notices == ["3 links lead nowhere and are left out: train/kite, train/self, val"]
    assert stand_in(tmp_path / "train")


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _touch(tmp_path, "a/1.jpg", "b/2.jpg")
    scan = os.scandir

    def closed(place: str) -> Iterator[os.DirEntry[str]]:
        if str(place).endswith("/b"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataError, match=r"/b cannot be listed: Permission denied"):
        list_class_folders(tmp_path, {})


def test_blanks_around_the_name_of_a_class_are_told(tmp_path: Path):
    _touch(tmp_path, "owl/1.jpg", "owl /2.jpg", "tit/3.jpg")
    assert list_class_folders(tmp_path, {}).notices == [
        "1 classes have folders with blanks around the name and without, which are read as one class: owl"
    ]
