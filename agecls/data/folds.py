"""Train, validation and test parts of a cross-validation in which no subject is in two of them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from agecls.data.stratify import stratified_groups
from finetune.errors import DataError, UsageError, listing
from finetune.experiments.records.splits import PARTS, Split
from finetune.experiments.same_content import TOGETHER, refuse_separated
from finetune.images.manifest import Manifest
from finetune.runs.csv_file import CsvWriter, read_csv
from finetune.runs.parse import parse_json

Protocol = Literal["fixed", "grouped", "rotate"]
VALIDATION_SHARES = 8  # "grouped" holds out one of eight groups of albums
EXPORTED_COLUMNS = ("path", "label", "class_name", "subject", "user", "source_id")


def make_splits(
    manifest: Manifest,
    protocol: Protocol = "fixed",
    seed: int = 0,
    n_folds: int = 5,
    *,
    allow_subject_overlap: bool = False,
) -> list[Split]:
    """Return one split per fold; every image is tested exactly once.

    "fixed" trains on all other folds and validates on nothing. "grouped" takes the first of eight stratified
    groups of albums (`user`, else `subject`) out of the training folds for validation. "rotate" validates on
    the fold before the test fold and trains on the rest. The folds are the manifest's own; only a manifest
    without any is given `n_folds` by `assign_folds` with `seed`.

    Raises DataError, listing the offenders, when a path, a subject or a user is in two parts of a split
    (subjects may with `allow_subject_overlap`), when a training part holds fewer than two classes, or when
    there are too few folds or albums; UsageError for an unknown protocol.
    """
    if protocol not in get_args(Protocol):
        raise UsageError(f"protocol {protocol!r} is not known; choose one of {', '.join(get_args(Protocol))}")
    fold = official_folds(manifest)
    if fold is None:
        fold = assign_folds(manifest, n_folds, seed)
    folds = np.unique(fold).tolist()
    needed = 3 if protocol == "rotate" else 2
    if len(folds) < needed:
        raise DataError(
            f"protocol {protocol} needs at least {needed} folds with images; there is only fold {folds}"
        )
    splits = []
    for place, test_fold in enumerate(folds):
        test, rest = np.flatnonzero(fold == test_fold), np.flatnonzero(fold != test_fold)
        val = np.array([], dtype=np.int64)
        if protocol == "grouped":
            val = _first_group(manifest, rest)
        elif protocol == "rotate":
            val = np.flatnonzero(fold == folds[place - 1])
        splits.append(Split(np.setdiff1d(rest, val), val, test, protocol, test_fold))
    check_splits(splits, manifest, allow_subject_overlap=allow_subject_overlap)
    return splits


def official_folds(manifest: Manifest) -> np.ndarray | None:
    """Return the manifest's fold column, or None when it has none (no column, or -1 throughout)."""
    if "fold" not in manifest or bool((manifest["fold"] == -1).all()):
        return None
    bad = np.flatnonzero(manifest["fold"] < 0)
    if len(bad):
        raise DataError(
            f"{len(bad)} of {len(manifest)} rows have no fold; give every row one, or none at all"
        )
    return manifest["fold"]


def assign_folds(manifest: Manifest, n_folds: int = 5, seed: int = 0) -> np.ndarray:
    """Return a fold 0 ... n_folds - 1 for each row, int64 (N,): whole albums, classes spread evenly.

    An album is the `user` column, else `subject`. The same subjects give the same folds in whatever order
    their rows come. Raises DataError when there are fewer albums than folds or no subject is known.
    """
    album = albums_of(manifest)
    people = len(np.unique(album))
    if n_folds < 2 or people < n_folds:
        raise DataError(
            f"{n_folds} folds need at least two folds and as many subjects; there are {people} subjects"
        )
    fold = np.full(len(manifest), -1, dtype=np.int64)
    for number, rows in enumerate(_stratified(manifest, np.arange(len(manifest)), n_folds, seed)):
        fold[rows] = number
    return fold


def albums_of(manifest: Manifest) -> np.ndarray:
    """Return what stays in one part, (N,): sets of equal images where these are held together, else albums.

    An album is the `user` column, else `subject`. Raises DataError when no subject is known.
    """
    for column in (TOGETHER, "user", "subject"):
        if column in manifest:
            return manifest[column]
    raise DataError("the table knows neither user nor subject: folds cannot keep a subject in one part")


