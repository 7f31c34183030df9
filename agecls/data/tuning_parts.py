"""Which people choose settings: a fold of those that are learned from, never one of the test fold."""

from __future__ import annotations

import numpy as np

from agecls.config import AgeDataConfig
from agecls.data.read import make_age_splits
from finetune.experiments.records.splits import Split
from finetune.experiments.task import TaskData


def tuning_splits(data: TaskData, config: AgeDataConfig) -> list[Split]:
    """Return splits of the images beside the test fold, in each of which other people validate.

    Protocol "grouped" has a validation part of its own, which is the only one. Else every fold but the test
    fold validates once, from the one before the test fold on, as "rotate" takes them; the rest trains. With
    data.fold -1 nothing is tested and every fold validates.

    Returns nothing where only one fold is learned from.
    """
    rows = len(data.manifest)
    split = make_age_splits(data, config).of_fold(config.fold, rows)
    if config.protocol == "grouped" and len(split.val):
        return [split]
    learned, fold = np.union1d(split.train, split.val), data.manifest["fold"]
    folds = np.unique(fold[learned]).tolist()
    if len(folds) < 2:
        return []
    before = [name for name in folds if name < split.fold]
    order = [*reversed(before), *reversed(folds[len(before) :])]
    return [_validating(split, learned, fold[learned] == name) for name in order]


def _validating(split: Split, learned: np.ndarray, chosen: np.ndarray) -> Split:
    return Split(learned[~chosen], learned[chosen], split.test, split.protocol, split.fold)
