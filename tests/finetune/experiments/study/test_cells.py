"""A finished cell on disk: written in one step, read back equal, refused when damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import DataError
from finetune.experiments.study.cells import CELL_FILE, read_cell, study_hint, write_cell
from tests.finetune.experiments.study.made_up import cell_of


def test_a_cell_is_read_back_as_it_was_written(tmp_path: Path):
    cell = cell_of("crl", 3, 84.1 + 1e-13, history=[{"epoch": 1, "test_error": 20.25}], gradient_ratio=None)
    write_cell(cell, tmp_path / "cells" / "seed-3")
    assert read_cell(tmp_path / "cells" / "seed-3") == cell
    assert [file.name for file in (tmp_path / "cells" / "seed-3").iterdir()] == [CELL_FILE]


def test_a_cell_of_an_earlier_version_counted_its_epochs_from_zero(tmp_path: Path):
    write_cell(cell_of("crl", 0, 80.0, history=[{"epoch": 0}, {"epoch": 1}]), tmp_path)
    cell = read_cell(tmp_path)
    assert cell is not None
    assert [row["epoch"] for row in cell.history] == [1, 2]


def test_numbers_that_are_none_come_back_as_none(tmp_path: Path):
    write_cell(cell_of("crl", 0, float("nan")), tmp_path)
    cell = read_cell(tmp_path)
    assert cell is not None
    assert cell.scores["accuracy"] is None


def test_no_file_is_no_cell(tmp_path: Path):
    assert read_cell(tmp_path) is None
    assert read_cell(tmp_path / "nowhere") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"arm": "crl"}'])
def test_a_damaged_cell_says_what_to_remove(tmp_path: Path, content: str):
    (tmp_path / CELL_FILE).write_text(content)
    with pytest.raises(DataError, match="remove"):
        read_cell(tmp_path)


def test_the_folders_of_a_study_are_answered_with_its_cells_in_order(tmp_path: Path):
    arm = tmp_path / "study" / "cells" / "crl"
    for seed in (10, 2):
        (arm / f"seed-{seed}").mkdir(parents=True)
    assert "none of whose cells here is finished" in study_hint(tmp_path / "study")
    for cell in arm.iterdir():
        (cell / "run.json").touch()
    for folder in (tmp_path / "study", arm.parent, arm):
        told = study_hint(folder)
        assert told.splitlines()[1:] == [f"  {arm / 'seed-2'}", f"  {arm / 'seed-10'}"]
    for folder in (arm / "seed-2", tmp_path, arm.parent / "crrl"):
        assert study_hint(folder) == ""
    (arm / "seed-2" / CELL_FILE).touch()
    assert "of the general study" in study_hint(arm)
