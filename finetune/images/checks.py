"""A table's files: which are there, which a link leads out of the root, which hold equal bytes; classes."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from finetune.cli.console import say, table
from finetune.cli.machine import core_count
from finetune.errors import DataError, UsageError, listing
from finetune.images.cache.digests import UNREADABLE, hash_files
from finetune.images.cells import near_notice
from finetune.images.endings import is_picture, is_seen
from finetune.images.manifest import Manifest
from finetune.images.names import check_class_names

FIRST_CONFLICTS = 5
UNLISTED_NAMED = 3
MOST_NAMED, END_NAMED = 30, 10  # classes that are printed one by one, and of more classes at either end
NEARLY_ALL = 0.9  # of the listed images
MissingRule = Literal["error", "count", "drop"]
DIGEST_BYTES = 6  # of a SHA-256: two of a million images are alike by chance once in five hundred data sets
MOST_DIGESTS = 200_000  # that a file carries: 1.6 MB of text


class Told(Protocol):
    """Values by name: counts of a reader, a table of images, predictions."""

    def __contains__(self, name: object, /) -> bool: ...

    def __getitem__(self, name: str, /) -> Any: ...


def subjects_known(told: Told) -> bool:
    """Return whether it is known which subject each image shows; where not, none is counted anywhere.

    Args:
        told: what a reader counted, as run.json keeps it (`subjects_known`, which data that must have
            subjects leave out); or columns `path` and `subject` of images, where each that shows nobody known
            has its path for a subject.

    >>> subjects_known({"images": 7}), subjects_known({"subjects_known": False})
    (True, False)
    """
    if "subject" not in told:
        return "subjects_known" not in told or told["subjects_known"] is not False
    subject, path = told["subject"], told["path"]
    return not len(path) or bool((subject != path).any())


def known_count(values: np.ndarray, *, known: bool) -> int | None:
    """Return how many different values there are; None where they are not known."""
    return len(np.unique(values)) if known else None


def check_missing_rule(rule: str) -> None:
    """Raise UsageError, listing the choices, unless `rule` says what to do about missing images."""
    if rule not in get_args(MissingRule):
        raise UsageError(f"missing={rule!r} is not known; choose one of {', '.join(get_args(MissingRule))}")


def missing_files(root: Path, paths: Iterable[str], *, follow: bool = False) -> np.ndarray:
    """Return a mask, bool (N,), of the relative `paths` that are no file under `root`.

    A name too long for the file system, a dangling link and a link that points at itself count as missing.
    Unless `follow` is true, raises DataError listing the files that links lead out of `root`. The root itself
    may be a link: whoever names it has said where the data lie.
    """
    real_root = os.path.realpath(root)
    listed = list(paths)
    missing = np.zeros(len(listed), dtype=bool)
    real_folders: dict[str, str] = {}
    outside: list[str] = []
    for row, path in enumerate(listed):
        file = os.path.join(real_root, path)  # noqa: PTH118  (thousands of files: strings are ten times faster)
        is_link, missing[row] = _link_and_missing(file)
        if missing[row] or follow:
            continue
        folder, _ = os.path.split(file)
        if folder not in real_folders:
            real_folders[folder] = os.path.realpath(folder)
        target = os.path.realpath(file) if is_link else real_folders[folder]
        if target != real_root and not target.startswith(real_root.rstrip(os.sep) + os.sep):
            outside.append(f"{path} -> {target}")
    if outside:
        raise DataError(
            f"{len(outside)} images lie outside the data root {root} through links; copy them in, "
            f"or allow it with --data.follow true:\n{listing(outside)}"
        )
    return missing


def _link_and_missing(file: str) -> tuple[bool, bool]:
    """Return whether a file is a link, and whether no file is there; a file itself is looked at once."""
    try:
        mode = os.lstat(file).st_mode
    except (OSError, ValueError):
        return False, True
    is_link = stat.S_ISLNK(mode)
    return is_link, not (os.path.isfile(file) if is_link else stat.S_ISREG(mode))  # noqa: PTH113


def missing_text(root: Path, first: Iterable[str], count: int, total: int) -> str:
    """Return what is said of `count` of `total` listed images that are not there; `first` are named.

    Where nine of ten are not there, the root is probably another folder; where all are, none can be left out.
    """
    lines = list(first)
    more = [f"... and {count - len(lines)} more"] if len(lines) < min(count, 10) else []
    ways = ["put them there", "train without them by saying --data.missing drop (the report counts them)"]
    if count >= NEARLY_ALL * total:
        ways = ["name the folder that the listed paths start from by --data.root FOLDER", *ways]
    ways = ways[:-1] if count == total else ways
    told = f"{', '.join(ways[:-1])}, or {ways[-1]}"
    return f"{count} of {total} listed images are not under {root}; {told}:\n{listing([*lines, *more])}"


def refuse_missing(root: Path, paths: Iterable[str], total: int) -> None:
    """Raise DataError listing `paths`, the images of a table of `total` rows that are not there."""
    absent = list(paths)
    if absent:
        raise DataError(missing_text(root, absent, len(absent), total))


def unlisted_notices(root: Path, paths: Iterable[str]) -> list[str]:
    """Return a sentence on images that lie beside listed ones and that no row lists; none for none.

    Looked into are the folders of the listed images and those next to them, below the root.
    """
    listed: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        folder, _, name = path.rpartition("/")
        listed[folder].add(name)
    around = {folder.rpartition("/")[0] for folder in listed} - {""}
    beside = [f"{above}/{name}" for above in sorted(around) for name in _listed_names(root / above)]
    places = dict.fromkeys([*listed, *(place for place in beside if os.path.isdir(root / place))])  # noqa: PTH112
    left = [
        f"{folder}/{name}".lstrip("/")
        for folder in places
        for name in _listed_names(root / folder)
        if is_picture(name) and name not in listed.get(folder, ())
    ]
    if not left:
        return []
    first = f"{', '.join(left[:UNLISTED_NAMED])}{', ...' if len(left) > UNLISTED_NAMED else ''}"
    return [f"{len(left)} images beside the listed ones are in no list and are not used: {first}"]


def _listed_names(folder: Path) -> list[str]:
    """Return the names in a folder that are not hidden; none where it cannot be listed."""
    try:
        return sorted(filter(is_seen, os.listdir(folder)))  # noqa: PTH208
    except OSError:
        return []


def label_conflicts(manifest: Manifest, groups: Iterable[Sequence[int]]) -> dict[str, Any]:
    """Return how many sets of files with equal bytes there are, and how many of them carry different labels.

    Args:
        manifest: the table; its ages are compared where it has any.
        groups: the rows of each set, as `equal_files` yields them.

    Returns:
        sets, classes (sets under two classes or more), ages (sets of one class under two ages or more),
        subjects (sets under two subjects or more, where these are known), and first (up to five sets that
        differ in class or age, a list of texts "path: class").
    """
    age = manifest["age"] if "age" in manifest else np.full(len(manifest), np.nan)
    person = manifest.columns.get("subject") if subjects_known(manifest) else None
    counts = {"sets": 0, "classes": 0, "ages": 0, "subjects": 0}
    first: list[list[str]] = []
    for rows in groups:
        counts["sets"] += 1
        classes = len({int(manifest.label[row]) for row in rows}) > 1
        ages = len({float(age[row]) for row in rows if np.isfinite(age[row])}) > 1
        counts["classes"] += classes
        counts["ages"] += ages and not classes
        counts["subjects"] += person is not None and len({str(person[row]) for row in rows}) > 1
        if (classes or ages) and len(first) < FIRST_CONFLICTS:
            first.append([_labelled(manifest, row, float(age[row])) for row in rows])
    return {**counts, "first": first}


def _labelled(manifest: Manifest, row: int, age: float) -> str:
    years = f", {age:g} years" if np.isfinite(age) else ""
    return f"{manifest['path'][row]}: {manifest.class_names[manifest.label[row]]}{years}"


def equal_files(manifest: Manifest) -> Iterator[list[int]]:
    """Yield the rows of each set of files with equal bytes; only files of equal size are read, if unknown.

    Raises DataError when a listed file cannot be read.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    by_content: dict[str, list[int]] = defaultdict(list)
    files = manifest.files()
    try:
        for row, file in enumerate(files):
            by_size[os.stat(file).st_size].append(row)  # noqa: PTH116
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from None
    alike = [row for rows in by_size.values() if len(rows) > 1 for row in rows]
    digests = hash_files([files[row] for row in alike], core_count(), manifest.root)
    for row, digest in zip(alike, digests, strict=True):
        if digest.startswith(UNREADABLE):
            raise DataError(f"{files[row]} cannot be read: {digest.removeprefix(UNREADABLE)}")
        by_content[digest].append(row)
    yield from (rows for rows in by_content.values() if len(rows) > 1)


