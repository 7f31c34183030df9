"""What a search learns from and is scored on: a run's images without its test part, which is never read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from finetune.errors import UsageError
from finetune.experiments.records.splits import Split, Splits
from finetune.experiments.task import Task, TaskData
from finetune.images.manifest import Manifest


def read_without_test(task: Task, config: Any) -> tuple[TaskData, Splits]:
    """Return the images that are learned from or validate, and the parts that they make.

    Lists are read whole, for they say which images test. Of the test images nothing is kept: no row of the
    table that is returned is one, so none can be opened and no label of one can be counted.

    Raises UsageError where the configuration makes no validation part, or fewer than search.parts.
    """
    if config.data.skip_bad:
        raise UsageError(
            "data.skip_bad opens every image, and a search opens no test image: take unreadable images out "
            f"of the data (crl {task.name} verify lists them), and leave data.skip_bad out"
        )
    data = task.read(config.data)
    found = task.tuning_splits(data, config)
    parts = config.search.parts
    if len(found) < parts:
        have = f"there are {len(found)}" if found else f"there is none: {task.tuning_hint}"
        raise UsageError(f"search.parts {parts} needs so many validation parts, and {have}")
    return _without_test(data, found[:parts])


def _without_test(data: TaskData, splits: Sequence[Split]) -> tuple[TaskData, Splits]:
    """Return the data of these splits' training and validation rows, and the splits without a test part."""
    used = np.zeros(len(data.manifest), dtype=bool)
    for split in splits:
        used[split.train] = used[split.val] = True
    for split in splits:
        used[split.test] = False
    none = np.arange(0)
    own = tuple(replace(split, test=none).among(used) for split in splits)
    manifest = data.manifest.select(used)
    return replace(data, manifest=manifest), Splits(own, _hash(manifest, own))


def scored_on_validation(split: Split) -> Split:
    """Return the split that trains on the training rows and is tested, once, on the validation rows.

    >>> rows = Split(np.array([0, 1]), np.array([2]), np.arange(0))
    >>> scored_on_validation(rows).test
    array([2])
    """
    return replace(split, val=np.arange(0), test=split.val)


def _hash(manifest: Manifest, splits: Sequence[Split]) -> str:
    parts = [[sorted(manifest["path"][rows].tolist()) for _, rows in split.parts()] for split in splits]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
