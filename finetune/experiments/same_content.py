"""What is done with images of the same bytes before anything is split: kept, dropped, or held together.

The rule is `data.same_content`. Whatever it is, labels that differ within a set of equal images are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from finetune.errors import DataError, listing
from finetune.experiments.records.splits import PARTS, Split
from finetune.experiments.sections import conflicts_text
from finetune.experiments.task_data import TaskData
from finetune.images.checks import equal_files, label_conflicts
from finetune.images.manifest import Manifest

TOGETHER = "together"  # a table's column: rows that share a value stay in one part
DROPPED, GROUPED = "same_content_dropped", "same_content_grouped"  # what a run's counts call them
FOUND = "same_content_found"  # the sets and their labels, as they were before any was dropped


def settle_same_content(data: TaskData, rule: str, albums: np.ndarray | None = None) -> TaskData:
    """Return the data as `rule` has them: without repeats (drop), or with column `together` (group).

    Args:
        data: the images of a task, before they are split.
        rule: of `data.same_content`; any other word leaves the data as they are.
        albums: (N,), what stays in one part anyway, such as the subject; equal images join them.

    "drop" keeps the first image of each set, with its own label. The report then counts the dropped images
    or the sets held together, and a notice says how many sets carry different labels. Images that are not
    there are left as they are. Raises DataError when a file cannot be read.
    """
    if rule not in ("drop", "group"):
        return data
    groups = _equal_rows(data.manifest)
    conflicts = label_conflicts(data.manifest, groups)
    told = _told(conflicts, rule)
    if rule == "drop":
        again = [row for rows in groups for row in sorted(rows)[1:]]
        kept = np.setdiff1d(np.arange(len(data.manifest)), again)
        manifest, count = data.manifest.select(kept), {DROPPED: len(again)}
        first = [f"{len(again)} images have the bytes of an earlier one and are dropped"] if again else []
    else:
        keys = data.manifest["path"] if albums is None else albums
        manifest = data.manifest.with_column(TOGETHER, joined(keys, groups))
        count = {GROUPED: len(groups)}
        first = [f"{len(groups)} sets of images with the same bytes each stay in one part"] if groups else []
    notices = [*data.report.get("notices", []), *first, *told]
    return replace(
        data, manifest=manifest, report={**data.report, **count, FOUND: conflicts, "notices": notices}
    )


def joined(keys: np.ndarray, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Return keys (N,) of which rows of one group share one, and so do all rows that shared a key before.

    >>> joined(np.array(["a", "b", "b", "c", "d"]), [[0, 2], [3, 4]]).tolist()
    ['a', 'a', 'a', 'c', 'c']
    """
    names, code = np.unique(keys, return_inverse=True)
    parent = list(range(len(names)))

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = one = parent[parent[one]]
        return one

    for rows in groups:
        roots = sorted({root(int(code[row])) for row in rows})
        for other in roots[1:]:
            parent[other] = roots[0]
    return np.asarray(names[[root(int(one)) for one in code]])


def whole_sets(manifest: Manifest, held: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return the rows of a hold-out that share no `together` with what is not held out; all without one."""
    if TOGETHER not in manifest or not len(held):
        return held
    outside = np.setdiff1d(rest, held)
    return np.asarray(held[~np.isin(manifest[TOGETHER][held], manifest[TOGETHER][outside])])


def refuse_separated(manifest: Manifest, splits: Sequence[Split]) -> None:
    """Raise DataError where equal images that are to stay together are in two parts of a split.

    That can only be where the data bring parts or folds of their own.
    """
    if TOGETHER not in manifest:
        return
    found: dict[str, str] = {}
    for split in splits:
        sides = [set(manifest[TOGETHER][rows].tolist()) for _, rows in split.parts()]
        for place, side in enumerate(sides):
            for other in range(place + 1, len(sides)):
                for one in sorted(side & sides[other]):
                    found.setdefault(one, f"{one} ({PARTS[place]}, {PARTS[other]})")
    if found:
        raise DataError(
            f"--data.same_content group: the data's own parts or folds separate {len(found)} sets of equal "
            f"images:\n{listing(list(found.values()))}\nLeave the parts out, or say --data.same_content drop"
        )


def grouped_line(counts: Any) -> str:
    """Return what `counts` of a run say of sets that were held together; empty for none.

    >>> grouped_line({"same_content_grouped": 3})
    '3 sets of images with the same bytes were each kept in one part'
    """
    sets = counts.get(GROUPED) or 0
    return f"{sets:,} sets of images with the same bytes were each kept in one part" if sets else ""


def _equal_rows(manifest: Manifest) -> list[list[int]]:
    there = np.flatnonzero([manifest.file(row).is_file() for row in range(len(manifest))])
    shown = manifest if len(there) == len(manifest) else manifest.select(there)
    return [[int(there[row]) for row in rows] for rows in equal_files(shown)]


def _told(conflicts: dict[str, Any], rule: str) -> list[str]:
    text = conflicts_text(conflicts)
    if not text:
        return []
    kept = "; the first image's label is kept" if rule == "drop" else ""
    first = "; ".join(" = ".join(one) for one in conflicts["first"][:3])
    return [f"{text}{kept}{f': {first}' if first else ''}"]
