from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.heatmap.heatmap import heat_map
from apps.heatmap.picture import draw_png
from finetune.figures import canvas, lettering
from finetune.figures.lettering import class_numbers, drawable, font_families, font_files

STRANGE = "\ue000\ue001"  # characters of private use, which no font of any script has
NAMES = ("cat", f"002.{STRANGE}_gull", STRANGE)


def fonts(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> Iterator[None]:
    monkeypatch.setattr(lettering, "FALLBACKS", names)
    for cached in (lettering.font_families, lettering._glyphs):
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in (lettering.font_families, lettering._glyphs):
        cached.cache_clear()


def test_a_font_of_this_machine_draws_what_the_first_one_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib import font_manager

    own, other = (
        set(font_manager.get_font(font_manager.findfont(name)).get_charmap())
        for name in ("DejaVu Sans", "STIXGeneral")
    )
    sign = next(chr(code) for code in sorted(other - own) if chr(code).isprintable() and code > 0x1D000)
    assert drawable(sign) == "?"
    for _ in fonts(monkeypatch, ("A font that is not here", "STIXGeneral")):
        assert font_families() == ("DejaVu Sans", "STIXGeneral")
        assert len(font_files()) == 2
        assert drawable(sign) == sign
        assert canvas.text_width(sign * 10, 10) > 0.3
        with class_numbers(["a", sign], "x"):
            assert drawable(sign) == sign


def test_a_name_that_cannot_be_drawn_becomes_the_number_of_its_class() -> None:
    assert drawable(STRANGE) == "??"
    with class_numbers(NAMES, "report.json"):
        assert drawable(f"true: {NAMES[1]}, said {STRANGE} gull\ncat") == "true: class 1, said class 1\ncat"
        assert canvas.distinct_short_names([STRANGE, "cat"], 10) == ["class 2", "cat"]
    assert drawable(STRANGE) == "??"


def png(figures: Path, title: str, *lines: str) -> np.ndarray:
    with canvas.new_figure(figures, 2.0, title) as figure:
        for place, line in enumerate(lines):
            figure.text(0.1, 0.2 + place / 4, drawable(line))
    with Image.open(figures) as image:
        return np.asarray(image)


def test_a_figure_with_numbers_says_where_the_names_are(tmp_path: Path) -> None:
    plain = png(tmp_path / "plain.png", "one", "cat")
    with class_numbers(NAMES, "report.json has the names"):
        named = png(tmp_path / "named.png", "one", "cat", "class 12")
        noted = png(tmp_path / "noted.png", "one", STRANGE)
        again = png(tmp_path / "again.png", "one", STRANGE)
    assert plain.shape[0] == named.shape[0] == 2 * canvas.DOTS_PER_INCH
    assert noted.shape[0] == plain.shape[0] + round(0.4 * canvas.DOTS_PER_INCH)  # two lines
    assert (noted[plain.shape[0] :].min(axis=2) < 128).sum() > 500  # a line of ink
    np.testing.assert_array_equal(noted, again)
    assert (tmp_path / "noted.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_a_heat_map_of_such_names_has_the_note(tmp_path: Path) -> None:
    table = {"m": np.full((2, 3), 1 / 3)}
    plain = draw_png(heat_map(["a.jpg", "b.jpg"], ("cat", "dog", "cow"), table, [0, 2]), tmp_path / "a.png")
    noted = draw_png(heat_map(["a.jpg", "b.jpg"], NAMES, table, [0, 2]), tmp_path / "b.png")
    heights = [Image.open(io.BytesIO(file.read_bytes())).height for file in (plain, noted)]
    assert heights[1] >= heights[0] + round(0.25 * canvas.DOTS_PER_INCH) - 20
    assert b"Software" not in noted.read_bytes()


def test_a_figure_is_drawn_once_and_as_its_library_saves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    draw = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda figure, *given: (drawn.append(figure), draw(figure, *given)))
    with canvas.new_figure(tmp_path / "a.png", 3.0, "two", "a subtitle") as figure:
        for place in (1, 2):
            figure.add_subplot(1, 2, place).plot([1, 2], [3e5, 4e5])
    assert drawn == [figure]
    saved = io.BytesIO()
    figure.savefig(saved, format="png", metadata={"Software": None, "Title": "two"})
    with Image.open(tmp_path / "a.png") as ours, Image.open(saved) as theirs:
        assert ours.size == theirs.size == (8 * canvas.DOTS_PER_INCH, 3 * canvas.DOTS_PER_INCH)
        assert ours.info["Title"] == theirs.info["Title"] == "two"
        assert ours.info["dpi"] == theirs.info["dpi"]
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
