"""The parts of a split, by name."""

from __future__ import annotations

import numpy as np

from finetune.experiments.records.splits import Split


def test_part_names_cover_every_row():
    split = Split(np.array([0, 3]), np.array([1]), np.array([4]))
    assert split.part_names(6).tolist() == ["train", "validation", "unused", "train", "test", "unused"]
