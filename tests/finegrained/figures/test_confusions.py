"""Which pairs are the most confused, which images show it, and which classes the heat map has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finegrained.figures.confusions import (
    COLUMNS_DRAWN,
    SAMPLES,
    ConfusedPair,
    confused_classes,
    confused_pairs,
    draw_confused_heat_map,
    draw_confused_pairs,
    pair_samples,
)
from finetune.metrics.classification import confusion_matrix
from tests.finegrained.made_results import class_names, made_up_probs
from tests.finetune.drawing import pixels_of


def slow_pairs(confusion: np.ndarray) -> list[tuple[int, int, int]]:
    """Return (first, second, both ways) by counting, most first."""
    size = len(confusion)
    found = [
        (i, j, int(confusion[i, j] + confusion[j, i]))
        for i in range(size)
        for j in range(i + 1, size)
        if confusion[i, j] + confusion[j, i]
    ]
    return sorted(found, key=lambda pair: -pair[2])


@pytest.mark.parametrize("size", [2, 5, 40])
def test_pairs_are_those_of_plain_counting(size: int):
    confusion = np.random.default_rng(size).poisson(0.4, (size, size))
    pairs = confused_pairs(confusion)
    assert [(p.first, p.second, p.total) for p in pairs] == slow_pairs(confusion)
    for pair in pairs:
        assert pair.first_as_second == confusion[pair.first, pair.second]
        assert pair.second_as_first == confusion[pair.second, pair.first]
        assert (pair.first_n, pair.second_n) == tuple(confusion.sum(axis=1)[[pair.first, pair.second]])


def test_the_limit_keeps_the_most_confused():
    confusion = np.array([[0, 1, 5], [0, 0, 3], [0, 0, 0]])
    assert [(p.first, p.second) for p in confused_pairs(confusion, 2)] == [(0, 2), (1, 2)]


def test_a_model_without_mistakes_has_no_pair():
    assert confused_pairs(np.diag([3, 4, 5])) == []


def test_samples_are_the_typical_right_ones_and_the_surest_mistakes():
    chance = [0.9, 0.6, 0.8, 0.3, 0.1, 0.45]  # of class 0; four images of class 0, then two of class 1
    probs = np.array([[p, 1 - p] for p in chance])
    target = np.array([0, 0, 0, 0, 1, 1])
    pair = ConfusedPair(0, 1, 1, 0, 4, 2)
    assert pair_samples(probs, target, pair) == (2, 3, None, 5)
    wrong = np.vstack([probs, [[0.7, 0.3], [0.95, 0.05], [0.51, 0.49]]])
    assert pair_samples(wrong, np.append(target, [1, 1, 1]), pair) == (2, 3, 7, 5)


def test_the_union_keeps_pairs_whole_and_stops_at_the_limit():
    pairs = [ConfusedPair(2 * i, 2 * i + 1, 1, 0, 3, 3) for i in range(20)]
    assert confused_classes(pairs) == list(range(COLUMNS_DRAWN))
    assert confused_classes(pairs, limit=5) == [0, 1, 2, 3]
    chain = [ConfusedPair(0, 1, 2, 0, 3, 3), ConfusedPair(1, 2, 1, 0, 3, 3)]
    assert confused_classes(chain) == [0, 1, 2]


@pytest.mark.parametrize("classes", [5, 200])
def test_both_pictures_are_drawn_for_few_and_many_classes(classes: int, tmp_path: Path):
    target = np.repeat(np.arange(classes), 4)
    probs = made_up_probs(target, classes, seed=2, hit=0.5)
    files = [tmp_path / f"gone {row}.jpg" for row in range(len(target))]
    pairs = confused_pairs(confusion_matrix(probs, target, classes))
    names = class_names(classes)
    pixels_of(draw_confused_pairs(files, probs, target, names, pairs[:1], tmp_path / "pairs.png"))
    out = tmp_path / "heat.png"
    pixels_of(draw_confused_heat_map(files, probs, target, names, pairs[:4], out, name="crl"))


def test_a_class_without_an_image_has_a_column_and_no_row(tmp_path: Path):
    target = np.array([0, 0, 1, 1])
    probs = made_up_probs(target, 3, seed=0)
    files = [tmp_path / "gone.jpg"] * 4
    pairs = [ConfusedPair(0, 1, 1, 1, 2, 2)]
    out = tmp_path / "heat.png"
    pixels_of(draw_confused_heat_map(files, probs, target, class_names(3), pairs, out, name="crl"))


def test_each_column_of_the_pairs_has_a_heading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from matplotlib.axes import Axes

    texts: list[str] = []
    original = Axes.text

    def record(self, x, y, words, *arguments, **keywords):
        texts.append(words)
        return original(self, x, y, words, *arguments, **keywords)

    monkeypatch.setattr(Axes, "text", record)
    target = np.array([0, 0, 1, 1])
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    files = [tmp_path / f"{row}.png" for row in range(4)]
    pairs = confused_pairs(confusion_matrix(probs, target, 2))
    draw_confused_pairs(files, probs, target, class_names(2), pairs, tmp_path / "a.png")
    assert " ".join(SAMPLES) in " ".join(texts)
