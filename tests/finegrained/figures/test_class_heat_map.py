"""Columns for some classes and one for the rest: no probability is lost, no prediction is hidden."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finegrained.data.class_names import CARS, CUB, class_table
from finegrained.figures.class_heat_map import columns_of, draw_class_heat_map
from finetune.figures import canvas
from finetune.images.class_names import display_name
from tests.finegrained.made_results import class_names, made_up_probs
from tests.finetune.drawing import has_colour, pixels_of


def test_columns_and_the_rest_sum_to_one_and_keep_their_order():
    probs = made_up_probs(np.arange(12), 12, seed=0)
    table, predicted = columns_of(probs, [7, 2, 5])
    assert table.shape == (12, 4)
    assert table.sum(axis=1) == pytest.approx(1)
    assert np.array_equal(table[:, :3], probs[:, [7, 2, 5]])
    said = [[7, 2, 5].index(c) if c in (7, 2, 5) else 3 for c in probs.argmax(axis=1).tolist()]
    assert predicted == said
    assert 3 in predicted


def test_all_classes_leave_no_rest():
    probs = made_up_probs(np.arange(4), 4, seed=1)
    table, predicted = columns_of(probs, range(4))
    assert np.array_equal(table, probs)
    assert predicted == probs.argmax(axis=1).tolist()


@pytest.mark.parametrize("classes", [5, 200])
def test_it_is_drawn_for_few_and_for_many_classes(classes: int, tmp_path: Path):
    target = np.arange(5)
    columns = list(range(min(classes, 7)))
    probs = {"a": made_up_probs(target, classes, 0), "b": made_up_probs(target, classes, 1)}
    files = [tmp_path / f"gone {row}.jpg" for row in target]
    out = draw_class_heat_map(
        files, target, probs, class_names(classes), columns, tmp_path / "m.png", subtitle="s"
    )
    pixels = canvas_pixels(out)
    assert has_colour(pixels, canvas.VERMILION)


def canvas_pixels(file: Path) -> np.ndarray:
    """Return the pixels of a heat map, which may be wider than a README's column."""
    from finetune.images.decode import decode_image

    pixels = decode_image(file)
    assert pixels.std() > 5
    return pixels


def test_a_true_class_without_a_column_is_not_outlined(tmp_path: Path):
    probs = {"a": made_up_probs(np.array([5]), 6, 0)}
    names, file = class_names(6), tmp_path / "gone.jpg"
    out = draw_class_heat_map([file], np.array([5]), probs, names, [0, 1], tmp_path / "m.png", subtitle="")
    assert not has_colour(pixels_of(out), canvas.VERMILION)


@pytest.mark.parametrize("limit", [28, 20, 12, 6])
def test_short_names_of_all_cars_stay_distinct(limit: int):
    for table in (CARS, CUB):
        names = [display_name(name) for name in class_table(table)]
        short = canvas.distinct_short_names(names, limit)
        assert len(set(short)) == len(names)
        assert max(map(len, short)) <= limit


def test_equal_names_stay_equal_and_short_ones_stay_as_they_are():
    names = ["aaaaaaaaab", "aaaaaaaaab", "aaaa…aaab", "ok"]
    short = canvas.distinct_short_names(names, 9)
    assert short[0] == short[1] != short[2]
    assert short[2:] == names[2:]
