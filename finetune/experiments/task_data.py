"""What a task read of its data: the images, the rule of their labels, and what is told of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from finetune.images.checks import equal_files
from finetune.images.manifest import Manifest


@dataclass(frozen=True)
class TaskData:
    """The images of one configuration, the label policy or layout that was read, and a report for JSON.

    `by_fold` holds what a check of several folds said of them together and each fold's record says of that
    fold alone.
    """

    manifest: Manifest
    policy: str
    report: Mapping[str, Any]
    by_fold: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def equal_files(self) -> list[list[int]]:
        """The rows of each set of files with equal bytes; files of equal size are read when first asked."""
        return list(equal_files(self.manifest))
