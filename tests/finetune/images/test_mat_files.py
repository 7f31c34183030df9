"""MATLAB files in every shape that writers and readers give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from finegrained.synthetic.cars import cell_array, save_mat, struct_array
from finetune.errors import DataError
from finetune.images.mat_files import plain, read_mat, strings, struct_rows, variable

FIELDS = ("bbox_x1", "class", "fname")
FIELDS_BY_KIND = (FIELDS[:2], FIELDS[2:])
ROWS = [(1, 7, "00001.jpg"), (300, 196, "00002.jpg")]
WANTED = [dict(zip(FIELDS, row, strict=True)) for row in ROWS]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    names = cell_array(["Acura RL Sedan 2012", "Ram C/V Cargo Van Minivan 2012"])
    save_mat(tmp_path / "a.mat", {"annotations": struct_array(FIELDS, ROWS), "class_names": names})
    return tmp_path / "a.mat"


@pytest.mark.parametrize("squeeze", [True, False])
def test_structs_are_equal_whether_squeezed_or_not(saved: Path, squeeze: bool):
    content: dict[str, Any] = loadmat(str(saved), squeeze_me=squeeze)
    assert content["annotations"].shape == ((2,) if squeeze else (1, 2))
    assert struct_rows("a", variable(saved, content, "annotations"), *FIELDS_BY_KIND) == WANTED
    assert strings(variable(saved, content, "class_names"))[1] == "Ram C/V Cargo Van Minivan 2012"


@pytest.mark.parametrize("squeeze", [True, False])
def test_a_single_struct_and_a_single_name_are_lists_of_one(tmp_path: Path, squeeze: bool):
    save_mat(
        tmp_path / "b.mat", {"annotations": struct_array(FIELDS, ROWS[:1]), "names": cell_array(["A b"])}
    )
    content: dict[str, Any] = loadmat(str(tmp_path / "b.mat"), squeeze_me=squeeze)
    file = tmp_path / "b.mat"
    assert struct_rows("b", variable(file, content, "annotations"), *FIELDS_BY_KIND) == WANTED[:1]
    assert strings(variable(file, content, "names")) == ("A b",)


def test_a_column_of_structs_and_a_matrix_of_letters_are_read_too(tmp_path: Path):
    file = tmp_path / "c.mat"
    savemat(file, {"annotations": struct_array(FIELDS, ROWS).T, "names": np.array(["Acura ", "Audi  "])})
    content = read_mat(file)
    assert struct_rows("c", variable(file, content, "annotations"), *FIELDS_BY_KIND) == WANTED
    assert strings(variable(file, content, "names")) == ("Acura", "Audi")


def test_fields_are_found_by_name_whatever_their_order(tmp_path: Path):
    turned = [tuple(reversed(row)) for row in ROWS]
    save_mat(tmp_path / "d.mat", {"annotations": struct_array(tuple(reversed(FIELDS)), turned)})
    rows = struct_rows("d", variable(tmp_path, read_mat(tmp_path / "d.mat"), "annotations"), *FIELDS_BY_KIND)
    assert rows == WANTED


def test_a_missing_field_is_named_with_those_there_are(saved: Path):
    structs = variable(saved, read_mat(saved), "annotations")
    with pytest.raises(DataError, match=r"no field relative_im_path; found bbox_x1, class, fname"):
        struct_rows("a.mat", structs, ("class",), ("relative_im_path",))


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ((1, np.zeros((0, 0)), "x.jpg"), "class"),
        ((1, "seven", "x.jpg"), "class"),
        ((np.nan, 7, "x.jpg"), "bbox_x1"),
        ((1, 7, 8), "fname"),
    ],
)
def test_a_field_that_holds_no_single_number_or_text_is_named_with_its_struct(row: tuple, field: str):
    with pytest.raises(DataError, match=f"struct 2: {field} "):
        struct_rows("a.mat", struct_array(FIELDS, [ROWS[0], row]), *FIELDS_BY_KIND)


def test_a_missing_variable_is_named_with_those_there_are(saved: Path):
    with pytest.raises(DataError, match="annotations, class_names"):
        variable(saved, read_mat(saved), "meta")


@pytest.mark.parametrize("content", [b"", b"no mat", b"MATLAB 5.0 MAT-file".ljust(116) + bytes(200)])
def test_damaged_files_are_refused_by_name(tmp_path: Path, content: bytes):
    (tmp_path / "e.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"e\.mat"):
        variable(tmp_path / "e.mat", read_mat(tmp_path / "e.mat"), "annotations")


def test_an_hdf5_file_is_refused_with_the_cure(tmp_path: Path):
    head = b"MATLAB 7.3 MAT-file".ljust(124) + bytes([0, 2]) + b"IM"
    (tmp_path / "f.mat").write_bytes(head + bytes(600))
    with pytest.raises(DataError, match="-v7"):
        read_mat(tmp_path / "f.mat")


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"gone\.mat"):
        read_mat(tmp_path / "gone.mat")


def test_plain_takes_the_one_value_out_of_any_nesting():
    nested = np.empty((1, 1), dtype=object)
    nested[0, 0] = np.array([[np.uint8(7)]])
    assert plain(nested) == 7
    assert plain(np.array(["a.jpg"])) == "a.jpg"
    assert plain(np.array([1, 2])) is None
