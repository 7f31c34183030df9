"""A published set of faces as the table that `crl age table` writes and every command reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agecls.config import ADIENCE_GROUPS, AgeDataConfig
from agecls.data.age_table import read_age_table
from agecls.data.crops import crops_folder, refuse_bad_crops, store_crops
from agecls.data.groups import AgeGroups
from agecls.data.known.findings import KnownFace
from agecls.data.known.registry import CHECK_TERMS, KnownSet, known_set
from finetune.cli.console import say
from finetune.errors import UsageError
from finetune.experiments.task import TaskData
from finetune.images.checks import missing_files, refuse_missing
from finetune.images.tables import Table

COLUMNS = (
    "path",
    "age",
    "group",
    "subject",
    "gender",
    "race",
    "apparent_age",
    "apparent_sd",
    "split",
    "folder",
    "source",
)
TABLE_POLICY = "table"


@dataclass(frozen=True)
class NamedFaces:
    """The faces of a published set, the folder that their paths start from, and what is to be said.

    `dropped` counts by reason the faces that the set's own rules leave out; `title` and `terms` are the
    set's.
    """

    name: str
    title: str
    terms: str
    root: Path
    faces: Sequence[KnownFace]
    dropped: Mapping[str, int]
    notices: tuple[str, ...]

    def table(self) -> Table:
        """Return the faces as a table, with those columns alone that the set fills."""
        names = [name for name in COLUMNS if any(getattr(face, name) for face in self.faces)]
        names = ["path", *(name for name in names if name != "path")]
        cells = [tuple(getattr(face, name) for name in names) for face in self.faces]
        return Table(Path(self.name), tuple(names), tuple(enumerate(cells, start=1)))

    def counts(self) -> dict[str, Any]:
        """Return what a result records of the set, beside what the table's reader counts."""
        return {"data_name": self.title, "terms": self.terms, "known_dropped": dict(self.dropped)}


def find_named(config: AgeDataConfig, missing: str) -> NamedFaces:
    """Return the faces of the set `config.name` under `config.root`; marked ones are cut out and stored.

    Images that are listed and not there are refused where `missing` is "error", and stay in the table else,
    for whoever reads it to count or to drop. Raises UsageError for an unknown name or without a root.
    """
    known = known_set(str(config.name))
    if config.root is None or config.table is not None:
        raise UsageError(f"--data.name {config.name} needs --data.root FOLDER, and no --data.table")
    root = Path(config.root)
    found = known.find(root, config.odd_names)
    faces, dropped = found.faces, {reason: len(names) for reason, names in found.dropped.items()}
    told = [*known.faults, *found.notices, *_size_notice(known, found.listed)]
    named = NamedFaces(known.name, known.title, known.terms, root, faces, dropped, tuple(told))
    return with_crops(named, config, missing)


def with_crops(named: NamedFaces, config: AgeDataConfig, missing: str) -> NamedFaces:
    """Return the faces with those that are marked by a box cut out and stored, if any are."""
    faces = named.faces
    if not any(face.box is not None for face in faces):
        return named
    if missing == "error":
        absent = missing_files(named.root, [face.path for face in faces], follow=config.follow)
        gone = [face.path for face, out in zip(faces, absent, strict=True) if out]
        refuse_missing(named.root, gone, len(faces))
    folder = crops_folder(config.crops)
    margin = config.crop_margin
    moved, bad = store_crops(named.root, faces, folder, margin, named.name)
    if not config.skip_bad:
        refuse_bad_crops(faces, bad)
    kept = [face for place, face in enumerate(moved) if place not in bad]
    dropped = {**named.dropped, **({"face that cannot be cut out": len(bad)} if bad else {})}
    told = f"the marked faces are cut out with {100 * margin:g} % added on each side, and kept as files"
    notices = (*named.notices, told)
    return replace(named, root=folder, faces=kept, dropped=dropped, notices=notices)


def _size_notice(known: KnownSet, listed: int) -> list[str]:
    if known.published in (None, listed):
        return []
    return [f"{listed:,} images are listed here; the published set has {known.published:,}"]


def read_named(config: AgeDataConfig, missing: str) -> TaskData:
    """Read a published set by its name, as its table would be read, with the columns that it has."""
    named = find_named(config, missing)
    groups = known_set(str(config.name)).groups
    return read_faces(named, config, missing, groups)


def read_faces(
    named: NamedFaces,
    config: AgeDataConfig,
    missing: str,
    groups: str | None = None,
    fold_column: str | None = None,
) -> TaskData:
    """Return the faces of a set in the configured age groups; `groups` are the set's own, if it has any."""
    table = named.table()
    chosen = config.groups if groups is None or config.groups != ADIENCE_GROUPS else groups
    subject = config.subject_column if config.subject_column != "none" else None
    if subject == "subject" and subject not in table.header:
        subject = None
    reading = read_age_table(
        table,
        root=named.root,
        groups=AgeGroups.parse(chosen),
        path_column="path",
        age_column=config.age_column,
        group_column=config.group_column or ("group" if "group" in table.header else None),
        subject_column=subject,
        user_column=config.user_column,
        gender_column=config.gender_column or ("gender" if "gender" in table.header else None),
        fold_column=fold_column or config.fold_column,
        missing=missing,  # type: ignore[arg-type]
        follow=config.follow,
    )
    report = reading.report.to_dict()
    report["notices"] = [*told_of(named), *report["notices"]]
    return TaskData(reading.manifest, TABLE_POLICY, {**report, **named.counts()})


def told_of(named: NamedFaces) -> list[str]:
    """Return what is to be known of a set: its terms, its faults, and what was dropped."""
    dropped = [f"{named.title}: {count} dropped: {reason}" for reason, count in named.dropped.items()]
    terms = f"{named.title}, terms of use: {named.terms}. {CHECK_TERMS}"
    return [terms, *(f"{named.title}: {told}" for told in named.notices), *dropped]


def tell_named(named: NamedFaces) -> None:
    """Print what is to be known of a set."""
    for told in told_of(named):
        say(f"note: {told}")


def counted(faces: Sequence[KnownFace]) -> dict[str, Any]:
    """Return the counts of a set: faces, people, youngest, oldest and mean age, under 18, and by column."""
    ages = np.array([float(face.age) for face in faces if face.age])
    people = {face.subject for face in faces} - {""}
    result: dict[str, Any] = {"images": len(faces), "people": len(people) or None}
    if len(ages):
        result |= {"youngest": float(ages.min()), "oldest": float(ages.max())}
        result |= {"mean_age": round(float(ages.mean()), 2), "under_18": int((ages < 18).sum())}
    for column in ("group", "gender", "race", "split"):
        values = Counter(getattr(face, column) for face in faces)
        if set(values) != {""}:
            result[column] = dict(sorted((value or "not known", count) for value, count in values.items()))
    return result
