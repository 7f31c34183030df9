from __future__ import annotations

import ast
import csv
import io
from pathlib import Path

import numpy as np
import pytest

from finetune.images.manifest import Manifest
from finetune.runs.csv_file import csv_text, plain_cell, read_csv, safe_cell

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("core_losses", "finetune", "agecls", "finegrained", "generalcls", "apps")
STARTS = ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20", " =", "  @"]
FORMULAS = [f'{start}HYPERLINK("http://x")' for start in STARTS]
NAMES = [*FORMULAS, "-", "'=1", "''@a", "' =x", "'tis", "", "cat", "25-32", "a=b", "café 猫"]
NUMBERS = ["-1", "+2.5", "-0.25", "-1e-07", "3", "-inf", "nan"]

FRAMES = ("to_csv", "write_csv", "savetxt")  # of pandas, pyarrow and numpy


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_gets_an_apostrophe(name: str) -> None:
    assert safe_cell(name) == f"'{name}"


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_stay_numbers(text: str) -> None:
    assert safe_cell(text) == text
    assert csv_text([], [[float(text)]]).splitlines()[-1] == str(float(text))


@pytest.mark.parametrize("name", [*NAMES, *NUMBERS])
def test_what_was_written_is_read_back(name: str) -> None:
    assert plain_cell(safe_cell(name)) == name
    text = csv_text(["name"], [[name, 1]])
    assert list(read_csv(io.StringIO(text, newline="")))[1] == [name, "1"]


def test_no_cell_of_a_table_starts_a_formula() -> None:
    rows = csv.reader(io.StringIO(csv_text(NAMES, [NAMES]), newline=""))
    assert not [cell for row in rows for cell in row if cell.lstrip(" ").startswith(tuple("=+-@\t\r\n"))]


def writers_of_csv(source: str) -> list[int]:
    """Return the lines of a module that write CSV by themselves."""
    names = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    own = [node for node in names if isinstance(node.value, ast.Name) and node.value.id == "csv"]
    written = [node for node in own if node.attr in ("writer", "DictWriter")]
    return [node.lineno for node in written + [node for node in names if node.attr in FRAMES]]


def test_there_is_one_writer_of_csv() -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    assert len(files) > 200
    found = {file.relative_to(ROOT).as_posix() for file in files if writers_of_csv(file.read_text("utf-8"))}
    assert found == {"finetune/runs/csv_file.py"}
    assert writers_of_csv("import csv\nw = csv.writer(f)") == [2]


def test_a_manifest_gives_the_same_names_back(tmp_path: Path) -> None:
    names = ("=1+1", "@cat", "cat")
    label = np.arange(3)
    paths = np.array(["-a.jpg", "+b.jpg", "'=c.jpg"])
    made = Manifest(tmp_path, names, {"path": paths, "label": label, "subject": np.array(["=s", "t", "-3"])})
    made.save(tmp_path / "m.csv")
    text = (tmp_path / "m.csv").read_text(encoding="utf-8")
    assert "\n'-a.jpg,0,'=s" in text
    again = Manifest.load(tmp_path / "m.csv", tmp_path)
    assert again.class_names == names
    assert again["path"].tolist() == paths.tolist()
    assert again["subject"].tolist() == ["=s", "t", "-3"]
    assert again.fingerprint == made.fingerprint
