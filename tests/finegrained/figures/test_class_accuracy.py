"""Accuracy per class: in order, without classes that have no image, drawn for few and for many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finegrained.data.class_names import CARS, class_table
from finegrained.figures.class_accuracy import ALL_SHOWN, draw_class_accuracy, ranked
from finetune.figures import canvas
from tests.finegrained.made_results import class_names
from tests.finetune.drawing import has_colour, pixels_of


def rows(count: int, empty: int = 0) -> list[dict[str, Any]]:
    """Return class rows of ten images each, of which 3 i mod 11 are right; the last `empty` have none."""
    made = [
        {"name": name, "n": 10, "right": 3 * i % 11, "accuracy": 10.0 * (3 * i % 11)}
        for i, name in enumerate(class_names(count))
    ]
    return made + [{"name": f"none {i}", "n": 0, "right": 0, "accuracy": None} for i in range(empty)]


def test_ranked_is_least_accurate_first_and_leaves_untested_classes_out():
    order = ranked(rows(40, empty=3))
    values = [row["accuracy"] for row in order]
    assert len(order) == 40
    assert values == sorted(values)
    names = [row["name"] for row in order if row["accuracy"] == 0]
    assert names == sorted(names)


@pytest.mark.parametrize("count", [2, 5, ALL_SHOWN, ALL_SHOWN + 1, 200])
def test_it_is_drawn_for_few_and_for_many_classes(count: int, tmp_path: Path):
    pixels = pixels_of(draw_class_accuracy(rows(count, empty=1), tmp_path / "classes.png"))
    assert has_colour(pixels, canvas.SKY)
    assert has_colour(pixels, canvas.VERMILION)


def drawn_figure(rows_: list[dict[str, Any]], out: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Draw and return the figure, laid out as it was written."""
    from matplotlib.figure import Figure

    figures: list[Figure] = []
    original = Figure.draw

    def keep(self, *arguments, **keywords):
        figures.append(self)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(Figure, "draw", keep)
    draw_class_accuracy(rows_, out)
    return figures[0]


@pytest.mark.parametrize("count", [5, 200])
def test_the_dashed_line_runs_through_no_label(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    low = [row | {"right": 1, "accuracy": 3.0} for row in rows(count)]
    figure = drawn_figure(low, tmp_path / "classes.png", monkeypatch)
    for axes in figure.axes:
        lines = [line for line in axes.lines if line.get_color() == canvas.VERMILION]
        for text in axes.texts:
            box = text.get_window_extent()
            for line in lines:
                x = line.get_window_extent().x0
                assert not box.x0 <= x <= box.x1


def test_classes_with_nothing_right_are_not_called_most_accurate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    none = [row | {"right": 0, "accuracy": 0.0} for row in rows(40)]
    titles = [a.get_title(loc="left") for a in drawn_figure(none, tmp_path / "a.png", monkeypatch).axes]
    assert titles[-1] == "no class has a correct prediction"
    none[7] |= {"right": 4, "accuracy": 40.0}
    figure = drawn_figure(none, tmp_path / "b.png", monkeypatch)
    assert figure.axes[-1].get_title(loc="left") == "the only 1 with a correct prediction"
    assert len(figure.axes[-1].get_yticklabels()) == 1


def test_long_names_stay_distinct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    alike = [row | {"name": name} for row, name in zip(rows(30), class_table(CARS)[52:82], strict=True)]
    figure = drawn_figure(alike, tmp_path / "a.png", monkeypatch)
    assert len({label.get_text() for label in figure.axes[0].get_yticklabels()}) == 30
