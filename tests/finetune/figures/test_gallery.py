"""Gallery and heat maps: images that are there are shown, missing ones are named, nothing warns."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from finetune.figures import canvas
from finetune.figures.gallery import CELL, draw_gallery, draw_heat_maps
from finetune.figures.selection import choose_disagreements, choose_telling
from tests.agecls.drawing import NAMES, made_up_answers
from tests.finetune.drawing import has_colour, pixels_of

LEAF = (20, 200, 60)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Forty files; all but the last ten exist, some with odd names and shapes."""
    names = [f"{index:02d} $odd_^name|{'猫' * (index % 2)}.png" for index in range(40)]
    for index, name in enumerate(names[:30]):
        picture = np.full((30 + index, 24, 3), LEAF[::-1], dtype=np.uint8)
        (tmp_path / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return [tmp_path / name for name in names]


def test_gallery_shows_pictures_and_survives_missing_ones(tmp_path: Path, files: list[Path]):
    target = np.arange(40) % 8
    a, b = made_up_answers(target, 8, seed=3), made_up_answers(target, 8, seed=4)
    rows = choose_disagreements(target, a, b)
    out = draw_gallery(rows, files, target, a, b, NAMES, tmp_path / "g.png", names=("CE", "a_long $name$"))
    pixels = pixels_of(out)
    assert has_colour(pixels, "#{:02x}{:02x}{:02x}".format(*LEAF))
    assert has_colour(pixels, canvas.VERMILION)


def test_gallery_without_any_disagreement_is_a_page_of_empty_frames(tmp_path: Path, files: list[Path]):
    target = np.array([0, 0])
    probs = np.array([[0.2, 0.8], [0.3, 0.7]])
    rows = choose_disagreements(target, probs, probs)
    assert [row.total for row in rows] == [0, 0, 0]
    pixels_of(draw_gallery(rows, files[:2], target, probs, probs, ("0-2", "4-6"), tmp_path / "g.png"))


def test_below_each_picture_stands_what_each_result_says(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
):
    from matplotlib.axes import Axes

    seen: list[str] = []
    original = Axes.text

    def record(self, x, y, s, *arguments, **keywords):
        seen.append(s)
        return original(self, x, y, s, *arguments, **keywords)

    monkeypatch.setattr(Axes, "text", record)
    target, a, b = np.array([1]), np.array([[0.25, 0.75]]), np.array([[0.9, 0.1]])
    rows = choose_disagreements(target, a, b)
    draw_gallery(rows, [files[-1]], target, a, b, ("0-2", "4-6"), tmp_path / "g.png", names=("CE", "CRL"))
    assert {"only CE correct: 1 image", "CE ✓ 4-6 75 %", "CRL ✗ 0-2 90 %"} <= set(seen)
    assert any(text.startswith("not readable:\n39 $odd_^name") for text in seen)


def test_answers_are_wrapped_so_that_neighbours_never_meet(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
):
    from matplotlib.axes import Axes

    widths: dict[str, float] = {}
    original = Axes.text

    def record(self, x, y, s, *arguments, **keywords):
        if "color" in keywords and keywords["color"] in (canvas.BLUE, canvas.VERMILION):
            widths[s] = canvas.text_width(s, canvas.SMALL)
        return original(self, x, y, s, *arguments, **keywords)

    monkeypatch.setattr(Axes, "text", record)
    target, sure = np.arange(8), np.eye(8)
    rows = choose_disagreements(target, sure[(target + 1) % 8], sure)
    draw_gallery(
        rows, files, target, sure[(target + 1) % 8], sure, NAMES, tmp_path / "g.png", names=("NLLR", "CRL")
    )
    assert {"NLLR ✗ 15-20", "100 %"} <= set(widths)
    assert max(widths.values()) < CELL


def test_heat_maps_outline_the_true_group_and_write_every_probability(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
):
    from matplotlib.axes import Axes

    seen: list[tuple[float, float, str]] = []
    original = Axes.text

    def record(self, x, y, s, *arguments, **keywords):
        seen.append((x, y, s))
        return original(self, x, y, s, *arguments, **keywords)

    monkeypatch.setattr(Axes, "text", record)
    probs = np.array([[0.75, 0.25], [0.001, 0.999]])
    out = draw_heat_maps(
        files[28:30], np.array([0, 1]), {"CE": probs, "CRL": probs}, ("0-2", "4-6"), tmp_path / "h.png"
    )
    assert has_colour(pixels_of(out), canvas.VERMILION)
    for cell in ((0, 0, "0.75"), (1, 0, "0.25"), (0, 1, "0"), (1, 1, "1.00")):
        assert seen.count(cell) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_heat_maps_of_one_to_three_results(tmp_path: Path, files: list[Path], count: int):
    target = np.arange(40) % 8
    tables = {f"loss {index}": made_up_answers(target, 8, seed=index) for index in range(count)}
    rows = choose_telling(target, tables["loss 0"], made_up_answers(target, 8, seed=9))
    shown = {name: table[rows] for name, table in tables.items()}
    out = draw_heat_maps(
        [files[row] for row in rows], target[rows], shown, NAMES, tmp_path / "h.png", subtitle="x"
    )
    pixels_of(out)
