"""Read Adience: fold files in either edition, a named label policy, and a report of every row's fate."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from agecls.data.fold_files import (
    FOLD_COUNT,
    GENDERS,
    FoldRow,
    find_fold_files,
    other_fold_files,
    read_fold_file,
)
from agecls.data.groups import ADIENCE_GROUPS, TYPO_AGE, LabelPolicy, label_policy
from finetune.errors import DataError, UsageError, listing
from finetune.images.cells import SpelledPaths, near_notice, same_identities, spelling_notice
from finetune.images.checks import (
    MissingRule,
    check_missing_rule,
    missing_files,
    refuse_missing,
    unlisted_notices,
)
from finetune.images.manifest import Manifest

Layout = Literal["auto", "aligned", "faces", "none"]
PREFIXES = {"aligned": "landmark_aligned_face", "faces": "coarse_tilt_aligned_face"}
EDITIONS: dict[tuple[int, ...], str] = {
    (4496, 3745, 3953, 3459, 3834): "older",
    (4484, 3730, 3894, 3446, 3816): "current",
}


@dataclass(frozen=True)
class AdienceReport:
    """What was read and what became of it; `to_dict` is what `crl age verify --json` prints.

    Counts are of images in the manifest unless said otherwise: `rows_per_fold` and `strings[...]["rows"]`
    count lines of the fold files, `duplicates` the lines that repeat an earlier one (kept or not), `dropped`
    the rows without a group per raw string. `missing_images` is None when no image folder was looked into;
    under missing="drop" the missing ones are no part of the other counts. `fold_files` maps each file to its
    SHA-256.
    """

    images: int
    per_fold: list[int]
    edition: str
    policy: str
    layout: str
    subjects: int
    users: int
    class_names: list[str]
    per_group: list[int]
    fold_by_group: list[list[int]]
    subjects_per_group: list[int]
    users_per_group: list[int]
    gender_by_group: dict[str, list[int]]
    frontal_per_fold: list[int]
    rows_per_fold: list[int]
    duplicates: int
    typo_repaired: int
    strings: dict[str, dict[str, Any]]
    dropped: dict[str, int]
    missing_images: int | None
    missing_per_fold: list[int]
    missing_first: list[str]
    missing_rule: str
    fold_files: dict[str, str]
    notices: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain numbers, strings, lists and dictionaries."""
        return asdict(self)


@dataclass(frozen=True)
class AdienceReading:
    """The table of images and the report on how it came to be."""

    manifest: Manifest
    report: AdienceReport


def read_adience(
    root: Path,
    *,
    policy: str = "core8",
    layout: Layout = "auto",
    folds_dir: Path | None = None,
    missing: MissingRule = "error",
    follow: bool = False,
) -> AdienceReading:
    """Read the fold files of Adience into a manifest with the official five folds.

    `root` holds `aligned/` or `faces/`; the fold files lie in it, in one of these two, or in `folds_dir`.
    `policy` names the rule from raw age strings to groups (`agecls.data.groups.POLICIES`). `layout` says
    which images: "auto" takes aligned where there is such a folder, else faces; "none" reads the lists
    alone and looks for no image. `missing` decides about images that are listed but not there: "error"
    refuses, "count" keeps their rows and reports them, "drop" takes the rows out and reports them. `follow`
    allows links that lead out of the image folder.

    The manifest's columns are path, label, fold, subject (face_id), user (user_id), gender (m, f, u or
    empty), age (nan: Adience knows groups only), yaw (degrees; 0 is frontal) and source_id (file and line).

    Raises DataError for missing or malformed fold files, a face with two ages, or missing images; UsageError
    for an unknown policy, layout or rule.
    """
    rule = label_policy(policy)
    check_missing_rule(missing)
    root = Path(root)
    files = find_fold_files(root, folds_dir)
    listed = [row for fold, file in enumerate(files) for row in read_fold_file(file, fold)]
    _check_one_age_per_face(listed, rule)
    unique = _without_duplicates(listed)
    selected = [
        row for row in (listed if rule.keeps_duplicates else unique) if rule.repaired(row.age) in rule.groups
    ]
    folder, notices = _image_folder(root, layout, missing)
    spelled = SpelledPaths(root)
    paths = [spelled.find(_image_path(folder, row)) for row in selected]
    absent = _find_absent(root, folder, paths, follow)
    if missing == "error":
        refuse_missing(root, _where(paths, absent), len(paths))
    kept = ~absent if missing == "drop" else np.ones(len(selected), dtype=bool)
    used = [row for row, there in zip(selected, kept, strict=True) if there]
    if not used:
        raise DataError(
            f"no image is left under policy {rule.name}: {len(listed)} rows, none usable in {root}"
        )
    manifest, spellings = _manifest(root, _where(paths, kept), used, rule)
    every = [spelled.find(_image_path(folder, row)) for row in listed]
    beside = [] if folder == "none" else unlisted_notices(root, every)
    sources = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    report = AdienceReport(
        **manifest_counts(manifest),
        **_row_counts(listed, unique, rule),
        policy=rule.name,
        layout=folder,
        missing_images=None if folder == "none" else int(absent.sum()),
        missing_per_fold=_per_fold([row for row, gone in zip(selected, absent, strict=True) if gone]),
        missing_first=_where(paths, absent)[:5],
        missing_rule=missing,
        fold_files=sources,
        notices=[*notices, *other_fold_files(root, files), *spellings, *beside],
    )
    return AdienceReading(manifest, report)


