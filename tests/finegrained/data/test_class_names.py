"""The official class lists, and names compared exactly but for the slash."""

from __future__ import annotations

from pathlib import Path

import pytest

from finegrained.data.class_names import CARS, CUB, class_table, official_order
from finetune.errors import UsageError


def test_the_tables_have_the_official_lengths_and_no_name_twice():
    assert [len(set(class_table(name))) for name in (CUB, CARS)] == [200, 196]
    assert [len(class_table(name)) for name in (CUB, CARS)] == [200, 196]


def test_an_unknown_table_is_refused_with_the_list():
    with pytest.raises(UsageError, match="cub_200_2011, stanford_cars"):
        class_table("aircraft")


def test_sorted_car_folders_are_not_in_the_official_order():
    folders = sorted(name.replace("/", "-") for name in class_table(CARS))
    official = [name.replace("/", "-") for name in class_table(CARS)]
    assert sum(one != other for one, other in zip(folders, official, strict=True)) == 143


def test_sorted_bird_folders_are_in_the_official_order():
    assert sorted(class_table(CUB)) == list(class_table(CUB))


def test_folder_names_find_their_official_order_and_spelling():
    found = official_order(
        ["Ram C-V Cargo Van Minivan 2012", "Acura RL Sedan 2012", "AM General Hummer SUV 2000"]
    )
    assert found == (
        CARS,
        ("AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"),
    )


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["Acura RL Sedan 2012", "acura tl sedan 2012"],
        ["Ram C/V Cargo Van Minivan 2012", "Ram C-V Cargo Van Minivan 2012"],
    ],
)
def test_names_that_are_not_all_official_have_no_official_order(names: list[str]):
    assert official_order(names) is None


@pytest.mark.real_data
def test_the_tables_are_those_of_the_real_lists(real_data: Path):
    lines = (real_data / "cub_meta/CUB_200_2011/classes.txt").read_text(encoding="utf-8").splitlines()
    assert tuple(line.split()[1] for line in lines) == class_table(CUB)
