"""Configuration -> the images, their splits and their prepared images: one place for every age command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agecls.config import ADIENCE_GROUPS, AgeDataConfig
from agecls.data.adience import manifest_counts, read_adience
from agecls.data.age_table import read_age_table
from agecls.data.faeb import read_faeb
from agecls.data.folds import (
    albums_of,
    assign_folds,
    missing_classes,
    official_folds,
    split_hash,
)
from agecls.data.groups import AgeGroups
from agecls.data.named import TABLE_POLICY, read_named
from agecls.data.overlapping import splits_of
from finetune.cli.console import say
from finetune.cli.machine import core_count
from finetune.errors import DataError, ModelFileError, UsageError, listing
from finetune.experiments.data_checks import tell_contents
from finetune.experiments.records.splits import Splits
from finetune.experiments.same_content import settle_same_content
from finetune.experiments.task import TaskData
from finetune.images.checks import known_count, subjects_known
from finetune.images.manifest import Manifest
from finetune.images.people import slice_names


def read_data(config: AgeDataConfig, *, lists_only: bool = False, with_folds: bool = True) -> TaskData:
    """Read Adience or a table as configured; with `lists_only` absent images are counted, not refused.

    A table without official folds gets `n_folds` of its own, grouped by subject and stratified, unless
    `with_folds` is false: data that is only predicted may have as few subjects as it likes. With
    `skip_bad`, images that cannot be decoded are dropped and listed in the report under "bad_images".
    """
    if config.root is None and config.table is None:
        raise UsageError(config.wanted)
    missing = "count" if lists_only and config.missing == "error" else config.missing
    data = _read(config, missing)
    if config.skip_bad and not lists_only:
        data = _without_bad_images(data)
    data = _settled(data, config)
    if with_folds and official_folds(data.manifest) is None:
        folds = assign_folds(data.manifest, n_folds=config.n_folds, seed=config.fold_seed)
        data = TaskData(data.manifest.with_column("fold", folds), data.policy, data.report)
    return data


def with_groups_of(config: AgeDataConfig, class_names: Sequence[str]) -> AgeDataConfig:
    """Return the configuration of a table with a model's own age groups, unless others are asked for.

    Raises ModelFileError, with the option to give, where the groups that are asked for are not the model's.
    """
    own = ",".join(class_names)
    asked = AgeGroups.parse(config.groups).names
    if (config.table, config.name, config.faeb) == (None, None, None) or asked == tuple(class_names):
        return config
    if config.groups != ADIENCE_GROUPS:
        lacks = ", ".join(name for name in class_names if name not in asked) or "none"
        adds = ", ".join(name for name in asked if name not in class_names) or "none"
        raise ModelFileError(
            f"--data.groups {config.groups}: the model has other groups (only in the model: {lacks}; only in "
            f"the data: {adds}); give its own, --data.groups {own}, or leave the option out"
        )
    try:
        AgeGroups.parse(own)
    except UsageError:  # a model with classes of another kind: whoever compares them says so
        return config
    say(f"note: the model's own age groups are used, --data.groups {own}")
    return replace(config, groups=own)


def make_age_splits(data: TaskData, config: AgeDataConfig) -> Splits:
    """Return the splits of the configured protocol, checked for shared subjects."""
    splits = splits_of(data.manifest, config.rule, allow_subject_overlap=config.allow_subject_overlap)
    return Splits(tuple(splits), split_hash(splits, data.manifest))


def left_out(data: TaskData) -> str:
    """Return the sentence on rows that the groups or the policy leave out; empty where there are none."""
    rows, dropped = data.report.get("in_gaps"), data.report.get("dropped")
    if rows:
        listed = data.report["rows"]
        return f"left out: {rows} of {listed} rows have an age between two groups (--data.groups sets others)"
    if dropped:
        kinds = listing([f"{age}: {count}" for age, count in dropped.items()], 5)
        return f"left out: {sum(dropped.values())} rows have an age that policy {data.policy} drops:\n{kinds}"
    return ""


def tell_reading(data: TaskData) -> None:
    """Say what the reader left out, and what it noticed."""
    if left := left_out(data):
        say(left)
    if data.report.get("missing_images") and data.report["missing_rule"] == "drop":
        first = listing(data.report["missing_first"], 5)
        say(f"warning: {data.report['missing_images']} listed images are not there and are dropped:\n{first}")
    for notice in data.report.get("notices", []):
        say(f"note: {notice}")


def check_contents(data: TaskData, splits: Splits, config: AgeDataConfig) -> TaskData:
    """Report groups without an image in a part of these splits, and equal images across parts or labels.

    Returns the data with what was found of equal images in their report.
    """

    def tell_absent(own: Splits) -> None:
        if absent := missing_classes(own.splits, data.manifest):
            say(f"note: groups without an image in a part of a split:\n{listing(absent)}")

    return tell_contents(data, splits, config.same_content, tell_absent)


def _settled(data: TaskData, config: AgeDataConfig) -> TaskData:
    """Return the data as `same_content` has them, with counts of the images that are left."""
    asked = config.same_content
    settled = settle_same_content(data, asked, albums_of(data.manifest) if asked == "group" else None)
    if len(settled.manifest) == len(data.manifest):
        return settled
    return replace(settled, report={**settled.report, **recounted(settled)})


def recounted(data: TaskData) -> dict[str, Any]:
    """Return the counts of a reader's report that go by images, of the images that are there now."""
    manifest, report = data.manifest, data.report
    if "edition" in report:
        return manifest_counts(manifest)
    known = subjects_known(report)
    found: dict[str, Any] = {"images": len(manifest), "per_group": manifest.class_counts().tolist()}
    if report.get("per_fold") is not None:
        found["per_fold"] = np.unique(manifest["fold"], return_counts=True)[1].tolist()
    for name, column in (("subjects", "subject"), ("users", "user")):
        if report.get(name) is not None:
            found[name] = known_count(manifest[column], known=known or name == "users")
    return found