def _image_folder(root: Path, layout: str, missing: str) -> tuple[str, list[str]]:
    """Return the folder of images to use ("none" for no look at images) and what to report about it."""
    if layout not in get_args(Layout):
        raise UsageError(f"layout={layout!r} is not known; choose one of {', '.join(get_args(Layout))}")
    if layout != "auto":
        return layout, []
    present = [name for name in PREFIXES if (root / name).is_dir()]
    if present:
        note = f"both {' and '.join(present)} are there; {present[0]} is used (choose with --data.layout)"
        return present[0], [note] if len(present) > 1 else []
    if missing == "count":
        return "none", [f"no folder aligned or faces in {root}: the lists were read, no image was looked for"]
    raise DataError(
        f"{root} holds neither aligned/ nor faces/; unpack one of Adience's two archives there, or read the "
        "lists alone with crl age verify"
    )


def _image_path(folder: str, row: FoldRow) -> str:
    layout = "aligned" if folder == "none" else folder
    return f"{layout}/{row.user}/{PREFIXES[layout]}.{row.face}.{row.image}"


def _find_absent(root: Path, folder: str, paths: Sequence[str], follow: bool) -> np.ndarray:
    if folder == "none":
        return np.zeros(len(paths), dtype=bool)
    inside = [path.removeprefix(f"{folder}/") for path in paths]
    return missing_files(root / folder, inside, follow=follow)


def _where(paths: Sequence[str], mask: np.ndarray) -> list[str]:
    return [paths[row] for row in np.flatnonzero(mask).tolist()]


def _check_one_age_per_face(rows: Sequence[FoldRow], rule: LabelPolicy) -> None:
    first: dict[tuple[str, str, str], FoldRow] = {}
    clash = []
    for row in rows:
        before = first.setdefault((row.user, row.image, row.face), row)
        if rule.repaired(before.age) != rule.repaired(row.age):
            clash.append(f"{before.source} says {before.age}, {row.source} says {row.age}")
    if clash:
        raise DataError(f"{len(clash)} rows give a face of one photo a second age:\n{listing(clash)}")


def _without_duplicates(rows: Sequence[FoldRow]) -> list[FoldRow]:
    """Keep the first row of each face of each photo; a face in two folds stays, for the split to refuse."""
    first: dict[tuple[int, str, str, str], FoldRow] = {}
    for row in rows:
        first.setdefault((row.fold, row.user, row.image, row.face), row)
    return list(first.values())


def _manifest(
    root: Path, paths: Sequence[str], rows: Sequence[FoldRow], rule: LabelPolicy
) -> tuple[Manifest, list[str]]:
    """Return the table, and sentences on subjects and users that are written in several ways."""
    subjects, spelled_subjects = same_identities([row.face for row in rows])
    users, spelled_users = same_identities([row.user for row in rows])
    columns = {
        "path": np.array(paths),
        "label": np.array([rule.groups[rule.repaired(row.age)] for row in rows]),
        "fold": np.array([row.fold for row in rows]),
        "subject": np.array(subjects),
        "user": np.array(users),
        "gender": np.array([row.gender for row in rows]),
        "age": np.full(len(rows), np.nan),
        "yaw": np.array([row.yaw for row in rows]),
        "source_id": np.array([row.source for row in rows]),
    }
    told = [*spelling_notice("subjects", spelled_subjects), *spelling_notice("users", spelled_users)]
    told += [*near_notice("subjects", subjects), *near_notice("users", users)]
    return Manifest(root, ADIENCE_GROUPS.names, columns), told


def manifest_counts(manifest: Manifest) -> dict[str, Any]:
    """Return the counts of a report that go by images of the manifest."""
    groups = range(manifest.num_classes)
    table = np.zeros((FOLD_COUNT, manifest.num_classes), dtype=int)
    np.add.at(table, (manifest["fold"], manifest.label), 1)
    by_gender = {
        gender: np.bincount(manifest.label[manifest["gender"] == gender], minlength=len(groups)).tolist()
        for gender in GENDERS
    }
    return {
        "images": len(manifest),
        "per_fold": table.sum(axis=1).tolist(),
        "class_names": list(manifest.class_names),
        "per_group": table.sum(axis=0).tolist(),
        "fold_by_group": table.tolist(),
        "subjects": len(set(manifest["subject"].tolist())),
        "users": len(set(manifest["user"].tolist())),
        "subjects_per_group": [len(set(manifest["subject"][manifest.label == k].tolist())) for k in groups],
        "users_per_group": [len(set(manifest["user"][manifest.label == k].tolist())) for k in groups],
        "gender_by_group": by_gender,
        "frontal_per_fold": np.bincount(
            manifest["fold"][manifest["yaw"].astype(int) == 0], minlength=FOLD_COUNT
        ).tolist(),
    }


def _row_counts(listed: Sequence[FoldRow], unique: Sequence[FoldRow], rule: LabelPolicy) -> dict[str, Any]:
    rows, once = Counter(row.age for row in listed), Counter(row.age for row in unique)
    kept = rows if rule.keeps_duplicates else once
    index = {age: rule.groups.get(rule.repaired(age)) for age in rows}
    group = {age: None if place is None else ADIENCE_GROUPS.names[place] for age, place in index.items()}
    rows_per_fold = _per_fold(listed)
    return {
        "edition": EDITIONS.get(tuple(rows_per_fold), "unknown"),
        "rows_per_fold": rows_per_fold,
        "duplicates": len(listed) - len(unique),
        "typo_repaired": kept[TYPO_AGE] if rule.repairs_typo else 0,
        "strings": {
            age: {"rows": count, "unique": once[age], "group": group[age]}
            for age, count in rows.most_common()
        },
        "dropped": {age: kept[age] for age, _ in rows.most_common() if group[age] is None},
    }


def _per_fold(rows: Sequence[FoldRow]) -> list[int]:
    counts = Counter(row.fold for row in rows)
    return [counts[fold] for fold in range(FOLD_COUNT)]
