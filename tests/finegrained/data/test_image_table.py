"""Tables of images: fixed columns, labels from zero, round trips, and invalid cells."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from finegrained.data.class_names import CARS, class_table
from finegrained.data.cub import parts_of, read_cub
from finegrained.data.image_table import read_image_table
from finegrained.data.reading import ReadingRules
from finegrained.synthetic.datasets import write_lookalike_cub
from finetune.errors import DataError
from finetune.images.manifest import Manifest

LISTS = ReadingRules(metadata_only=True)


def _table(folder: Path, *lines: str) -> Path:
    (folder / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "t.csv"


def _read(folder: Path, *lines: str) -> Manifest:
    return read_image_table(_table(folder, *lines), LISTS).manifest


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_written_table_reads_back_as_it_was(tmp_path: Path, suffix: str):
    write_lookalike_cub(tmp_path, classes=3, per_class=4, image_size=32)
    before = read_cub(tmp_path, ReadingRules(subset=True)).manifest
    before.save(tmp_path / f"table{suffix}")
    after = read_image_table(tmp_path / f"table{suffix}").manifest
    assert after.fingerprint == before.fingerprint
    assert after["x2"].tolist() == before["x2"].tolist()
    assert after["source_id"].tolist() == before["source_id"].tolist()
    assert parts_of(after, 5) == parts_of(before, 5)


def test_class_names_alone_stand_in_order_and_parts_are_read(tmp_path: Path):
    manifest = _read(
        tmp_path, "path,class_name,split", "1.jpg,wren,train", "2.jpg,gull,Validation", "3.jpg,gull,test"
    )
    assert manifest.class_names == ("gull", "wren")
    assert manifest.label.tolist() == [1, 0, 0]
    assert manifest["split"].tolist() == ["train", "val", "test"]


def test_class_names_of_cars_stand_in_the_official_order(tmp_path: Path):
    reading = read_image_table(
        _table(tmp_path, "path,class_name", *(f"{n}.jpg,{name}" for n, name in enumerate(class_table(CARS)))),
        LISTS,
    )
    assert reading.manifest.class_names == class_table(CARS) != tuple(sorted(class_table(CARS)))
    assert reading.report["notices"] == ["classes stand in the official order of Stanford Cars"]


def test_labels_with_names_keep_their_numbers(tmp_path: Path):
    manifest = _read(tmp_path, "path,label,class_name", "1.jpg,1,a", "2.jpg,0,b")
    assert manifest.class_names == ("b", "a")
    assert manifest.label.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("path,label", "1.jpg,1", "2.jpg,2"), "count from 1: subtract 1"),
        (("path,label", "1.jpg,0", "2.jpg,2"), "without gaps"),
        (("path,label", "1.jpg,-1"), "row 2: '-1'"),
        (("path,label", "1.jpg,0.5"), "whole number from 0"),
        (("path,label,class_name", "1.jpg,0,a", "2.jpg,1,a"), "do not go together"),
        (("path,label,class_name", "1.jpg,0,a", "2.jpg,0,b"), "do not go together"),
        (("path,class_name", "1.jpg,a", "2.jpg,"), "class_name is empty"),
        (("path,label", "1.jpg,0", "./1.jpg,0"), "row 3: 1.jpg, first in row 2"),
        (("path,label,split", "1.jpg,0,dev"), "split 'dev' is none of"),
        (("path,label,x1,y1,x2,y2", "1.jpg,0,5,5,5,9"), "are no box"),
        (("path,label,x1,y1,x2,y2", "1.jpg,0,a,5,6,9"), "are no box"),
        (("path,label", "../1.jpg,0"), "leave the data root"),
        (("file,label", "1.jpg,0"), "missing columns: path; found: file, label. The first line must name"),
        (("path,id", "1.jpg,0"), "missing columns: class_name or label"),
    ],
)
def test_cells_that_cannot_be_right_are_named(tmp_path: Path, lines: tuple[str, ...], said: str):
    with pytest.raises(DataError, match=said):
        _read(tmp_path, *lines)


def test_a_class_list_beside_the_table_fixes_the_order_and_refuses_strangers(tmp_path: Path):
    (tmp_path / "t.classes.json").write_text('["wren", "gull", "tern"]', encoding="utf-8")
    manifest = _read(tmp_path, "path,class_name", "1.jpg,tern", "2.jpg,wren")
    assert manifest.label.tolist() == [2, 0]
    assert manifest.num_classes == 3
    assert _read(tmp_path, "path,label", "1.jpg,2")["class_name"].tolist() == ["tern"]
    with pytest.raises(DataError, match="hawk"):
        _read(tmp_path, "path,class_name", "1.jpg,hawk")
    with pytest.raises(DataError, match="do not go together"):
        _read(tmp_path, "path,class_name,label", "1.jpg,tern,0")


def test_a_damaged_class_list_is_named(tmp_path: Path):
    (tmp_path / "t.classes.json").write_text("[", encoding="utf-8")
    with pytest.raises(DataError, match=r"t\.classes\.json"):
        _read(tmp_path, "path,label", "1.jpg,0")


def test_unknown_boxes_are_empty_cells(tmp_path: Path):
    manifest = _read(tmp_path, "path,label,x1,y1,x2,y2", "1.jpg,0,1,2,3,4", "2.jpg,0,,,,")
    assert manifest["y1"][0] == 2
    assert np.isnan(manifest["y1"][1])


BOXES = "path{0}class_name{0}x1{0}y1{0}x2{0}y2"


@pytest.mark.parametrize("sign", [";", "\t"])
def test_boxes_with_decimal_commas_are_read_where_no_comma_separates(tmp_path: Path, sign: str):
    manifest = _read(tmp_path, BOXES.format(sign), sign.join(("a.jpg", "wren", "0,5", ",25", "10,75", "8")))
    assert [manifest[name].tolist() for name in ("x1", "y1", "x2", "y2")] == [[0.5], [0.25], [10.75], [8.0]]


def test_a_decimal_comma_among_separating_commas_is_refused_and_told(tmp_path: Path):
    with pytest.raises(DataError, match=r"are no box: .*; a decimal comma is read only where semicolons"):
        _read(tmp_path, BOXES.format(","), 'a.jpg,wren,"0,5",1,10,8')


def test_rows_without_a_box_anywhere_have_no_box_columns(tmp_path: Path):
    manifest = _read(tmp_path, "path,label", "1.jpg,0")
    assert "x1" not in manifest
    assert manifest["source_id"].tolist() == ["t.csv:2"]


def test_paths_that_leave_the_root_are_read_where_allowed(tmp_path: Path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(b"x")
    file = _table(tmp_path / "lists", "path,label", "../a/1.jpg,0")
    manifest = read_image_table(file, ReadingRules(follow=True)).manifest
    assert manifest.file(0).resolve() == (tmp_path / "a/1.jpg").resolve()


def test_pictures_are_looked_for_under_the_root_given(tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/1.jpg").write_bytes(b"x")
    file = _table(tmp_path, "path,label", "1.jpg,0")
    assert read_image_table(file, root=tmp_path / "pictures").report["missing_images"] == 0
    with pytest.raises(DataError, match="1 of 1 listed"):
        read_image_table(file)


def test_classes_that_folders_cannot_tell_apart_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"(?s)told apart by / and -.*a-b.*a/b"):
        _read(tmp_path, "path,class_name", "1.jpg,a/b", "2.jpg,a-b", "3.jpg,c")


@pytest.mark.parametrize("box", ["0,0,inf,2", "0,nan,2,2", "0,,2,2"])
def test_a_box_that_is_not_finite_or_whole_is_refused(tmp_path: Path, box: str):
    with pytest.raises(DataError, match="are no box"):
        _read(tmp_path, "path,label,x1,y1,x2,y2", f"1.jpg,0,{box}")


@pytest.mark.parametrize("cell", ["nan", "None", "NA", "<NA>", "null"])
def test_an_absent_value_is_no_class_unless_the_class_list_says_so(tmp_path: Path, cell: str):
    lines = ("path,class_name,split", "1.jpg,a,nan", f"2.jpg,{cell},")
    with pytest.raises(DataError, match=rf"(?s)absent value in:\n  row 3: '{cell}'.*t\.classes\.json"):
        _read(tmp_path, *lines)
    (tmp_path / "t.classes.json").write_text(f'["a", "{cell}"]', encoding="utf-8")
    manifest = _read(tmp_path, *lines)
    assert manifest["class_name"].tolist() == ["a", cell]
    assert manifest["split"].tolist() == ["", ""]
    with pytest.raises(DataError, match=rf"path is empty or an absent value in:\n  row 2: '{cell}'"):
        _read(tmp_path, "path,label", f"{cell},0")


def test_labels_that_pandas_writes_as_fractions_are_whole(tmp_path: Path):
    assert _read(tmp_path, "path,label", "1.jpg,0.0", "2.jpg,1.0").label.tolist() == [0, 1]
    with pytest.raises(DataError, match="label 20170109142400000 is no class's number"):
        _read(tmp_path, "path,label", "1.jpg,20170109142400000")


def test_two_unicode_forms_of_a_class_are_one(tmp_path: Path):
    name = "m\u00e9sange"
    rows = (f"1.jpg,{name}", f"2.jpg,{unicodedata.normalize('NFD', name)}", "3.jpg,b")
    assert _read(tmp_path, "path,class_name", *rows).class_names == ("b", name)


def test_a_column_almost_called_split_is_no_split_passed_over(tmp_path: Path):
    with pytest.raises(DataError, match="Split: split"):
        _read(tmp_path, "path,class_name,Split", "a.jpg,auk,train")
    told = read_image_table(_table(tmp_path, "path,class_name,part", "a.jpg,auk,train"), LISTS).report[
        "notices"
    ]
    assert told == ["t.csv: columns that are not read: part"]


@pytest.mark.parametrize("content", ["5", '"abc"', '{"auk": 0}', "[1, 2]", "null"])
def test_a_class_list_is_a_list_of_texts(tmp_path: Path, content: str):
    (tmp_path / "t.classes.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"t.classes.json is no list of class names, such as"):
        _read(tmp_path, "path,label", "a.jpg,0", "b.jpg,1")


def test_a_class_list_may_have_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "t.classes.json").write_text('["owl", "auk"]', encoding="utf-8-sig")
    assert _read(tmp_path, "path,label", "a.jpg,0", "b.jpg,1").class_names == ("owl", "auk")


def test_a_number_that_only_python_reads_is_no_corner(tmp_path: Path):
    with pytest.raises(DataError, match="are no box"):
        _read(tmp_path, "path,class_name,x1,y1,x2,y2", "a.jpg,auk,0,0,1_0,9")
