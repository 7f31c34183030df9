"""Stanford Cars by class folder: the order of the list, slashes in names, files without a header."""

from __future__ import annotations

from pathlib import Path

import pytest

from finegrained.data.cars_by_class import read_cars_by_class
from finegrained.data.reading import ReadingRules
from finegrained.synthetic.cars import write_lookalike_cars
from finetune.errors import DataError

SUBSET = ReadingRules(subset=True)
FOLDERS = "car_data/car_data"


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
    [("a.jpg,1,1,2", "line 1"), ("a.jpg,1,1,2,2,9", "class 9"), ("a.jpg,1,x,2,2,1", "line 1")],
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
