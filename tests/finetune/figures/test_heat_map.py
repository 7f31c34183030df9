"""The drawn heat map: a number in every cell, truth framed, prediction bold, blocks where it is too wide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.figures import canvas
from finetune.figures.canvas import BLUES, shade
from finetune.figures.heat_map import Panel, RowLabels, draw_heat_map_figure
from finetune.images.decode import decode_image
from tests.finetune.drawing import has_colour, pixels_of


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every text that is drawn inside axes, with its place and weight."""
    from matplotlib.axes import Axes

    texts: list[dict[str, Any]] = []
    original = Axes.text

    def record(self, x, y, s, *arguments, **keywords):
        texts.append({"place": (x, y), "text": s, **keywords})
        return original(self, x, y, s, *arguments, **keywords)

    monkeypatch.setattr(Axes, "text", record)
    return texts


def draw(out: Path, tables: list[list[list[float]]], **changes: Any) -> Path:
    """Draw tables with made-up names."""
    arrays = [np.array(table) for table in tables]
    count, columns = arrays[0].shape
    names = [f"image {row}" for row in range(count)]
    options: dict[str, Any] = {
        "title": "Softmax",
        "subtitle": "",
        "panels": [Panel(f"model {n}", array, array.argmax(axis=1)) for n, array in enumerate(arrays)],
        "columns": [f"class {column}" for column in range(columns)],
        "truths": [None] * count,
        "rows": RowLabels("picture", names, [""] * count),
    }
    return draw_heat_map_figure(out, **{**options, **changes})


def test_every_number_stands_in_its_cell_and_the_prediction_is_bold(tmp_path: Path, seen: list[Any]):
    draw(tmp_path / "a.png", [[[0.7, 0.3], [0.004, 0.996]], [[0.2, 0.8], [1.0, 0.0]]])
    cells = [(text["place"], text["text"], text["weight"]) for text in seen if "weight" in text]
    assert cells == [
        ((0, 0), "0.70", "bold"),
        ((1, 0), "0.30", "normal"),
        ((0, 1), "0", "normal"),
        ((1, 1), "1.00", "bold"),
        ((0, 0), "0.20", "normal"),
        ((1, 0), "0.80", "bold"),
        ((0, 1), "1.00", "bold"),
        ((1, 1), "0", "normal"),
    ]


def test_only_known_truths_are_framed(tmp_path: Path):
    table = [[0.7, 0.3], [0.4, 0.6]]
    assert not has_colour(decode_image(draw(tmp_path / "a.png", [table])), canvas.VERMILION)
    assert has_colour(decode_image(draw(tmp_path / "b.png", [table], truths=[None, 0])), canvas.VERMILION)


def test_names_notes_and_pictures_stand_at_the_left(tmp_path: Path, seen: list[Any]):
    drawn: list[int] = []
    rows = RowLabels("file", ["a\nb", "x" * 90], ["true: cat", ""], lambda axes, row: drawn.append(row))
    draw(tmp_path / "a.png", [[[0.7, 0.3], [0.4, 0.6]]], rows=rows)
    texts = [text["text"] for text in seen]
    assert {"file", "a b", "true: cat"} <= set(texts)
    assert max(len(text) for text in texts) == 28
    assert drawn == [0, 1]


@pytest.mark.parametrize(("models", "columns", "blocks"), [(1, 26, 1), (4, 8, 1), (4, 25, 2), (3, 25, 2)])
def test_too_wide_a_row_of_panels_becomes_blocks(
    tmp_path: Path, seen: list[Any], models: int, columns: int, blocks: int
):
    table = [[1 / columns] * columns] * 2
    out = draw(tmp_path / "a.png", [table] * models)
    assert [text["text"] for text in seen].count("image 1") == blocks
    assert decode_image(out).shape[1] <= 23.5 * canvas.DOTS_PER_INCH


def test_the_same_scale_for_every_panel(tmp_path: Path):
    """A cell of 0.2 has one colour, whatever else is in its table."""
    pale = shade(BLUES, 0.2)
    for other in (0.8, 0.4):
        table = [[0.2, other, 0.8 - other]]
        pixels = decode_image(draw(tmp_path / f"{other}.png", [table]))
        wanted = [int(pale[start : start + 2], 16) for start in (1, 3, 5)]
        assert (pixels == wanted).all(axis=2).sum() > 3000  # more than the colour bar has of it


def test_one_picture_of_two_classes_and_long_names_fit_a_page(tmp_path: Path):
    pixels_of(draw(tmp_path / "a.png", [[[0.7, 0.3]] * 2] * 2, subtitle="A\nB"))
    names = [f"Black-footed Albatross number {column}" for column in range(8)]
    pixels_of(draw(tmp_path / "b.png", [[[0.125] * 8] * 3], columns=names, rest=True))


def test_different_names_stay_different_all_over_the_figure(tmp_path: Path, seen: list[Any]):
    names = [f"Chevrolet Silverado {kind} Extended Cab 2012" for kind in ("1500 Hybrid", "1500 Classic")]
    rows = RowLabels("file", names, ["", ""])
    draw(tmp_path / "a.png", [[[0.7, 0.3], [0.4, 0.6]]], rows=rows, columns=names)
    written = {text["text"] for text in seen if "…" in text["text"]}
    assert len(written) == 2
