"""What every reader shares: a listed image, the rules of reading, the official counts, the finished table."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finegrained.data.class_names import CARS, CUB, TITLES, class_table
from finetune.errors import DataError, listing
from finetune.images.checks import (
    MissingRule,
    check_missing_rule,
    missing_files,
    refuse_missing,
    unlisted_notices,
)
from finetune.images.class_names import normalised
from finetune.images.manifest import Manifest

SPLITS = ("train", "val", "test")
CUB_2010_IMAGES = 6033


class ListedImage(NamedTuple):
    """One line of a data set's lists.

    `path` is relative to the data root; `label` is zero-based in the reader's class list; `split` is train,
    val, test or empty (the set names no parts); `source` is the image's own id; `box` is x1, y1, x2, y2 in
    pixels, zero-based, the far edges not included; `parts` is JSON text (see `finegrained.data.cub`).
    """

    path: str
    label: int
    split: str
    source: str
    box: tuple[float, float, float, float] | None = None
    parts: str = ""


@dataclass(frozen=True)
class ReadingRules:
    """How strictly to read: see `finegrained.config.FineDataConfig`; missing="count" keeps and counts."""

    subset: bool = False
    metadata_only: bool = False
    missing: MissingRule = "error"
    follow: bool = False

    def __post_init__(self) -> None:
        check_missing_rule(self.missing)


@dataclass(frozen=True)
class FineReading:
    """The table of images, the layout it was read from, and the report on how it came to be.

    The manifest's columns: path, label (zero-based), class_name, split ("train", "val", "test", or empty
    throughout where the set names no parts), source_id; where known x1, y1, x2, y2 (pixels, zero-based, the
    far edges not included; nan where a row has none) and parts (JSON text, `finegrained.data.cub.parts_of`).
    """

    manifest: Manifest
    layout: str
    report: dict[str, Any]


@dataclass(frozen=True)
class Official:
    """The counts that a data set's authors published, and where the data come from."""

    table: str
    train: int
    test: int
    source: str

    @property
    def title(self) -> str:
        """The data set's name."""
        return TITLES[self.table]

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(class_table(self.table))


OFFICIAL_CUB = Official(
    CUB, 5994, 5794, "https://data.caltech.edu/records/65de6-vp158 (CUB_200_2011.tgz, CaltechDATA)"
)
OFFICIAL_CARS = Official(
    CARS,
    8144,
    8041,
    "its first host is gone; https://github.com/pytorch/vision/issues/7545 names copies of the images, the "
    "devkit and cars_test_annos_withlabels.mat",
)


def check_official(
    official: Official, rows: Sequence[ListedImage], classes: int, where: Path, *, subset: bool
) -> tuple[bool, list[str]]:
    """Return whether the lists are whole, and with `subset` a notice of what they hold.

    Raises DataError with the counts found and expected when the lists are not whole and `subset` is false;
    a list of 6,033 images is refused always, for what it is, the 2010 edition of CUB.
    """
    train, test = (sum(row.split == part for row in rows) for part in ("train", "test"))
    found = (len(rows), train, test, classes)
    whole = (official.train + official.test, official.train, official.test, official.classes)
    if found == whole:
        return True, []
    pairs = zip(found, whole, ("images", "train", "test", "classes"), strict=True)
    told = ", ".join(f"{here} of {all_} {what}" for here, all_, what in pairs)
    if official.table == CUB and len(rows) == CUB_2010_IMAGES:
        raise DataError(
            f"{where} lists {CUB_2010_IMAGES} images: that is CUB-200 of 2010, whose scores do not compare; "
            f"{official.title} has {whole[0]}. Where to get it: {official.source}"
        )
    if subset:
        return False, [f"a part of {official.title}: {told}; no published score is on this part"]
    raise DataError(
        f"{where} is not the whole of {official.title}, found {told}. Say --data.subset true to work on a "
        f"part. Where to get the whole: {official.source}"
    )


@dataclass(frozen=True)
class Lists:
    """What a reader found in a data set's lists, before any image is looked for.

    `whole` says that the lists are an official data set, complete; `data_set` is its title (or None); `files`
    are the lists that were read.
    """

    layout: str
    root: Path
    class_names: tuple[str, ...]
    rows: list[ListedImage]
    data_set: str | None = None
    whole: bool = False
    files: tuple[Path, ...] = ()
    notices: list[str] = field(default_factory=list)


