"""Parts of whole groups with even classes, against scikit-learn's own."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from agecls.data.stratify import stratified_groups

SIZES = [(60, 60, 3, 2), (400, 90, 8, 5), (300, 12, 2, 4)]  # rows, groups, classes, parts


@pytest.mark.parametrize("seed", [None, 0, 7])
@pytest.mark.parametrize("sizes", SIZES)
def test_the_parts_are_those_of_scikit_learn(sizes: tuple[int, int, int, int], seed: int | None):
    rows, groups, classes, parts = sizes
    draw = np.random.default_rng(rows)
    label = draw.integers(0, classes, rows)
    group = np.array([f"s{number}" for number in draw.integers(0, groups, rows)])
    splitter = StratifiedGroupKFold(parts, shuffle=seed is not None, random_state=seed)
    expected = np.zeros(rows, dtype=int)
    with warnings.catch_warnings(action="ignore"):
        for part, (_, held_out) in enumerate(splitter.split(label, label, group)):
            expected[held_out] = part
    found = stratified_groups(label, group, parts, seed)
    assert found.tolist() == expected.tolist()
    assert all(len(set(found[group == name])) == 1 for name in set(group))
