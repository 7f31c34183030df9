"""Where a data set lies: the folder given, its parent, its folders; and what is said where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import DataError, UsageError
from generalcls.data.locate import Layout, find_place

FIRST = Layout("first", ("inner/raw", "raw", ""), ("a.bin",), "inner/raw/a.bin")
SECOND = Layout("second", ("table", ""), ("*.tab",), "table/NAME.tab")


def _touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


@pytest.mark.parametrize("given", ["", "set", "set/inner", "set/inner/raw", "set/inner/other"])
def test_it_is_found_from_its_folder_its_parent_and_its_child(tmp_path: Path, given: str):
    _touch(tmp_path / "set/inner/raw/a.bin")
    (tmp_path / "set/inner/other").mkdir()
    assert find_place("It", str(tmp_path / given), [FIRST], "shop").folder == tmp_path / "set/inner/raw"


def test_the_preferred_layout_is_read_and_the_other_told(tmp_path: Path):
    _touch(tmp_path / "inner/raw/a.bin")
    _touch(tmp_path / "table/x.tab")
    place = find_place("It", str(tmp_path), [FIRST, SECOND], "shop")
    assert place.layout == "first"
    assert "holds it as second too; first is read" in place.notes[0]
    assert find_place("It", str(tmp_path), [SECOND, FIRST], "shop").layout == "second"


def test_two_data_sets_in_one_folder_are_refused_with_their_places(tmp_path: Path):
    _touch(tmp_path / "one/raw/a.bin")
    _touch(tmp_path / "two/raw/a.bin")
    with pytest.raises(DataError, match=r"several folders.*\n.*one/raw\n.*two/raw"):
        find_place("It", str(tmp_path), [FIRST], "shop")


def test_what_is_missing_is_told_with_its_place_and_source(tmp_path: Path):
    (tmp_path / "set/stranger").mkdir(parents=True)
    with pytest.raises(DataError, match=r"first: inner/raw/a\.bin\n.*second: (.|\n)*stranger/\n.*shop"):
        find_place("It", str(tmp_path / "set"), [FIRST, SECOND], "shop")
    with pytest.raises(DataError, match=r"there is no such folder; It should lie there"):
        find_place("It", str(tmp_path / "none"), [FIRST], "shop")
    with pytest.raises(UsageError, match=r"say --data\.root FOLDER"):
        find_place("It", None, [FIRST], "shop")
