"""`verify`: what a data set holds, before an hour is spent on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from agecls.config import AgeDataConfig
from agecls.data.folds import export_splits, find_duplicate_contents, split_hash, verify_splits
from agecls.data.read import make_age_splits, read_data, tell_twins
from finetune.cli.console import say, table
from finetune.errors import DataError, listing
from finetune.experiments.splits import Splits
from finetune.experiments.task import TaskData


def verify_data(
    config: AgeDataConfig, *, quick: bool = False, export: str | None = None, against: str | None = None
) -> dict[str, Any]:
    """Read, count and check a data set; return the counts.

    Pictures that are there are opened one by one unless `quick`, and equal ones across training and test are
    named. Raises DataError when pictures cannot be read or people are shared, after everything was printed.
    """
    data = read_data(config, lists_only=True)
    splits = make_age_splits(data, config)
    result = dict(data.report) | {
        "split": splits.hash,
        "protocol": config.protocol,
        "manifest": data.manifest.fingerprint,
    }
    result |= {"per_fold": fold_counts(data), "policy": data.policy}
    result["validation_per_fold"] = [len(split.val) for split in splits]
    print_counts(data, result, config.allow_subject_overlap)
    if against is not None:
        check_against(Path(against), data, splits.hash, config)
    if export is not None:
        export_splits(splits.splits, data.manifest, Path(export))
        say(f"the splits lie in {export}")
    if not quick:
        check_pictures(data, splits, config, result)
    return result


def check_against(folder: Path, data: TaskData, split: str, config: AgeDataConfig) -> None:
    """Raise DataError unless the exported lists in `folder` are whole and are the splits of this data."""
    listed = verify_splits(folder, data.manifest, allow_subject_overlap=config.allow_subject_overlap)
    found = split_hash(listed, data.manifest)
    if found != split:
        raise DataError(f"the lists in {folder} are other splits of this data: {found}, here {split}")
    say(f"the lists in {folder} are the splits of this data")


def fold_counts(data: TaskData) -> list[int]:
    """Return the number of images of each fold."""
    _, counts = np.unique(data.manifest["fold"], return_counts=True)
    return [int(count) for count in counts]


def print_counts(data: TaskData, result: dict[str, Any], overlap_allowed: bool) -> None:
    """Print the fold by group table and what was dropped, repaired or missing."""
    manifest = data.manifest
    rows = []
    for fold, images in zip(np.unique(manifest["fold"]).tolist(), result["per_fold"], strict=True):
        part = manifest.select(manifest["fold"] == fold)
        people = len(set(part["subject"].tolist()))
        rows.append([f"fold {fold}", *part.class_counts().tolist(), images, people])
    people = len(set(manifest["subject"].tolist()))
    rows.append(["all", *manifest.class_counts().tolist(), len(manifest), people])
    table(f"policy {data.policy}", ["", *manifest.class_names, "images", "subjects"], rows)
    for name in ("edition", "duplicates", "typo_repaired", "dropped"):
        if data.report.get(name):
            say(f"{name.replace('_', ' ')}: {data.report[name]}")
    if data.report.get("in_gaps"):
        left, listed = data.report["in_gaps"], data.report["rows"]
        say(f"left out: {left} of {listed} rows have an age between two groups (--data.groups sets others)")
    if data.report.get("missing_images"):
        first = listing(data.report["missing_first"], 5)
        say(f"missing: {data.report['missing_images']} listed images are not there, training stops:\n{first}")
    for notice in data.report.get("notices", []):
        say(f"note: {notice}")
    known = data.report.get("subjects_known", True)
    unshared = "subject, user or file" if known and not overlap_allowed else "file"
    say(f"no {unshared} is shared between training, validation and test in any fold")


def check_pictures(data: TaskData, splits: Splits, config: AgeDataConfig, result: dict[str, Any]) -> None:
    """Open every picture that is there; refuse unreadable ones, warn of equal ones across train and test."""
    from finetune.images.cache_file import map_files
    from finetune.images.decode import reason_to_refuse

    files = [data.manifest.file(row) for row in range(len(data.manifest))]
    there = np.array([file.is_file() for file in files])
    if not there.any():
        return
    present = [file for file, found in zip(files, there, strict=True) if found]
    found = map_files(reason_to_refuse, present, os.cpu_count() or 1, "opening pictures")
    bad = {str(file): reason for file, reason in zip(present, found, strict=True) if reason is not None}
    result["bad_images"] = bad
    say(f"{len(present)} pictures opened, {len(bad)} cannot be read")
    twins = find_duplicate_contents(data.manifest.select(there), [split.among(there) for split in splits])
    result["duplicate_contents"] = [list(pair) for pair in twins]
    tell_twins(twins, config)
    if bad:
        reasons = [f"{file}: {reason}" for file, reason in bad.items()]
        raise DataError(f"{len(bad)} of {len(present)} pictures cannot be read:\n{listing(reasons, 50)}")