def _first_group(manifest: Manifest, rows: np.ndarray) -> np.ndarray:
    shares = min(VALIDATION_SHARES, len(np.unique(albums_of(manifest)[rows])))
    if shares < 2:
        raise DataError("protocol grouped needs two albums in the training folds; there is one")
    return _stratified(manifest, rows, shares, None)[0]


def _stratified(manifest: Manifest, rows: np.ndarray, shares: int, seed: int | None) -> list[np.ndarray]:
    """Return `shares` sorted parts of `rows`, albums whole; without a seed, nothing is shuffled."""
    # Sorted, so that the order of the table's rows plays no part.
    rows = rows[np.lexsort((manifest["path"][rows], albums_of(manifest)[rows]))]
    label, album = manifest.label[rows], albums_of(manifest)[rows]
    largest = int(np.bincount(label).max())
    if largest < shares:
        raise DataError(
            f"{shares} parts cannot be stratified: the largest class has {largest} images; ask for "
            "fewer folds (--data.n_folds), or give more images"
        )
    part = stratified_groups(label, album, shares, seed)
    parts = [rows[part == number] for number in range(shares)]
    return [np.sort(part) for part in _none_empty(parts, albums_of(manifest))]


def _none_empty(parts: list[np.ndarray], albums: np.ndarray) -> list[np.ndarray]:
    """Return the parts with an album in each: one that got none takes the smallest of the fullest part.

    The greedy rule can leave a part empty although there are enough albums. The fullest part is
    the one with the most albums; ties are broken by images, then by place and by the album's name.
    """
    parts = list(parts)
    for empty in [place for place, part in enumerate(parts) if not len(part)]:
        sizes = [(len(np.unique(albums[part])), len(part), -place) for place, part in enumerate(parts)]
        fullest = -max(sizes)[2]
        names, counts = np.unique(albums[parts[fullest]], return_counts=True)
        moved = albums[parts[fullest]] == names[np.argmin(counts)]
        parts[empty], parts[fullest] = parts[fullest][moved], parts[fullest][~moved]
    return parts


def check_splits(splits: Sequence[Split], manifest: Manifest, *, allow_subject_overlap: bool = False) -> None:
    """Raise DataError, listing offenders, unless the splits keep every promise of `make_splits`."""
    tested = np.concatenate([split.test for split in splits])
    times = np.bincount(tested, minlength=len(manifest))
    wrong = [f"{manifest['path'][row]}: {times[row]} times" for row in np.flatnonzero(times != 1)]
    if wrong:
        raise DataError(f"{len(wrong)} images are not tested exactly once:\n{listing(wrong)}")
    check_parts(splits, manifest, allow_subject_overlap=allow_subject_overlap)


def check_parts(splits: Sequence[Split], manifest: Manifest, *, allow_subject_overlap: bool = False) -> None:
    """Raise DataError, listing offenders, where a split shares something between its parts.

    No path, subject or user may be in two of them (subjects and users may with `allow_subject_overlap`), and
    a training part needs two classes.
    """
    refuse_separated(manifest, splits)
    columns = ["path"] if allow_subject_overlap else ["path", "subject", "user"]
    offenders = [text for name in columns if name in manifest for text in _overlaps(splits, manifest, name)]
    if offenders:
        raise DataError(
            f"{len(offenders)} leaks between the parts of a split:\n{listing(offenders)}\n"
            "give each subject one fold (--data.allow_subject_overlap true permits shared subjects, never "
            "shared files)"
        )
    for split in splits:
        counts = np.bincount(manifest.label[split.train], minlength=manifest.num_classes)
        if np.count_nonzero(counts) < 2:
            table = ", ".join(f"{name}: {n}" for name, n in zip(manifest.class_names, counts, strict=True))
            raise DataError(f"fold {split.fold}: training needs images of two classes, found {table}")


def _overlaps(splits: Sequence[Split], manifest: Manifest, column: str) -> Iterator[str]:
    values, code = np.unique(manifest[column], return_inverse=True)
    for split in splits:
        sides = np.zeros((len(PARTS), len(values)), dtype=bool)
        for side, (_, rows) in enumerate(split.parts()):
            sides[side, code[rows]] = True
        for index in np.flatnonzero(sides.sum(axis=0) > 1):
            where = " and ".join(part for part, there in zip(PARTS, sides[:, index], strict=True) if there)
            yield f"{column} {values[index]} is in {where} of fold {split.fold}"


