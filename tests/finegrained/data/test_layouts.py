"""Which data set lies in a folder: every layout, doubled and shifted folders, and helpful refusals."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from finegrained.data.layouts import detect_layout, read_layout
from finegrained.data.reading import ReadingRules
from finegrained.synthetic.cars import write_lookalike_cars
from finegrained.synthetic.datasets import write_lookalike_cub, write_lookalike_folders
from finetune.errors import DataError, UsageError

SUBSET = ReadingRules(subset=True)


def _write(root: Path, name: str) -> None:
    if name == "cub":
        write_lookalike_cub(root, classes=2, per_class=3)
    elif name.startswith("cars"):
        write_lookalike_cars(root, name.removeprefix("cars-"), classes=3, per_class=3)  # type: ignore[arg-type]
    else:
        write_lookalike_folders(
            root, classes=2, per_class=3, parts=("train", "test") if name == "parts" else ()
        )


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("cub", "images"),
        ("cub", "parts"),
        ("cars-O", "car_ims"),
        ("cars-S", "cars_train"),
        ("cars-S-doubled", "cars_test/cars_test"),
        ("cars-K", "car_data/car_data/train"),
        ("parts", "train"),
        ("parts", "test"),
        ("classes", None),
    ],
)
def test_every_layout_is_found_from_itself_its_parent_its_double_and_within(
    tmp_path: Path, name: str, inner: str | None
):
    wanted = {"parts": "folders", "classes": "folders", "cars-S-doubled": "cars-S"}.get(name, name)
    home = tmp_path / "set" / "set"
    _write(home, name)
    for root in (home, home.parent, tmp_path, *([home / inner] if inner else [])):
        layout = detect_layout(root)
        assert (layout.name, layout.root.resolve()) == (wanted, home.resolve())
        assert bool(layout.notices) == (root != home)
        assert detect_layout(root, wanted).name == wanted
    reading = read_layout(detect_layout(tmp_path), SUBSET)
    assert reading.layout == wanted
    assert "was found in" in reading.report["notices"][0]


def test_lists_come_before_the_class_folders_that_they_list(tmp_path: Path):
    _write(tmp_path, "cub")
    assert detect_layout(tmp_path / "images").name == "cub"
    assert detect_layout(tmp_path / "images", "folders").name == "folders"


def test_nothing_found_says_what_was_looked_for_and_found_and_where_data_come_from(tmp_path: Path):
    (tmp_path / "something").mkdir()
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        detect_layout(tmp_path)
    told = str(caught.value)
    for word in ("images.txt", "cars_annos.mat", "devkit", "names.csv", "something/", "notes.txt"):
        assert word in told
    assert "data.caltech.edu" in told
    assert "pytorch/vision/issues/7545" in told


def test_an_empty_folder_is_said_to_hold_nothing(tmp_path: Path):
    with pytest.raises(DataError, match="nothing"):
        detect_layout(tmp_path)


def test_several_data_sets_in_one_folder_are_refused_with_their_names(tmp_path: Path):
    _write(tmp_path / "birds", "cub")
    _write(tmp_path / "cars", "cars-S")
    with pytest.raises(DataError, match=r"(?s)several data sets.*birds.*cars"):
        detect_layout(tmp_path)
    assert detect_layout(tmp_path, "cars-S").root == tmp_path / "cars"


def _write_2010(root: Path, line: str) -> None:
    for name in ("lists/train.txt", "lists/test.txt", "images/001.A_bird/A_bird_0001_1.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{line}\n", encoding="utf-8")


@pytest.mark.parametrize("inner", ["", "home", "home/images", "home/lists"])
def test_cub_of_2010_is_named_from_itself_its_parent_and_within(tmp_path: Path, inner: str):
    home = tmp_path / "home" if inner else tmp_path
    _write_2010(home, "001.A_bird/A_bird_0001_1.jpg")
    for root in {tmp_path, tmp_path / inner}:
        with pytest.raises(DataError, match="CUB-200 of 2010"):
            detect_layout(root)
    assert detect_layout(home / "images", "folders").name == "folders"


def test_class_folders_with_lists_of_their_own_are_not_cub_of_2010(tmp_path: Path):
    _write_2010(tmp_path / "x", "images/001.A_bird/A_bird_0001_1.jpg 1")
    assert detect_layout(tmp_path / "x/images").name == "folders"


def test_cub_of_2010_beside_that_of_2011_is_no_hindrance(tmp_path: Path):
    _write_2010(tmp_path / "CUB_200", "001.A_bird/A_bird_0001_1.jpg")
    _write(tmp_path / "CUB_200_2011", "cub")
    assert detect_layout(tmp_path).root == tmp_path / "CUB_200_2011"


def test_both_car_lists_give_the_one_whose_pictures_are_there(tmp_path: Path):
    _write(tmp_path / "S", "cars-S")
    _write(tmp_path / "O", "cars-O")
    shutil.copy(tmp_path / "O/cars_annos.mat", tmp_path / "S")
    found = detect_layout(tmp_path / "S")
    assert found.name == "cars-S"
    assert "cars-S is used" in found.notices[0]
    shutil.copytree(tmp_path / "S/devkit", tmp_path / "O/devkit")
    assert detect_layout(tmp_path / "O").name == "cars-O"


def test_one_list_with_the_other_layouts_pictures_is_refused_on_reading(tmp_path: Path):
    _write(tmp_path / "S", "cars-S")
    _write(tmp_path / "O", "cars-O")
    shutil.rmtree(tmp_path / "S/devkit")
    shutil.copy(tmp_path / "O/cars_annos.mat", tmp_path / "S")
    with pytest.raises(DataError, match="numbered differently"):
        read_layout(detect_layout(tmp_path / "S"), SUBSET)


def test_split_lists_with_the_pictures_of_one_folder_are_refused_for_their_numbers(tmp_path: Path):
    _write(tmp_path / "S", "cars-S")
    shutil.rmtree(tmp_path / "S/cars_train")
    (tmp_path / "S/car_ims").mkdir()
    for rules in (SUBSET, ReadingRules(subset=True, missing="count")):
        with pytest.raises(DataError, match="numbered differently"):
            read_layout(detect_layout(tmp_path / "S"), rules)


def test_a_wanted_layout_that_is_not_there_names_that_one_alone(tmp_path: Path):
    _write(tmp_path, "cub")
    with pytest.raises(DataError) as caught:
        detect_layout(tmp_path, "cars-K")
    assert "names.csv" in str(caught.value)
    assert "cars_train_annos" not in str(caught.value)


def test_an_unknown_layout_and_a_missing_folder_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="auto, cub, cars-S, cars-O, cars-K, folders"):
        detect_layout(tmp_path, "cars")
    with pytest.raises(DataError, match="no such folder"):
        detect_layout(tmp_path / "gone")


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("folder", "name"), [("cub10", "cub"), ("cub40_crops", "cub"), ("cub_meta", "cub"), ("cars60", "cars-S")]
)
def test_the_real_folders_are_recognised_from_above(real_data: Path, folder: str, name: str):
    assert detect_layout(real_data / folder).name == name


def test_lists_of_cars_beside_its_folders_are_read_as_cars(tmp_path: Path):
    write_lookalike_cars(tmp_path, "S")
    for file in (tmp_path / "devkit").iterdir():
        file.rename(tmp_path / file.name)
    (tmp_path / "devkit").rmdir()
    layout = detect_layout(tmp_path)
    assert (layout.name, layout.root) == ("cars-S", tmp_path)
    assert len(read_layout(layout, ReadingRules(subset=True)).manifest)
    (tmp_path / "cars_meta.mat").unlink()
    with pytest.raises(DataError, match=r"cars_meta\.mat is not there"):
        read_layout(detect_layout(tmp_path), ReadingRules(subset=True))


@pytest.mark.parametrize(
    ("gone", "missing"),
    [
        (("cars_train_annos.mat",), "cars_train_annos.mat"),
        (("*.mat",), "cars_train_annos.mat, cars_meta.mat"),
    ],
)
def test_images_of_cars_without_their_lists_are_no_classes(
    tmp_path: Path, gone: tuple[str, ...], missing: str
):
    write_lookalike_cars(tmp_path, "S")
    for pattern in gone:
        for file in list(tmp_path.rglob(pattern)):
            file.unlink()
    with pytest.raises(DataError, match=rf"so lies Stanford Cars, .*Missing: {missing}"):
        detect_layout(tmp_path)