def _read(config: AgeDataConfig, missing: str) -> TaskData:
    if config.faeb is not None:
        return read_faeb(config, missing)
    if config.name is not None:
        return read_named(config, missing)
    return _read_table(config, missing) if config.table is not None else _read_adience(config, missing)


def _read_adience(config: AgeDataConfig, missing: str) -> TaskData:
    assert config.root is not None
    root = _folder(config.root, "--data.root")
    folds_dir = None if config.folds_dir is None else _folder(config.folds_dir, "--data.folds_dir")
    reading = read_adience(
        root,
        policy=config.policy,
        layout=config.layout,
        folds_dir=folds_dir,
        missing=missing,  # type: ignore[arg-type]
        follow=config.follow,
    )
    return TaskData(reading.manifest, config.policy, reading.report.to_dict())


def _read_table(config: AgeDataConfig, missing: str) -> TaskData:
    assert config.table is not None
    reading = read_age_table(
        Path(config.table),
        root=None if config.root is None else _folder(config.root, "--data.root"),
        groups=AgeGroups.parse(config.groups),
        path_column=config.path_column,
        age_column=config.age_column,
        group_column=config.group_column,
        subject_column=None if config.subject_column == "none" else config.subject_column,
        user_column=config.user_column,
        gender_column=config.gender_column,
        slice_columns=config.slice_columns,
        fold_column=config.fold_column,
        missing=missing,  # type: ignore[arg-type]
        follow=config.follow,
    )
    return TaskData(reading.manifest, TABLE_POLICY, reading.report.to_dict())


def _folder(name: str, option: str) -> Path:
    folder = Path(name)
    if not folder.is_dir():
        raise DataError(f"{option} {name}: there is no such folder")
    return folder


def _without_bad_images(data: TaskData) -> TaskData:
    from finetune.images.decode import find_bad_images

    files = [data.manifest.file(row) for row in range(len(data.manifest))]
    bad = {str(file): reason for file, reason in find_bad_images(files, workers=core_count())}
    good = np.array([str(file) not in bad for file in files])
    return TaskData(data.manifest.select(good), data.policy, {**data.report, "bad_images": bad})


def images_of(images: int, subjects: int, counts: Mapping[str, Any]) -> str:
    """Return how many images of how many subjects there are, where `counts` say that subjects are known.

    >>> images_of(12, 12, {"subjects_known": False}), images_of(12, 5, {})
    ('12 images, subjects not known', '12 images of 5 subjects')
    """
    people = f" of {subjects} subjects" if subjects_known(counts) else ", subjects not known"
    return f"{images} images{people}"


def image_columns(manifest: Manifest, rows: np.ndarray, fold: int) -> dict[str, np.ndarray]:
    """Return the columns of predictions: subject, user, gender, age of these rows, and the tested fold."""
    count = len(rows)
    subject = manifest["subject"][rows]
    return {
        "subject": subject,
        "user": manifest["user"][rows] if "user" in manifest else subject,
        "gender": manifest["gender"][rows] if "gender" in manifest else np.full(count, ""),
        "age": manifest["age"][rows] if "age" in manifest else np.full(count, np.nan),
        "fold": np.full(count, fold, dtype=np.int64),
        **{name: manifest[name][rows] for name in slice_names(manifest.columns)},
    }
