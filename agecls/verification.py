"""`verify`: what a data set holds, before an hour is spent on it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np

from agecls.config import AgeDataConfig
from agecls.dataset import AgeData, make_age_splits, read_data
from agecls.folds import Split, find_duplicate_contents
from finetune.console import say, table
from finetune.errors import DataError, listing


def verify_data(config: AgeDataConfig, *, quick: bool = False) -> dict[str, Any]:
    """Read, count and check a data set; return the counts.

    Pictures that are there are opened one by one unless `quick`, and equal ones across training and test are
    named. Raises DataError when pictures cannot be read or people are shared, after everything was printed.
    """
    data = read_data(config, lists_only=True)
    splits, split_hash = make_age_splits(data, config)
    result = dict(data.report) | {
        "split": split_hash,
        "protocol": config.protocol,
        "manifest": data.manifest.fingerprint,
    }
    result |= {"per_fold": fold_counts(data), "policy": data.policy}
    result["validation_per_fold"] = [len(split.val) for split in splits]
    print_counts(data, result, config.allow_subject_overlap)
    if not quick:
        check_pictures(data, splits, result)
    return result


def fold_counts(data: AgeData) -> list[int]:
    """Return the number of images of each fold."""
    _, counts = np.unique(data.manifest["fold"], return_counts=True)
    return [int(count) for count in counts]


def print_counts(data: AgeData, result: dict[str, Any], overlap_allowed: bool) -> None:
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
    told = ("edition", "duplicates", "typo_repaired", "dropped", "in_gaps", "missing_images", "notices")
    for name in told:
        if data.report.get(name):
            say(f"{name.replace('_', ' ')}: {data.report[name]}")
    unshared = "file" if overlap_allowed else "subject, user or file"
    say(f"no {unshared} is shared between training, validation and test in any fold")


def among(split: Split, there: np.ndarray) -> Split:
    """Return a split of the rows that are `there`, bool (N,), numbered as in the manifest of these alone."""
    place = np.cumsum(there) - 1
    parts = {name: place[rows[there[rows]]] for name, rows in split.parts()}
    return replace(split, **parts)


def check_pictures(data: AgeData, splits: list[Split], result: dict[str, Any]) -> None:
    """Open every picture that is there; refuse unreadable ones, warn of equal ones across train and test."""
    from finetune.cache_file import map_files
    from finetune.decode import reason_to_refuse

    files = [data.manifest.file(row) for row in range(len(data.manifest))]
    there = np.array([file.is_file() for file in files])
    if not there.any():
        return
    present = [file for file, found in zip(files, there, strict=True) if found]
    found = map_files(reason_to_refuse, present, os.cpu_count() or 1, "opening pictures")
    bad = {str(file): reason for file, reason in zip(present, found, strict=True) if reason is not None}
    result["bad_images"] = bad
    twins = find_duplicate_contents(data.manifest.select(there), [among(split, there) for split in splits])
    result["duplicate_contents"] = [list(pair) for pair in twins]
    if twins:
        pairs = [" = ".join(map(str, pair)) for pair in twins]
        say(f"warning: {len(twins)} pictures in training and test are the same bytes:\n{listing(pairs)}")
    if bad:
        reasons = [f"{file}: {reason}" for file, reason in bad.items()]
        raise DataError(f"{len(bad)} of {len(present)} pictures cannot be read:\n{listing(reasons, 50)}")
