"""The parts of a split, by name."""

from __future__ import annotations

import numpy as np

from finetune.experiments.records.splits import Split, Splits


def test_part_names_cover_every_row():
    split = Split(np.array([0, 3]), np.array([1]), np.array([4]))
    assert split.part_names(6).tolist() == ["train", "validation", "unused", "train", "test", "unused"]


def test_no_split_cuts_a_group():
    rows = np.arange(6)
    first = Split(rows[:3], rows[3:4], rows[4:])
    second = Split(rows[2:], rows[:0], rows[:2], fold=1)
    groups = Splits((first, second), "two").groups(7)
    assert groups is not None
    same = groups[:, None] == groups
    together = [[0, 1], [2], [3], [4, 5], [6]]
    wanted = [np.isin(np.arange(7), next(own for own in together if row in own)).tolist() for row in range(7)]
    assert same.tolist() == wanted
    assert Splits((first,), "one").groups(7) is None
