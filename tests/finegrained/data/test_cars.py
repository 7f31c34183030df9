"""Stanford Cars in layouts O and S: two numberings, two folders, labels from 1, boxes from 1."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from finegrained.data.cars import read_cars_by_class, read_cars_single, read_cars_split
from finegrained.data.reading import FineReading, ReadingRules
from finegrained.synthetic.cars import save_mat, struct_array, write_lookalike_cars
from finetune.errors import DataError
from finetune.images.decode import decode_image

SUBSET = ReadingRules(subset=True)
FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")
FOLDERS = "car_data/car_data"


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


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    write_lookalike_cars(tmp_path, "K", classes=4, per_class=5)
    return tmp_path


def test_the_order_is_the_lists_and_not_the_folders(cars: Path):
    manifest = read_cars_by_class(cars, SUBSET).manifest
    folders = sorted(entry.name for entry in (cars / FOLDERS / "train").iterdir())
    assert manifest.class_names[0] == "Drawn Wagon 2012"
    assert folders[0] == "Drawn C-V Cargo Van 2012"
    for path, label in zip(manifest["path"].tolist(), manifest.label.tolist(), strict=True):
        assert path.split("/")[3] == manifest.class_names[label].replace("/", "-")


def test_the_first_line_of_a_list_is_an_image_and_classes_count_from_one(cars: Path):
    line = (cars / "anno_train.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    manifest = read_cars_by_class(cars, SUBSET).manifest
    row = manifest["source_id"].tolist().index(f"train/{line[0]}")
    assert manifest.label[row] == int(line[5]) - 1
    assert [manifest[name][row] for name in ("x1", "x2")] == [int(line[1]) - 1, int(line[3])]
    assert len(manifest) == 20


def test_a_class_with_a_slash_is_found_in_a_nested_folder_too(cars: Path):
    for part in ("train", "test"):
        nested = cars / FOLDERS / part / "Drawn C/V Cargo Van 2012"
        nested.parent.mkdir()
        (cars / FOLDERS / part / "Drawn C-V Cargo Van 2012").rename(nested)
    manifest = read_cars_by_class(cars, SUBSET).manifest
    assert manifest.class_counts().tolist() == [5, 5, 5, 5]
    assert manifest.num_classes == 4


@pytest.mark.parametrize("base", ["car_data", ""])
def test_undoubled_picture_folders_are_found(cars: Path, base: str):
    (cars / FOLDERS).rename(cars / "moved")
    (cars / "car_data").rmdir()
    for part in ("train", "test"):
        (cars / base).mkdir(exist_ok=True)
        (cars / "moved" / part).rename(cars / base / part)
    assert read_cars_by_class(cars, SUBSET).report["missing_images"] == 0


def test_lists_alone_are_enough_for_metadata(cars: Path):
    (cars / "car_data").rename(cars.parent / f"{cars.name}_elsewhere")
    manifest = read_cars_by_class(cars, ReadingRules(subset=True, metadata_only=True)).manifest
    assert any("C-V" in path for path in manifest["path"].tolist())
    assert not any("C/V" in path for path in manifest["path"].tolist())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a.jpg,1,1,2", "line 1"),
        ("a.jpg,1,1,2,2,9", "class 9"),
        ("a.jpg,1,x,2,2,1", "line 1"),
        ("a.jpg,1,1,2,2,1,3", "line 1"),
        ("a.jpg,1,1,1_0,2,1", "line 1"),
    ],
)
def test_faulty_lines_are_named(cars: Path, line: str, said: str):
    (cars / "anno_train.csv").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_cars_by_class(cars, SUBSET)


def test_a_missing_list_is_named(cars: Path):
    (cars / "anno_test.csv").unlink()
    with pytest.raises(DataError, match=r"lacks anno_test\.csv"):
        read_cars_by_class(cars, SUBSET)


def test_counts_are_asserted(cars: Path):
    with pytest.raises(DataError, match="20 of 16185"):
        read_cars_by_class(cars)


def test_a_whole_list_is_official_and_195_classes_are_not(tmp_path: Path):
    for part, count in (("train", 8144), ("test", 8041)):
        lines = (f"{number:05d}.jpg,1,1,2,2,{number % 195 + 1}" for number in range(count))
        (tmp_path / f"anno_{part}.csv").write_text("\n".join(lines), encoding="utf-8")
    names = [f"car {number}" for number in range(196)]
    (tmp_path / "names.csv").write_text("\n".join(names), encoding="utf-8")
    assert read_cars_by_class(tmp_path, ReadingRules(metadata_only=True)).report["official"]
    (tmp_path / "names.csv").write_text("\n".join(names[:195]), encoding="utf-8")
    with pytest.raises(DataError, match="195 of 196 classes"):
        read_cars_by_class(tmp_path, ReadingRules(metadata_only=True))