def shared_people(splits: Sequence[Split], manifest: Manifest) -> int:
    """Return how many subjects are tested by a model that learned or was chosen on them: 0 when exclusive."""
    if "subject" not in manifest:
        return 0
    shared: set[str] = set()
    for split in splits:
        learned = manifest["subject"][np.concatenate([split.train, split.val])]
        shared |= set(np.intersect1d(learned, manifest["subject"][split.test]).tolist())
    return len(shared)


def missing_classes(splits: Sequence[Split], manifest: Manifest) -> list[str]:
    """Return a line for each class that a part lacks; class indices stay as they are all the same."""
    return [
        f"fold {split.fold}: no {manifest.class_names[index]} in {part}"
        for split in splits
        for part, rows in split.parts()
        if len(rows)
        for index in np.flatnonzero(np.bincount(manifest.label[rows], minlength=manifest.num_classes) == 0)
    ]


def split_hash(splits: Sequence[Split], manifest: Manifest) -> str:
    """Return the SHA-256 of which file is in which part of which fold; the order of rows plays no part."""
    digest = hashlib.sha256()
    for split in sorted(splits, key=lambda split: split.fold):
        for part, rows in split.parts():
            paths = sorted(manifest["path"][rows].tolist())
            digest.update(json.dumps([split.fold, part, paths]).encode())
    return digest.hexdigest()


def export_splits(splits: Sequence[Split], manifest: Manifest, folder: Path) -> None:
    """Write `fold_<k>/train.csv`, `val.csv` and `test.csv`, and `splits.json` beside them.

    Paths are relative to the data root. Raises UsageError when the folder exists and is not empty.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} exists and is not empty; choose a new folder for the split lists")
    for split in splits:
        (folder / f"fold_{split.fold}").mkdir(parents=True)
        for part, rows in split.parts():
            _write_part(folder / f"fold_{split.fold}" / f"{part}.csv", manifest, rows)
    summary = {
        "protocol": splits[0].protocol,
        "folds": [split.fold for split in splits],
        "split": split_hash(splits, manifest),
        "manifest": manifest.fingerprint,
        "class_names": list(manifest.class_names),
    }
    (folder / "splits.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _write_part(file: Path, manifest: Manifest, rows: np.ndarray) -> None:
    names = np.array(manifest.class_names)[manifest.label[rows]]
    columns = {name: manifest[name][rows] for name in EXPORTED_COLUMNS if name in manifest}
    columns = {"path": columns.pop("path"), "label": columns.pop("label"), "class_name": names, **columns}
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = CsvWriter(stream, "\r\n")
        writer.row(columns)
        writer.rows(sorted(zip(*(values.tolist() for values in columns.values()), strict=True)))


def verify_splits(
    folder: Path,
    manifest: Manifest,
    *,
    allow_subject_overlap: bool = False,
    check: Callable[..., None] = check_splits,
) -> list[Split]:
    """Read exported lists back against a manifest and check every promise again; return the splits.

    Raises DataError when a listed file or its class is not the manifest's, when the lists no longer hash to
    what `splits.json` says, or when `check` objects.
    """
    folder = Path(folder)
    try:
        summary = parse_json((folder / "splits.json").read_text(encoding="utf-8"))
        splits = [_read_split(folder, fold, summary["protocol"], manifest) for fold in summary["folds"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} does not hold whole split lists: {error}") from None
    found = split_hash(splits, manifest)
    if found != summary["split"]:
        raise DataError(f"the lists in {folder} were changed: split {found}, recorded {summary['split']}")
    check(splits, manifest, allow_subject_overlap=allow_subject_overlap)
    return splits


def _read_split(folder: Path, fold: int, protocol: str, manifest: Manifest) -> Split:
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(manifest["path"].tolist()):
        rows_of[path].append(row)
    parts: list[np.ndarray] = []
    strangers: list[str] = []
    for part in PARTS:
        rows: list[int] = []
        file = folder / f"fold_{fold}" / f"{part}.csv"
        with file.open(newline="", encoding="utf-8-sig") as stream:
            lines = read_csv(stream)
            header = next(lines)
            for record in (dict(zip(header, cells, strict=False)) for cells in lines):
                known = rows_of[record["path"]]
                if known and manifest.class_names[manifest.label[known[0]]] == record["class_name"]:
                    rows.append(known.pop(0))
                else:
                    strangers.append(
                        f"{file.parent.name}/{file.name}: {record['path']} as {record['class_name']}"
                    )
        parts.append(np.array(sorted(rows), dtype=np.int64))
    if strangers:
        raise DataError(f"{len(strangers)} lines do not fit the data set:\n{listing(strangers)}")
    return Split(parts[0], parts[1], parts[2], protocol, fold)
