"""The table of exhaustive tests in tests/README.md names every file that holds the marker."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
MARKED = re.compile(r"pytest\.mark\.exhaustive")
ABOUT_MARKERS = {"test_exhaustive.py"}


def marked(folder: Path) -> set[str]:
    """Return the Python files below a folder that mark a test as exhaustive."""
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*.py")}
    return {
        name
        for name, file in files.items()
        if name not in ABOUT_MARKERS and MARKED.search(file.read_text(encoding="utf-8"))
    }


def rows(page: str) -> dict[str, list[str]]:
    """Return the table: each file that a first cell names, with its row's other cells."""
    table = page.partition("## Only in the exhaustive run")[2]
    found = {}
    for line in table.splitlines():
        if line.startswith("| `"):
            first, *others = [cell.strip() for cell in line.strip("| ").split(" | ")]
            found |= dict.fromkeys(re.findall(r"`([\w/]+\.py)`", first), others)
    return found


def test_every_file_with_an_exhaustive_test_has_a_row_and_every_row_a_file():
    assert set(rows((TESTS / "README.md").read_text(encoding="utf-8"))) == marked(TESTS)


def test_every_row_says_why_and_what_stays():
    for name, others in rows((TESTS / "README.md").read_text(encoding="utf-8")).items():
        assert len(others) == 2, name
        assert all(others), name
        assert others[1] != "nothing", name


def test_a_file_without_a_row_and_a_row_without_a_file_are_told(tmp_path: Path):
    (tmp_path / "test_one.py").write_text("@pytest.mark.exhaustive\ndef test(): ...\n")
    (tmp_path / "test_two.py").write_text("def test(): ...\n")
    page = "## Only in the exhaustive run\n\n| `test_two.py`: a case | slow | `test_one.py` |\n"
    assert marked(tmp_path) == {"test_one.py"}
    assert rows(page) == {"test_two.py": ["slow", "`test_one.py`"]}
