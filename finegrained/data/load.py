"""Configuration -> the images, the parts they are split into: one place for every fine-grained command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from finegrained.config import FineDataConfig
from finegrained.data.image_table import read_image_table
from finegrained.data.layouts import detect_layout, read_layout
from finegrained.data.reading import FineReading, ReadingRules, counts
from finegrained.data.splits import as_split, hold_out, split_hash
from finetune.cli.console import say
from finetune.cli.machine import core_count
from finetune.errors import DataError, UsageError, listing
from finetune.experiments.data_checks import tell_contents
from finetune.experiments.records.splits import Split, Splits
from finetune.experiments.same_content import refuse_separated, settle_same_content, whole_sets
from finetune.experiments.task import TaskData
from finetune.images.manifest import Manifest


def read_fine_data(config: FineDataConfig, *, lists_only: bool = False) -> TaskData:
    """Read the configured data set; with `lists_only` absent images are counted, not refused.

    With `skip_bad`, images that cannot be decoded are dropped and listed in the report under "bad_images".

    The report's keys: images, classes, train, val, test, per_class and per_class_train (min, median, max),
    layout, data_set (a title or None), official (the published data set, whole), missing_images,
    missing_first, missing_rule, metadata_only, files (SHA-256 of each list), class_names, notices; bad_images
    (file -> reason) where unreadable ones were dropped; same_content, same_content_validation and
    same_content_classes (pairs of paths, `finetune.experiments.data_checks.EqualContents`) once contents were
    compared.

    Raises UsageError without a folder or a table, or where images are wanted of lists alone; DataError as
    the readers do.
    """
    if config.root is None and config.table is None:
        raise UsageError(config.wanted)
    if config.metadata_only and not lists_only:
        raise UsageError(
            "--data.metadata_only true reads lists alone, which is enough for verify and no more"
        )
    missing = "count" if lists_only and config.missing == "error" else config.missing
    rules = ReadingRules(config.subset, config.metadata_only, missing, config.follow)
    reading = _read(config, rules)
    data = TaskData(reading.manifest, reading.layout, reading.report)
    data = _without_bad_images(data) if config.skip_bad and not lists_only else data
    settled = settle_same_content(data, config.same_content)
    if len(settled.manifest) == len(data.manifest):
        return settled
    report = {**settled.report, **counts(settled.manifest), "official": False}
    return replace(settled, report=report)


def make_fine_split(data: TaskData, config: FineDataConfig) -> Splits:
    """Return the one split: the rows to train, to validate and to test on.

    The test part is the data set's own; a set without one gives a stratified `test_share` of each class, and
    that is said. Validation rows are the set's own where it has any, else a stratified `val_share` of the
    training rows. Neither hold-out takes a class's last row. Test rows are in no other part.

    Raises DataError when some rows name a part and others none, or a class has no training image.
    """
    manifest, split = data.manifest, data.manifest["split"]
    unnamed = split == ""
    if unnamed.any() and not unnamed.all():
        raise DataError(
            f"{int(unnamed.sum())} of {len(split)} images name no part; say train, val or test for each, or "
            "for none"
        )
    own_test, own_val = np.flatnonzero(split == "test"), np.flatnonzero(split == "val")
    rest = np.setdiff1d(np.arange(len(split)), np.concatenate([own_test, own_val]))
    test = own_test if len(own_test) else whole_sets(manifest, _made_test(manifest, rest, config), rest)
    train = np.setdiff1d(rest, test)
    val = own_val
    if not len(own_val):
        val = hold_out(manifest, train, config.val_share, config.split_seed, "validation")
        if config.val_share > 0 and not len(val):
            raise DataError(
                f"no validation part can be held out of {len(train)} training images: every class has one "
                "image, which it keeps. Add images, or say --data.val_share 0"
            )
    val = val if len(own_val) else whole_sets(manifest, val, train)
    result = as_split(manifest, np.setdiff1d(train, val), val, test)
    refuse_separated(manifest, [result])
    _check_classes(manifest, result)
    return Splits((result,), split_hash(manifest, result))


def check_contents(data: TaskData, split: Split, config: FineDataConfig) -> TaskData:
    """Return the data with the files of equal bytes in their report; warn of them, or refuse them.

    Classes without a test image are named. Raises DataError where images learned from are tested and
    `same_content` says error.
    """

    def tell_untested(own: Splits) -> None:
        if told := untested_classes(data.manifest, own.splits[0]):
            say(f"note: {told}")

    return tell_contents(data, Splits((split,), ""), config.same_content, tell_untested)


def untested_classes(manifest: Manifest, split: Split) -> str:
    """Return a sentence that names the classes without a test image; empty where there is nothing to say."""
    if not len(split.test):
        return ""
    size = np.bincount(manifest.label[split.test], minlength=manifest.num_classes)
    absent = [manifest.class_names[index] for index in np.flatnonzero(size == 0)]
    if not absent:
        return ""
    return f"{len(absent)} of {manifest.num_classes} classes have no test image:\n{listing(absent)}"


def tell_reading(data: TaskData) -> None:
    """Say what the reader noticed, and how many listed images were dropped and why."""
    report = data.report
    for notice in report["notices"]:
        say(f"note: {notice}")
    if report["missing_images"] and report["missing_rule"] == "drop":
        first = listing(report["missing_first"], 5)
        say(f"warning: {report['missing_images']} listed images are not there and are dropped:\n{first}")
    if report.get("bad_images"):
        lines = [f"{file}: {reason}" for file, reason in report["bad_images"].items()]
        say(f"warning: {len(lines)} images cannot be read and are dropped:\n{listing(lines)}")


def _read(config: FineDataConfig, rules: ReadingRules) -> FineReading:
    if config.table is None:
        return read_layout(detect_layout(Path(str(config.root)), config.layout), rules)
    if config.root is not None and not Path(config.root).is_dir():
        raise DataError(f"--data.root {config.root}: there is no such folder")
    root = None if config.root is None else Path(config.root)
    return read_image_table(Path(config.table), rules, root=root)


def _made_test(manifest: Manifest, rows: np.ndarray, config: FineDataConfig) -> np.ndarray:
    test = hold_out(manifest, rows, config.test_share, config.split_seed, "test")
    if not len(test):
        raise DataError(
            f"the data name no test part, and none of {len(rows)} images in {manifest.num_classes} classes "
            "can be held out; add images, or name a test part"
        )
    say(
        f"the data name no test part: {len(test)} of {len(rows)} images are held out, stratified "
        f"(--data.test_share {config.test_share}, --data.split_seed {config.split_seed})"
    )
    return test


def _check_classes(manifest: Manifest, split: Split) -> None:
    size = np.bincount(manifest.label[split.train], minlength=manifest.num_classes)
    absent = [manifest.class_names[index] for index in np.flatnonzero(size == 0)]
    if absent:
        raise DataError(
            f"{len(absent)} of {manifest.num_classes} classes have no training image:\n{listing(absent)}"
        )


def _without_bad_images(data: TaskData) -> TaskData:
    from finetune.images.decode import find_bad_images

    files = [data.manifest.file(row) for row in range(len(data.manifest))]
    bad = {str(file): reason for file, reason in find_bad_images(files, workers=core_count())}
    good = np.array([str(file) not in bad for file in files])
    manifest = data.manifest.select(good)
    official = data.report["official"] and not bad
    report = {**data.report, **counts(manifest), "official": official, "bad_images": bad}
    return replace(data, manifest=manifest, report=report)
