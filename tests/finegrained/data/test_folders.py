"""Class folders: parts, names with slashes, strangers among the images, the official order."""

from __future__ import annotations

from pathlib import Path

import pytest

from finegrained.data.class_names import CARS, class_table
from finegrained.data.folders import read_class_folders
from finegrained.data.reading import ReadingRules
from finegrained.synthetic.datasets import write_lookalike_folders
from finetune.errors import DataError
from finetune.images.folders import part_folders


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_parts_are_read_from_their_folders(tmp_path: Path):
    wrote = write_lookalike_folders(tmp_path, classes=3, per_class=8, parts=("train", "val", "test"))
    report = read_class_folders(tmp_path).report
    assert report["train"] + report["val"] == wrote.train
    assert report["val"] > 0
    assert (report["test"], report["classes"], report["official"]) == (wrote.test, 3, False)


def test_class_folders_alone_name_no_part(tmp_path: Path):
    wrote = write_lookalike_folders(tmp_path, classes=3, per_class=4, parts=())
    manifest = read_class_folders(tmp_path).manifest
    assert set(manifest["split"].tolist()) == {""}
    assert len(manifest) == wrote.images
    assert manifest.class_names == tuple(sorted(wrote.class_names))


def test_upper_case_and_numbers_sort_as_in_every_class_folder_reader(tmp_path: Path):
    _touch(tmp_path, "b/1.jpg", "B/1.jpg", "10/1.jpg", "9/1.jpg")
    assert read_class_folders(tmp_path).manifest.class_names == ("10", "9", "B", "b")


@pytest.mark.parametrize("name", ["val", "valid", "Validation"])
def test_validation_goes_by_several_names(tmp_path: Path, name: str):
    _touch(tmp_path, "train/a/1.jpg", f"{name}/a/2.jpg")
    assert part_folders(tmp_path) == {"train": "train", "val": name}
    assert read_class_folders(tmp_path).report["val"] == 1


def test_two_folders_for_one_part_are_refused(tmp_path: Path):
    _touch(tmp_path, "train/a/1.jpg", "val/a/2.jpg", "valid/a/3.jpg")
    with pytest.raises(DataError, match=r"val/ and valid/"):
        read_class_folders(tmp_path)


def test_a_class_split_by_its_slash_is_whole_again(tmp_path: Path):
    _touch(
        tmp_path,
        "train/Ram C/V Cargo Van Minivan 2012/1.jpg",
        "train/Acura RL Sedan 2012/2.jpg",
        "test/Ram C-V Cargo Van Minivan 2012/3.jpg",
        "test/Acura RL Sedan 2012/4.jpg",
    )
    with pytest.raises(DataError, match="two folders are one class"):
        read_class_folders(tmp_path)
    (tmp_path / "test/Ram C-V Cargo Van Minivan 2012").rename(tmp_path / "moved")
    (tmp_path / "test/Ram C").mkdir()
    (tmp_path / "moved").rename(tmp_path / "test/Ram C/V Cargo Van Minivan 2012")
    manifest = read_class_folders(tmp_path).manifest
    assert manifest.class_names == ("Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012")
    assert manifest.class_counts().tolist() == [2, 2]


def test_folders_of_all_cars_stand_in_the_official_order(tmp_path: Path):
    _touch(tmp_path, *(f"{name.replace('/', '-')}/1.jpg" for name in class_table(CARS)))
    reading = read_class_folders(tmp_path)
    assert reading.manifest.class_names == class_table(CARS)
    assert reading.manifest["path"][reading.manifest.label.tolist().index(173)].startswith("Ram C-V")
    assert "Stanford Cars" in reading.report["notices"][0]
    assert "no published score" in reading.report["notices"][0]


def test_files_that_are_no_pictures_are_left_out_and_told(tmp_path: Path):
    _touch(tmp_path, "a/1.JPG", "a/notes.txt", "a/.hidden.jpg", "__MACOSX/a/1.jpg", ".git/x.jpg")
    report = read_class_folders(tmp_path).report
    assert report["images"] == 1
    assert report["notices"] == [
        "1 file is no image by its ending and is left out: 1 .txt",
        "2 images are hidden (their name or folder begins with a dot, or is a system's "
        "own, as __MACOSX and @eaDir are) and are left out: "
        "__MACOSX (1), a/.hidden.jpg (1)",
    ]


def test_loose_pictures_are_refused(tmp_path: Path):
    _touch(tmp_path, "train/a/1.jpg", "train/2.jpg")
    with pytest.raises(DataError, match=r"in no class:\n.*2\.jpg"):
        read_class_folders(tmp_path)


def test_a_class_within_a_class_is_refused(tmp_path: Path):
    _touch(tmp_path, "a/1.jpg", "a/b/2.jpg")
    with pytest.raises(DataError, match=r"classes lie within classes.*\n.*a/b"):
        read_class_folders(tmp_path)


def test_a_folder_without_classes_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="holds no folder with images"):
        read_class_folders(tmp_path)


def test_a_link_that_leads_back_ends_the_walk_and_one_that_leads_out_is_refused(tmp_path: Path):
    root = tmp_path / "root"
    _touch(root, "a/1.jpg")
    (root / "a/again").symlink_to(root)
    assert len(read_class_folders(root).manifest) == 1
    _touch(tmp_path, "outside/1.jpg")
    (root / "b").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="outside the data root"):
        read_class_folders(root)
    assert len(read_class_folders(root, ReadingRules(follow=True)).manifest) == 2


def test_class_folders_without_a_picture_are_told(tmp_path: Path):
    _touch(tmp_path, "train/a/1.jpg", "train/b/x/2.jpg", "test/a/1.jpg", "test/b/x/.hidden.jpg")
    (tmp_path / "train/c").mkdir()
    notices = read_class_folders(tmp_path).report["notices"]
    assert notices == [
        "2 folders hold no image and are no class there: train/c, test/b",
        "1 images are hidden (their name or folder begins with a dot, or is a system's "
        "own, as __MACOSX and @eaDir are) and are left out: "
        "test/b/x/.hidden.jpg (1)",
        "1 classes are folders within folders, and their paths are their names: b/x",
    ]
