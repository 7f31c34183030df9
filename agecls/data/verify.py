"""What `verify` counts and does for age data: folds, groups and subjects, and lists of splits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agecls.config import AgeDataConfig, VerifyAgeConfig
from agecls.data.folds import check_splits, export_splits, split_hash, verify_splits
from agecls.data.overlapping import FAEB, check_listed
from agecls.data.read import left_out
from finetune.cli.console import say, table
from finetune.errors import DataError, listing
from finetune.experiments.records.splits import Splits
from finetune.experiments.task import TaskData
from finetune.images.checks import missing_text, subjects_known


def verify_lists(data: TaskData, splits: Splits, config: VerifyAgeConfig) -> dict[str, Any]:
    """Print the counts, export the splits or compare them with exported ones, and return what was counted.

    Raises DataError where the exported lists are other splits.
    """
    counts = {
        "protocol": config.data.rule,
        "per_fold": fold_counts(data),
        "policy": data.policy,
        "validation_per_fold": [len(split.val) for split in splits],
    }
    print_counts(data, counts, config.data.allow_subject_overlap)
    if config.against is not None:
        check_against(Path(config.against), data, splits.hash, config.data)
    if config.export is not None:
        export_splits(splits.splits, data.manifest, Path(config.export))
        say(f"the splits lie in {config.export}")
    return counts


def faults(data: TaskData, config: AgeDataConfig) -> list[str]:
    """Return a text for listed images that are not there, unless they are dropped or none was looked for."""
    count = data.report.get("missing_images")
    if not count or config.missing != "error":
        return []
    return [missing_text(data.manifest.root, data.report["missing_first"], count, len(data.manifest))]


def check_against(folder: Path, data: TaskData, split: str, config: AgeDataConfig) -> None:
    """Raise DataError unless the exported lists in `folder` are whole and are the splits of this data."""
    check = check_listed if config.rule == FAEB else check_splits
    listed = verify_splits(
        folder, data.manifest, allow_subject_overlap=config.allow_subject_overlap, check=check
    )
    found = split_hash(listed, data.manifest)
    if found != split:
        raise DataError(f"the lists in {folder} are other splits of this data: {found}, here {split}")
    say(f"the lists in {folder} are the splits of this data")


def fold_counts(data: TaskData) -> list[int]:
    """Return the number of images of each fold."""
    _, counts = np.unique(data.manifest["fold"], return_counts=True)
    return [int(count) for count in counts]


def print_counts(data: TaskData, counts: Mapping[str, Any], overlap_allowed: bool) -> None:
    """Print the fold by group table and what was dropped, repaired or missing."""
    manifest, known = data.manifest, subjects_known(data.report)
    whose = [manifest["subject"]] if known else []  # no column of what nobody knows
    rows = []
    for fold, images in zip(np.unique(manifest["fold"]).tolist(), counts["per_fold"], strict=True):
        inside = manifest["fold"] == fold
        people = [len(set(subject[inside].tolist())) for subject in whose]
        rows.append([f"fold {fold}", *manifest.select(inside).class_counts().tolist(), images, *people])
    people = [len(set(subject.tolist())) for subject in whose]
    rows.append(["all", *manifest.class_counts().tolist(), len(manifest), *people])
    header = ["", *manifest.class_names, "images", *(["subjects"] if known else [])]
    table(f"policy {data.policy}", header, rows)
    for name in ("edition", "duplicates", "typo_repaired"):
        if data.report.get(name):
            say(f"{name.replace('_', ' ')}: {data.report[name]}")
    if left := left_out(data):
        say(left)
    if "gender" in manifest and (manifest["gender"] != "").any():
        names, counts_of = np.unique(manifest["gender"], return_counts=True)
        told = ", ".join(f"{name or 'not known'} {n}" for name, n in zip(names, counts_of, strict=True))
        say(f"genders: {told}")
    if data.report.get("missing_images"):
        first = listing(data.report["missing_first"], 5)
        then = "training stops" if data.report["missing_rule"] == "count" else "they are dropped"
        say(f"missing: {data.report['missing_images']} listed images are not there, {then}:\n{first}")
    for notice in data.report.get("notices", []):
        say(f"note: {notice}")
    unshared = "subject, user or file" if known and not overlap_allowed else "file"
    say(f"no {unshared} is shared between training, validation and test in any fold")
