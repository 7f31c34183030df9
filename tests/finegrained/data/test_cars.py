"""Stanford Cars in layouts O and S: two numberings, two folders, labels from 1, boxes from 1."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from finegrained.data.cars import read_cars_single, read_cars_split
from finegrained.data.reading import FineReading, ReadingRules
from finegrained.synthetic.cars import save_mat, struct_array, write_lookalike_cars
from finetune.errors import DataError
from finetune.images.decode import decode_image

SUBSET = ReadingRules(subset=True)
FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")


@pytest.fixture
def split(tmp_path: Path) -> Path:
    write_lookalike_cars(tmp_path, "S", classes=4, per_class=5)
    return tmp_path


def _colour(reading: FineReading, row: int) -> np.ndarray:
    return decode_image(reading.manifest.file(row)).mean(axis=(0, 1))


@pytest.mark.parametrize("layout", ["O", "S", "S-doubled"])
def test_every_layout_gives_the_same_classes_and_counts(tmp_path: Path, layout: str):
    write_lookalike_cars(tmp_path, layout, classes=4, per_class=5)  # type: ignore[arg-type]
    read = read_cars_single if layout == "O" else read_cars_split
    reading = read(tmp_path, SUBSET)
    assert reading.layout == f"cars-{layout[0]}"
    assert reading.manifest.class_names[2] == "Drawn C/V Cargo Van 2012"
    assert reading.manifest.class_counts().tolist() == [5, 5, 5, 5]
    assert (reading.report["train"], reading.report["test"]) == (12, 8)
    drawn = {decode_image(reading.manifest.file(row)).tobytes() for row in range(20)}
    assert len(drawn) == 20


def test_labels_of_the_file_count_from_one(split: Path):
    annotations = loadmat(str(split / "devkit/cars_train_annos.mat"), squeeze_me=True)["annotations"]
    manifest = read_cars_split(split, SUBSET).manifest
    label = {str(path): int(k) for path, k in zip(manifest["path"], manifest.label, strict=True)}
    for struct in annotations:
        assert label[f"cars_train/{struct['fname']}"] == int(struct["class"]) - 1


def test_boxes_of_the_file_count_from_one_with_both_edges_inside(split: Path):
    annotations = loadmat(str(split / "devkit/cars_train_annos.mat"), squeeze_me=True)["annotations"]
    manifest = read_cars_split(split, SUBSET).manifest
    first = annotations[0]
    found = [manifest[name][0] for name in ("x1", "y1", "x2", "y2")]
    assert found == [first["bbox_x1"] - 1, first["bbox_y1"] - 1, first["bbox_x2"], first["bbox_y2"]]


def test_train_and_test_share_names_and_not_pictures(split: Path):
    reading = read_cars_split(split, SUBSET)
    paths = reading.manifest["path"].tolist()
    one, other = paths.index("cars_train/00001.jpg"), paths.index("cars_test/00001.jpg")
    assert not np.allclose(_colour(reading, one), _colour(reading, other))
    assert len(set(reading.manifest["source_id"].tolist())) == len(paths)


@pytest.mark.parametrize("place", ["root", "devkit", "above"])
def test_the_test_labels_are_found_in_all_three_places(tmp_path: Path, place: str):
    root = tmp_path / "cars"
    write_lookalike_cars(
        root, "S", classes=2, per_class=3, test_labels="devkit" if place == "devkit" else "root"
    )
    if place == "above":
        shutil.move(root / "cars_test_annos_withlabels.mat", tmp_path)
    assert read_cars_split(root, SUBSET).report["test"] == 2


def test_a_test_part_without_labels_is_refused_with_the_cure(tmp_path: Path):
    write_lookalike_cars(tmp_path, "S", test_labels="none")
    with pytest.raises(DataError, match=r"(?s)cars_test_annos\.mat has no classes.*withlabels.*issues/7545"):
        read_cars_split(tmp_path, SUBSET)


def test_a_list_of_one_folder_with_split_pictures_is_refused(tmp_path: Path):
    write_lookalike_cars(tmp_path / "O", "O")
    write_lookalike_cars(tmp_path / "S", "S")
    shutil.copy(tmp_path / "O/cars_annos.mat", tmp_path / "S")
    with pytest.raises(DataError, match="numbered differently"):
        read_cars_single(tmp_path / "S", ReadingRules(subset=True, missing="drop"))
    (tmp_path / "S/cars_train").rename(tmp_path / "S/car_ims")
    with pytest.raises(DataError, match="numbered differently"):
        read_cars_single(tmp_path / "S", ReadingRules(subset=True, missing="drop"))


def test_split_lists_with_pictures_of_one_folder_are_refused(tmp_path: Path):
    write_lookalike_cars(tmp_path / "O", "O")
    write_lookalike_cars(tmp_path / "S", "S")
    shutil.rmtree(tmp_path / "S/cars_train")
    shutil.move(tmp_path / "O/car_ims", tmp_path / "S/cars_train")
    with pytest.raises(DataError, match="numbered differently"):
        read_cars_split(tmp_path / "S", ReadingRules(subset=True, missing="drop"))


@pytest.mark.parametrize("number", [0, 3])
def test_a_class_outside_the_list_is_refused_with_its_picture(tmp_path: Path, number: int):
    write_lookalike_cars(tmp_path, "S", classes=2, per_class=3)
    rows = [(1, 1, 9, 9, 1, "00001.jpg"), (1, 1, 9, 9, number, "00002.jpg")]
    save_mat(tmp_path / "devkit/cars_train_annos.mat", {"annotations": struct_array(FIELDS, rows)})
    with pytest.raises(DataError, match=rf"00002\.jpg: class {number} is not one of 1 to 2"):
        read_cars_split(tmp_path, SUBSET)


def test_a_class_that_is_no_whole_number_is_refused(tmp_path: Path):
    write_lookalike_cars(tmp_path, "S", classes=3, per_class=4)
    rows = [(1, 1, 9, 9, 1.5, "00001.jpg")]
    save_mat(tmp_path / "devkit/cars_train_annos.mat", {"annotations": struct_array(FIELDS, rows)})
    with pytest.raises(DataError, match=r"00001\.jpg: class 1\.5 is not one of 1 to 3"):
        read_cars_split(tmp_path, SUBSET)


@pytest.mark.parametrize("flag", [0.5, 2, -1])
def test_a_part_that_is_neither_0_nor_1_is_refused(tmp_path: Path, flag: float):
    write_lookalike_cars(tmp_path, "O", classes=3, per_class=4)
    content = loadmat(str(tmp_path / "cars_annos.mat"))
    content["annotations"][0, 2]["test"] = np.array([[flag]])
    save_mat(tmp_path / "cars_annos.mat", {name: content[name] for name in ("annotations", "class_names")})
    with pytest.raises(DataError, match=f"test is 1 for the test part and else 0.*\n.*{flag}"):
        read_cars_single(tmp_path, SUBSET)


def test_196_classes_and_the_official_counts_are_asserted(split: Path):
    with pytest.raises(DataError, match="20 of 16185 images, 12 of 8144 train, 8 of 8041 test, 4 of 196"):
        read_cars_split(split)


def test_a_missing_devkit_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"cars_train_annos\.mat"):
        read_cars_split(tmp_path, SUBSET)


@pytest.mark.real_data
def test_sixty_real_classes_are_read(real_data: Path):
    report = read_cars_split(real_data / "cars60", SUBSET).report
    assert [report[name] for name in ("images", "classes", "train", "test")] == [2457, 60, 1247, 1210]
