"""The images shown are chosen by the stated rule, worked here by hand."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.figures.selection import COLUMNS, choose_disagreements, choose_telling, choose_typical
from tests.agecls.drawing import made_up_answers

TARGET = np.array([0, 0, 0, 1, 1, 1])
A = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.9, 0.1], [0.2, 0.8]])
B = np.array([[0.6, 0.4], [0.4, 0.6], [0.1, 0.9], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])


def test_each_row_takes_the_largest_difference_of_its_kind_and_group():
    both, only_a, only_b = choose_disagreements(TARGET, A, B)
    assert (both.right, both.picks, both.total) == ((True, True), (0, 5), 2)
    assert (only_a.right, only_a.picks, only_a.total) == ((True, False), (1, None), 1)
    assert (only_b.right, only_b.picks, only_b.total) == ((False, True), (None, 4), 2)


def test_titles_name_who_is_right_and_of_how_many():
    titles = [row.title(("CE", "CRL")) for row in choose_disagreements(TARGET, A, B)]
    assert titles == ["both correct: 2 images", "only CE correct: 1 image", "only CRL correct: 2 images"]


def test_telling_pictures_prefer_those_that_one_result_gets_right():
    assert choose_telling(TARGET, A, B) == [1, 4]
    assert choose_telling(TARGET, A, A) == [0, 5]


def test_typical_is_the_lower_median_of_each_group_that_has_images():
    assert choose_typical(TARGET, A) == [1, 3]
    assert choose_typical(TARGET[:2], A[:2]) == [1]


def test_of_many_groups_the_gallery_shows_the_largest_differences_by_age():
    target = np.arange(240) % 12
    a, b = made_up_answers(target, 12, seed=1), made_up_answers(target, 12, seed=2)
    for row in choose_disagreements(target, a, b):
        groups = [int(target[pick]) for pick in row.picks if pick is not None]
        assert len(row.picks) <= COLUMNS
        assert groups == sorted(set(groups))
    assert len(choose_telling(target, a, b)) == COLUMNS


def test_results_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="equal shapes"):
        choose_disagreements(TARGET, A, B[:5])
