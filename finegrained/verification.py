"""`crl fine verify`: what a data set holds, before an hour is spent on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from finegrained.config import FineDataConfig
from finegrained.data.boxes import CORNERS
from finegrained.data.load import make_fine_split, read_fine_data, tell_twins, twins_report
from finegrained.data.splits import equal_contents
from finetune.cli.console import on_one_line, say, table
from finetune.errors import DataError, UsageError, listing
from finetune.experiments.splits import Split
from finetune.experiments.task import TaskData
from finetune.images.manifest import Manifest

TABLE_SUFFIXES = (".csv", ".parquet")


def verify_fine_data(
    config: FineDataConfig, *, quick: bool = False, write: str | None = None
) -> dict[str, Any]:
    """Read, count and check a data set; print what was found and return it.

    The result holds the report of `finegrained.data.load.read_fine_data`, and: split (the hash), parts (rows
    to train, validate and test on), manifest (the fingerprint); where pictures were opened, bad_images (file
    -> reason) and the pairs of files with equal bytes: duplicate_contents (a file learned from and a tested
    one; same_content too), same_content_validation (training and validation), same_content_classes (of two
    classes).
    Pictures are opened one by one unless `quick` or `metadata_only`. `write` names a .csv or .parquet for
    the table of images, with a class list beside a .csv: it can be given back as --data.table, with its
    pictures' folder as --data.root.

    Raises DataError, after everything was printed, when listed pictures are not there (unless `metadata_only`
    or missing="drop"), cannot be read, or have a box without an area; UsageError where the table's name
    ends in neither.
    """
    target = _table_file(write)
    data = read_fine_data(config, lists_only=True)
    splits = make_fine_split(data, config)
    split = splits.splits[0]
    result: dict[str, Any] = dict(data.report) | {
        "split": splits.hash,
        "parts": {name: len(rows) for name, rows in split.parts()},
        "manifest": data.manifest.fingerprint,
    }
    print_counts(data, split)
    if target is not None:
        data.manifest.save(target)
        say(f"the table of {len(data.manifest)} images is in {target}")
        result["table"] = str(target)
    if not quick and not config.metadata_only:
        check_pictures(data, split, config, result)
    check_lists(data, config)
    return result


def check_lists(data: TaskData, config: FineDataConfig) -> None:
    """Raise DataError for listed pictures that are not there and for boxes that hold no pixel."""
    report, faults = data.report, []
    if report["missing_images"] and config.missing == "error":
        faults.append(
            f"{report['missing_images']} of {report['images']} listed images are not under "
            f"{data.manifest.root}; put them there, or train without them by saying --data.missing drop:\n"
            f"{listing(report['missing_first'], 5)}"
        )
    boxes = bad_boxes(data.manifest)
    if boxes:
        faults.append(f"{len(boxes)} boxes have no area or are no numbers:\n{listing(boxes)}")
    if faults:
        raise DataError("\n".join(faults))


def bad_boxes(manifest: Manifest) -> list[str]:
    """Return a line for each box that is not finite or has no area; rows without a box are none."""
    if any(name not in manifest for name in CORNERS):
        return []
    boxes = np.stack([manifest[name] for name in CORNERS], axis=1)
    whole = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    bad = np.flatnonzero(~whole & ~np.isnan(boxes).all(axis=1))
    return [f"{manifest['path'][row]}: {', '.join(map(str, boxes[row].tolist()))}" for row in bad]


def print_counts(data: TaskData, split: Split) -> None:
    """Print the counts of images, classes and parts, what is held out, and what the reader noticed."""
    report, manifest = data.report, data.manifest
    name = report["data_set"] or "own data"
    say(f"{name} in {on_one_line(str(manifest.root))} (layout {data.policy})")
    own = ", ".join(f"{report[part]} {part}" for part in ("train", "val", "test") if report[part])
    say(f"{report['images']} images, {report['classes']} classes, {own or 'no parts named'}")
    rows = []
    for part, index in [("all", np.arange(len(manifest))), *split.parts()]:
        if len(index):
            size = np.bincount(manifest.label[index], minlength=manifest.num_classes)
            rows.append([part, len(index), int(size.min()), float(np.median(size)), int(size.max())])
    table("images per class", ["part", "images", "min", "median", "max"], rows)
    if len(split.val) and not report["val"]:
        say("the validation part is held out of the training images, stratified by class")
    if report["official"]:
        say("the counts are the official ones")
    for notice in report["notices"]:
        say(f"note: {notice}")
    if report["missing_images"]:
        first = listing(report["missing_first"], 5)
        then = "they are dropped" if report["missing_rule"] == "drop" else "training stops"
        say(f"missing: {report['missing_images']} listed images are not there, {then}:\n{first}")


def check_pictures(data: TaskData, split: Split, config: FineDataConfig, result: dict[str, Any]) -> None:
    """Open every picture that is there; refuse unreadable ones, tell of equal ones across the parts."""
    from finetune.images.cache_file import map_files
    from finetune.images.decode import reason_to_refuse

    files = [data.manifest.file(row) for row in range(len(data.manifest))]
    there = np.array([file.is_file() for file in files])
    present = [file for file, found in zip(files, there, strict=True) if found]
    if not present:
        say("no picture is there: none was opened")
        return
    reasons = map_files(reason_to_refuse, present, os.cpu_count() or 1, "opening pictures")
    bad = {str(file): reason for file, reason in zip(present, reasons, strict=True) if reason is not None}
    result["bad_images"] = bad
    say(f"{len(present)} pictures opened, {len(bad)} cannot be read")
    twins = equal_contents(data.manifest.select(there), split.among(there))
    result |= {"duplicate_contents": [list(pair) for pair in twins.tested], **twins_report(twins)}
    tell_twins(twins, config)
    if not twins.tested:
        say("no picture of the test part is also in training or validation, by content")
    if bad and not config.skip_bad:
        lines = [f"{file}: {reason}" for file, reason in bad.items()]
        raise DataError(
            f"{len(bad)} of {len(present)} pictures cannot be read; mend them, or train without them "
            f"by saying --data.skip_bad true:\n{listing(lines, 50)}"
        )


def _table_file(write: str | None) -> Path | None:
    if write is None:
        return None
    file = Path(write)
    if file.suffix.lower() not in TABLE_SUFFIXES:
        raise UsageError(f"--write {write}: the table must end in {' or '.join(TABLE_SUFFIXES)}")
    return file
