"""Grids of images: names wrap and never run into each other, missing images are told, sizes follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from finegrained.figures.image_grid import (
    Line,
    Strip,
    Tile,
    answer_line,
    draw_grid,
    show_file,
    show_pixels,
)
from finetune.figures import canvas
from tests.finetune.drawing import has_colour, pixels_of

LONG = "Chevrolet Silverado 1500 Hybrid Crew Cab 2012"


def picture(value: int) -> Tile:
    return Tile(show_pixels(np.full((8, 8, 3), value, np.uint8)))


def test_wrapped_rows_fit_and_lose_no_word_while_three_hold_them():
    rows = canvas.wrap(LONG, 1.2, canvas.SMALL)
    assert " ".join(rows) == LONG
    assert 2 <= len(rows) <= canvas.ROWS
    assert all(canvas.text_width(row, canvas.SMALL) <= 1.2 for row in rows)


def test_what_three_rows_do_not_hold_is_shortened():
    rows = canvas.wrap(f"{LONG} {LONG} {LONG}", 1.0, canvas.SMALL)
    assert len(rows) == canvas.ROWS
    assert "…" in rows[-1]
    assert all(canvas.text_width(row, canvas.SMALL) <= 1.0 for row in rows)


def test_a_word_without_spaces_is_shortened():
    (row,) = canvas.wrap("x" * 80, 1.0, canvas.SMALL)
    assert "…" in row


def test_a_number_stays_with_its_unit():
    whole = "Black and white Warbler 31 %"
    for width in np.linspace(0.5, 2.0, 12):
        assert not any(row.startswith("%") for row in canvas.wrap(whole, float(width), canvas.SMALL))


def test_answers_tell_right_from_wrong_by_mark_and_colour():
    right, wrong = answer_line("Tern", 0.5, True), answer_line("Tern", 0.5, False, "B")
    assert (right.text, right.colour) == ("✓ Tern 50 %", canvas.BLUE)
    assert (wrong.text, wrong.colour) == ("B ✗ Tern 50 %", canvas.VERMILION)


def test_each_strip_adds_its_height_and_each_column_its_width(tmp_path: Path):
    one = pixels_of(draw_grid(tmp_path / "1.png", "t", "", [Strip([picture(9)] * 5)])).shape
    two = pixels_of(draw_grid(tmp_path / "2.png", "t", "", [Strip([picture(9)] * 5)] * 2)).shape
    wide = pixels_of(draw_grid(tmp_path / "3.png", "t", "", [Strip([picture(9)] * 6)])).shape
    headed = pixels_of(draw_grid(tmp_path / "4.png", "t", "", [Strip([picture(9)] * 5, "h", "l")])).shape
    assert two[0] > one[0] + canvas.DOTS_PER_INCH
    assert wide[1] > one[1] + canvas.DOTS_PER_INCH
    assert headed[0] > one[0]


def test_the_pictures_and_the_words_in_their_colours_are_there(tmp_path: Path):
    tile = Tile(show_pixels(np.full((30, 30, 3), (1, 200, 3), np.uint8)), below=(Line("words", "#D55E00"),))
    pixels = pixels_of(draw_grid(tmp_path / "g.png", "title", "sub", [Strip([tile, None])]))
    assert has_colour(pixels, "#01c803")
    assert has_colour(pixels, "#D55E00")


def test_a_file_that_is_not_there_becomes_a_frame_with_its_name(tmp_path: Path):
    missing = draw_grid(tmp_path / "a.png", "t", "", [Strip([Tile(show_file(tmp_path / "gone.jpg"))])])
    assert has_colour(pixels_of(missing), canvas.FAINT)


def test_the_same_grid_is_the_same_file(tmp_path: Path):
    strips = [Strip([picture(3), None], "heading", "label")]
    first, second = (draw_grid(tmp_path / name, "t", "s", strips).read_bytes() for name in ("a", "b"))
    assert first == second
