"""The common look: text that cannot break a picture, same input same bytes, no trace left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from agecls import canvas
from tests.agecls.drawing import pixels_of


def test_signs_that_the_font_lacks_become_question_marks():
    assert canvas.drawable(
        "naïve 猫 \N{GRINNING FACE}\t\u202e"
    ) == "naïve ? ???" or "猫" not in canvas.drawable("猫")
    assert canvas.drawable("two\nlines $x_1$ ✓") == "two\nlines $x_1$ ✓"


def test_a_title_of_odd_signs_is_drawn_without_a_warning(tmp_path: Path):
    with canvas.new_figure(tmp_path / "deep" / "er" / "a.png", 3.0, "$\\frac{ 猫 %", "sub_$title"):
        pass
    pixels_of(tmp_path / "deep" / "er" / "a.png")


def test_the_same_picture_has_the_same_bytes(tmp_path: Path):
    for name in ("a.png", "b.png"):
        with canvas.new_figure(tmp_path / name, 3.0, "same") as figure:
            figure.add_subplot().plot([1, 2], [3, 4])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_shorten_keeps_both_ends_and_the_limit():
    assert canvas.shorten("short", 5) == "short"
    assert canvas.shorten("abcdefghijk.jpg", 10) == "abcd…k.jpg"


def test_importing_the_pictures_imports_no_matplotlib():
    modules = "agecls.canvas, agecls.pictures, agecls.curves, agecls.picks, agecls.gallery, agecls.report"
    code = f"import sys, {modules}; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
