"""`verify`: what a data set holds, before an hour is spent on it."""

from __future__ import annotations

from typing import Any

import numpy as np

from agecls.config import AgeDataConfig
from agecls.dataset import AgeData, make_age_splits, read_data
from agecls.folds import Split, find_duplicate_contents
from finetune.console import progress, say, table
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
    print_counts(data, result)
    if not quick:
        check_pictures(data, splits, result)
    return result


def fold_counts(data: AgeData) -> list[int]:
    """Return the number of images of each fold."""
    folds = data.manifest["fold"]
    return [int((folds == fold).sum()) for fold in range(int(folds.max()) + 1)]


def print_counts(data: AgeData, result: dict[str, Any]) -> None:
    """Print the fold by group table and what was dropped, repaired or missing."""
    manifest = data.manifest
    rows = []
    for fold, images in enumerate(result["per_fold"]):
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
    say("no subject, user or file is shared between training, validation and test in any fold")


def check_pictures(data: AgeData, splits: list[Split], result: dict[str, Any]) -> None:
    """Open every picture that is there; refuse unreadable ones, warn of equal ones across train and test."""
    from finetune.decode import find_bad_images

    manifest = data.manifest
    files = [manifest.file(row) for row in range(len(manifest))]
    present = [file for file in files if file.is_file()]
    if not present:
        return
    with progress(len(present), "opening pictures") as bar:
        bad = []
        for file in present:
            bad += find_bad_images([file])
            bar.advance()
    result["bad_images"] = {str(file): reason for file, reason in bad}
    here = (
        manifest.select(np.array([file.is_file() for file in files]))
        if len(present) < len(files)
        else manifest
    )
    twins = find_duplicate_contents(here, splits) if here is manifest else []
    result["duplicate_contents"] = [list(pair) for pair in twins]
    if twins:
        pairs = [" = ".join(map(str, pair)) for pair in twins]
        say(f"warning: {len(twins)} pictures in training and test are the same bytes:\n{listing(pairs)}")
    if bad:
        reasons = [f"{file}: {reason}" for file, reason in bad]
        raise DataError(f"{len(bad)} of {len(present)} pictures cannot be read:\n{listing(reasons, 50)}")
