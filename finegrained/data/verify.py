"""What `verify` counts, writes and refuses for categories: images, classes, parts and boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from finegrained.config import FineDataConfig, VerifyFineConfig
from finegrained.data.boxes import bad_boxes, boxes_outside, tiny_boxes
from finegrained.data.load import untested_classes
from finetune.cli.console import on_one_line, say, table
from finetune.errors import listing
from finetune.experiments.records.splits import Split, Splits
from finetune.experiments.task import TaskData
from finetune.images.checks import missing_text, tell_classes


def verify_lists(data: TaskData, splits: Splits, config: VerifyFineConfig) -> dict[str, Any]:
    """Print the counts, write the table of images where it is asked for, and return parts and table.

    The table can be given back as --data.table, with its images' folder as --data.root; beside a .csv lies
    the list of classes.
    """
    (split,) = splits
    print_counts(data, split)
    found: dict[str, Any] = {"parts": {name: len(rows) for name, rows in split.parts()}}
    if config.write is not None:
        data.manifest.save(Path(config.write))
        say(f"the table of {len(data.manifest)} images is in {config.write}")
        found["table"] = str(Path(config.write))
    return found


def faults(data: TaskData, config: FineDataConfig) -> list[str]:
    """Return a text for listed images that are not there (unless dropped), and one for bad boxes."""
    report, found = data.report, []
    if report["missing_images"] and config.missing == "error":
        count = report["missing_images"]
        found.append(missing_text(data.manifest.root, report["missing_first"], count, report["images"]))
    boxes = bad_boxes(data.manifest)
    if boxes:
        found.append(f"{len(boxes)} boxes have no area or are not finite:\n{listing(boxes)}")
    if tiny := tiny_boxes(data.manifest):
        found.append(tiny)
    if not report["metadata_only"]:
        outside, told = boxes_outside(data.manifest)
        if outside:
            found.append(outside)
        if told:
            say(f"note: {told}")
    return found


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
    tell_classes(manifest.class_names, {part: manifest.label[index] for part, index in split.parts()})
    if told := untested_classes(manifest, split):
        say(f"note: {told}")
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
