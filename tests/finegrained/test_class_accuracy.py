"""Accuracy per class: in order, without classes that have no image, drawn for few and for many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finegrained.class_accuracy import ALL_SHOWN, draw_class_accuracy, ranked
from finetune import canvas
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