def pack_digests(hashes: Iterable[str]) -> str:
    """Return the first six bytes of SHA-256 digests (hexadecimal) as one text; empty for none or too many.

    >>> pack_digests(["00" * 32, "ff" * 32, ""])
    'AAAAAAAA________'
    """
    short = sorted({name[: 2 * DIGEST_BYTES] for name in hashes if name})
    if len(short) > MOST_DIGESTS:
        return ""
    return base64.urlsafe_b64encode(bytes.fromhex("".join(short))).decode()


def unpack_digests(text: object) -> frozenset[str]:
    """Return the shortened digests that `pack_digests` wrote; none for anything else.

    >>> sorted(unpack_digests("AAAAAAAA________")), unpack_digests(5)
    (['000000000000', 'ffffffffffff'], frozenset())
    """
    if not isinstance(text, str):
        return frozenset()
    try:
        whole = base64.b64decode(text, altchars=b"-_", validate=True).hex()
    except (binascii.Error, ValueError):
        return frozenset()
    step = 2 * DIGEST_BYTES
    return frozenset(whole[start : start + step] for start in range(0, len(whole), step))


def among_digests(hashes: Iterable[str], known: frozenset[str]) -> np.ndarray:
    """Return which digests (hexadecimal) are among the shortened ones, bool (N,)."""
    return np.array([bool(name) and name[: 2 * DIGEST_BYTES] in known for name in hashes], dtype=bool)


def content_hashes(manifest: Manifest) -> np.ndarray:
    """Return the SHA-256 of every row's file, hexadecimal; empty where it cannot be read."""
    found = hash_files(manifest.files(), core_count(), manifest.root)
    return np.array(["" if name.startswith(UNREADABLE) else name for name in found], dtype=str)


def tell_class_names(names: Sequence[str]) -> None:
    """Refuse class names that no exported model could carry (DataError), and say which are almost one."""
    check_class_names(names)
    for notice in near_notice("classes", names):
        say(f"note: {notice}")


def tell_classes(names: Sequence[str], parts: Mapping[str, np.ndarray]) -> None:
    """Print each class with its images in each part; of more than 30 classes the first and last ten.

    `parts` maps a part's name to the zero-based classes of its images, int64 (N,).
    """
    used = {part: np.bincount(label, minlength=len(names)) for part, label in parts.items() if len(label)}
    rows = [[name, *(int(count[place]) for count in used.values())] for place, name in enumerate(names)]
    if len(rows) > MOST_NAMED:
        left = len(rows) - 2 * END_NAMED
        rows = [*rows[:END_NAMED], [f"... {left} more ...", *[""] * len(used)], *rows[-END_NAMED:]]
    table("classes", ["class", *used], rows)