def finish(lists: Lists, rules: ReadingRules) -> FineReading:
    """Look for the images as the rules say, and return the table and its report.

    Of a subset, classes without an image are left out. Raises DataError when images are missing (with
    missing="error"), when links lead out of the root, or when nothing is left.
    """
    paths = [row.path for row in lists.rows]
    _refuse_repeats(lists.root, paths)
    _refuse_same_names(lists)
    absent = np.zeros(len(paths), dtype=bool)
    if not rules.metadata_only:
        absent = missing_files(lists.root, paths, follow=rules.follow)
    gone = [path for path, out in zip(paths, absent, strict=True) if out]
    if rules.missing == "error":
        refuse_missing(lists.root, gone, len(paths))
    dropping = rules.missing == "drop"
    kept = [row for row, out in zip(lists.rows, absent, strict=True) if not (out and dropping)]
    if not kept:
        raise DataError(f"none of the {len(paths)} images listed in {lists.root} is there")
    names, kept, left_out = _classes_in_use(lists.class_names, kept, rules.subset)
    manifest = _manifest(lists.root, names, kept)
    beside = lists.layout != "folders" and not rules.metadata_only  # folders are listed whole, and say so
    notices = [*lists.notices, *left_out, *(unlisted_notices(lists.root, paths) if beside else [])]
    if gone and dropping and lists.whole:
        notices.append(f"{len(gone)} images are missing: no published score is on what is left")
    report = {
        **counts(manifest),
        "layout": lists.layout,
        "data_set": lists.data_set,
        "official": lists.whole and not (gone and dropping),
        "missing_images": None if rules.metadata_only else len(gone),
        "missing_first": gone[:5],
        "missing_rule": rules.missing,
        "metadata_only": rules.metadata_only,
        "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in lists.files},
        "class_names": list(names),
        "notices": notices,
    }
    return FineReading(manifest, lists.layout, report)


def _refuse_repeats(root: Path, paths: Sequence[str]) -> None:
    again = [path for path, times in Counter(paths).items() if times > 1]
    if again:
        raise DataError(f"{root}: {len(again)} files are listed more than once:\n{listing(again)}")


def _refuse_same_names(lists: Lists) -> None:
    """Raise DataError for two classes whose names are one in folders and in tables moved by name."""
    times = Counter(map(normalised, lists.class_names))
    same = sorted(name for name in lists.class_names if times[normalised(name)] > 1)
    if same:
        raise DataError(
            f"{lists.root}: classes are told apart by / and - or by blanks alone, which folders cannot; "
            f"rename them:\n{listing(same)}"
        )


def counts(manifest: Manifest) -> dict[str, Any]:
    """Return the number of images, of classes, and of images in each part and class (smallest to largest).

    "per_class" holds min, median and max of all images, "per_class_train" those of the training part where
    the set names parts.
    """
    split = manifest["split"]
    train = manifest.label[split == "train"]
    return {
        "images": len(manifest),
        "classes": manifest.num_classes,
        **{part: int((split == part).sum()) for part in SPLITS},
        "per_class": _spread(manifest.class_counts()),
        "per_class_train": _spread(np.bincount(train, minlength=manifest.num_classes))
        if len(train)
        else None,
    }


def _spread(per_class: np.ndarray) -> dict[str, float]:
    return {
        "min": int(per_class.min()),
        "median": float(np.median(per_class)),
        "max": int(per_class.max()),
    }


def _classes_in_use(
    names: Sequence[str], rows: list[ListedImage], subset: bool
) -> tuple[tuple[str, ...], list[ListedImage], list[str]]:
    used = sorted({row.label for row in rows})
    if not subset or len(used) == len(names):
        return tuple(names), rows, []
    place = {old: new for new, old in enumerate(used)}
    told = f"{len(names) - len(used)} of {len(names)} listed classes have no image here and are left out"
    return tuple(names[old] for old in used), [row._replace(label=place[row.label]) for row in rows], [told]


def _manifest(root: Path, names: tuple[str, ...], rows: Iterable[ListedImage]) -> Manifest:
    listed = list(rows)
    columns = {
        "path": np.array([row.path for row in listed]),
        "label": np.array([row.label for row in listed]),
        "class_name": np.array([names[row.label] for row in listed]),
        "split": np.array([row.split for row in listed]),
        "source_id": np.array([row.source for row in listed]),
    }
    if any(row.box for row in listed):
        unknown = (np.nan,) * 4
        boxes = np.array([row.box or unknown for row in listed], dtype=np.float64)
        columns |= {name: boxes[:, place] for place, name in enumerate(("x1", "y1", "x2", "y2"))}
    if any(row.parts for row in listed):
        columns["parts"] = np.array([row.parts for row in listed])
    return Manifest(root, names, columns)
