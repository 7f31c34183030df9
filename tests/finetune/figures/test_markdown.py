"""Markdown shows names as they are: no name of a file or a class can become markup."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from finetune.figures.markdown import code, escape, image, interval, number, table


def test_markup_in_names_is_escaped():
    assert escape("a|b *c* _d_ [e](f) <script>&") == (r"a\|b \*c\* \_d\_ \[e\](f) &lt;script&gt;&amp;")
    assert escape("line\nbreak\x07") == "line break "


def test_code_keeps_backticks_and_bars_inside():
    assert code("crl age cv --run.dir a|b") == r"`crl age cv --run.dir a\|b`"
    assert code("`odd``") == "``` `odd`` ```"


def test_a_table_needs_cells_for_its_whole_header():
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
    with pytest.raises(ValueError, match="2 cells"):
        table(["a", "b"], [["x"]])


def test_picture_paths_are_quoted():
    path = PurePosixPath("pictures/a b(1).png")
    assert image("a|b", path) == r"![a\|b](pictures/a%20b%281%29.png)"


def test_what_was_not_measured_is_no_number():
    assert [number(None), number(float("nan")), interval(None)] == ["n/a"] * 3
    assert (number(1.23456, 3), interval([46.34, 51.26])) == ("1.235", "46.3 to 51.3")
