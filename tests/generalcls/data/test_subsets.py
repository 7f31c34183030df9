"""Shares of every class: their sizes, that they repeat, and that parts never meet."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.errors import DataError
from generalcls.data.subsets import share_rows, split_rows

TARGET = np.random.default_rng(0).permutation(np.repeat(np.arange(3), (40, 20, 3)))


def test_a_share_takes_its_part_of_every_class():
    rows = share_rows(TARGET, 0.25, 0, "train")
    assert np.bincount(TARGET[rows]).tolist() == [10, 5, 1]
    assert np.array_equal(rows, np.unique(rows))
    assert np.array_equal(share_rows(TARGET, 1.0, 0, "train"), np.arange(len(TARGET)))


def test_a_greater_share_holds_the_smaller_one():
    small, large = (set(share_rows(TARGET, share, 3, "train").tolist()) for share in (0.2, 0.5))
    assert small < large


def test_the_seed_and_the_name_decide_which_rows():
    drawn = [share_rows(TARGET, 0.5, seed, name).tolist() for seed, name in ((0, "a"), (1, "a"), (0, "b"))]
    assert len(set(map(tuple, drawn))) == 3
    assert drawn[0] == share_rows(TARGET, 0.5, 0, "a").tolist()


def test_a_split_is_stratified_and_covers_every_row_once():
    train, test = split_rows(TARGET, 0.25, 0, "abc")
    assert np.bincount(TARGET[test]).tolist() == [10, 5, 1]
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(TARGET)))


def test_both_parts_have_every_class_however_small_the_share():
    for share in (0.01, 0.99):
        for part in split_rows(TARGET, share, 0, "abc"):
            assert set(TARGET[part].tolist()) == {0, 1, 2}


def test_a_class_of_one_image_cannot_be_split():
    with pytest.raises(DataError, match=r"1 classes have one image.*\n  lone"):
        split_rows(np.array([0, 0, 1]), 0.5, 0, ["many", "lone"])


def test_no_image_at_all_is_a_sentence():
    empty = np.array([], dtype=np.int64)
    assert share_rows(empty, 0.5, 0, "train").tolist() == []
    with pytest.raises(DataError, match="there is no image to split"):
        split_rows(empty, 0.5, 0, "abc")
