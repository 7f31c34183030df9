"""What is checked of images whatever the task: whether they open, which are equal, which a run has seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from finetune.cli.console import hear_warnings, say, silently, unheard
from finetune.cli.machine import core_count
from finetune.errors import DataError, listing
from finetune.experiments.config import VerifyConfig
from finetune.experiments.records.splits import Split, Splits
from finetune.experiments.sections import CONFLICTS, conflicts_text
from finetune.images.cache.file import map_files
from finetune.images.checks import content_hashes, equal_files, label_conflicts, tell_class_names
from finetune.images.decode import reason_to_refuse
from finetune.images.manifest import Manifest

if TYPE_CHECKING:
    from finetune.experiments.result import Result
    from finetune.experiments.task import Task, TaskData

SEEN_PARTS = ("train", "validation")
HASHES = "sha256"
Pairs = list[tuple[str, str]]


def verify_data(task: Task, config: VerifyConfig) -> dict[str, Any]:
    """Read, count and check a data set; print what was found and return it.

    The result holds the reader's report, split (the hash of the parts), manifest (the fingerprint), and what
    the task counts. Where images were opened (not with `quick`): bad_images (file -> reason),
    duplicate_contents (pairs of files with equal bytes, one learned from and one tested; same_content too),
    same_content_validation (training and validation), same_content_classes (of two classes) and
    same_content_labels (`finetune.images.checks.label_conflicts`).

    Raises DataError, after everything was printed, for images that cannot be read (unless they are to be
    skipped) and for what else the task refuses.
    """
    data = task.read(config.data, lists_only=True)
    splits = task.splits(data, config.data)
    result = {**data.report, "split": splits.hash, "manifest": data.manifest.fingerprint}
    result |= task.verify_lists(data, splits, config)
    if not (config.quick or data.report.get("metadata_only")):
        result |= check_images(data.manifest, splits, config.data)
    tell_class_names(data.manifest.class_names)
    if faults := task.faults(data, config.data):
        raise DataError("\n".join(faults))
    return result


def check_images(manifest: Manifest, splits: Splits, config: Any) -> dict[str, Any]:
    """Open every image that is there, report equal ones, and return what was found by the result's keys.

    `config` says what is done with equal contents (`same_content`) and with unreadable images (`skip_bad`).
    Raises DataError where that is to refuse them.
    """
    files = [manifest.file(row) for row in range(len(manifest))]
    there = np.array([file.is_file() for file in files])
    present = [file for file, found in zip(files, there, strict=True) if found]
    if not present:
        say("no image is there: none was opened")
        return {}
    reasons = map_files(reason_to_refuse, present, core_count(), "opening images")
    bad = {str(file): reason for file, reason in zip(present, reasons, strict=True) if reason is not None}
    say(f"{len(present)} images opened, {len(bad)} cannot be read")
    shown, groups = manifest.select(there), list(equal_files(manifest.select(there)))
    twins = equal_contents(shown, [split.among(there) for split in splits], groups)
    conflicts = label_conflicts(shown, groups)
    tell_conflicts(conflicts)
    tell_twins(twins, config.same_content)
    if not twins.tested:
        say("no image of the test part is also in training or validation, by content")
    if bad and not config.skip_bad:
        lines = [f"{file}: {reason}" for file, reason in bad.items()]
        raise DataError(
            f"{len(bad)} of {len(present)} images cannot be read; fix them, or train without them "
            f"by saying --data.skip_bad true:\n{listing(lines, 50)}"
        )
    pairs = [list(pair) for pair in twins.tested]
    return {"bad_images": bad, "duplicate_contents": pairs, **twins_report(twins), CONFLICTS: conflicts}


class EqualContents(NamedTuple):
    """Pairs of files with equal bytes, sorted.

    `tested` pairs a file learned from (training or validation) with a tested one, `validated` a training file
    with a validation one; `relabelled` pairs a file with another that has another class. Where every file is
    tested in one split and learned from in others, a pair has no direction and is named in order, and pairs
    of `tested` are left out of `validated`.

    `images` counts the tested files of all splits that have an equal one among those learned from.
    """

    tested: Pairs
    validated: Pairs
    relabelled: Pairs
    images: int = 0


def equal_contents(
    manifest: Manifest, splits: Iterable[Split], groups: Sequence[Sequence[int]] | None = None
) -> EqualContents:
    """Return the pairs of files with equal bytes that no two parts and no two classes should share.

    `groups` holds the rows of each set of equal files, where they are known already; else only files of equal
    size are read. Raises DataError when a listed file cannot be read.
    """
    path, label = manifest["path"], manifest.label
    groups = list(equal_files(manifest)) if groups is None else groups
    tested: set[tuple[int, int]] = set()
    validated: set[tuple[int, int]] = set()
    parts = [[set(rows.tolist()) for _, rows in split.parts()] for split in splits]
    for train, val, test in parts:
        for twins in map(set, groups):
            train_twins, val_twins = twins & train, twins & val
            tested |= {(a, b) for a in train_twins | val_twins for b in twins & test}
            validated |= {(a, b) for a in train_twins for b in val_twins}
    changed = chain.from_iterable(
        (pair for pair in combinations(twins, 2) if label[pair[0]] != label[pair[1]]) for twins in groups
    )

    def named(pairs: Iterable[tuple[int, int]], *, in_order: bool) -> Pairs:
        found = ((str(path[a]), str(path[b])) for a, b in pairs)
        return sorted({(min(pair), max(pair)) if in_order else pair for pair in found})

    several = len(parts) > 1
    across, within = named(tested, in_order=several), named(validated, in_order=several)
    return EqualContents(
        across,
        [pair for pair in within if pair not in set(across)],
        named(changed, in_order=False),
        len({row for _, row in tested}),
    )


def told_by_fold(splits: Splits, tell: Callable[[Splits], object]) -> dict[int, tuple[str, ...]]:
    """Say what holds for all the splits together; return the warnings of each alone by its fold, unsaid.

    The record of a fold is then the same whichever folds are trained with it.
    """
    with unheard(), hear_warnings() as heard:
        tell(splits)
    if len(splits) == 1:
        return {splits.splits[0].fold: tuple(heard)}
    told = {}
    for split in splits:
        with unheard(), silently(), hear_warnings() as own:
            tell(Splits((split,), splits.hash))
        told[split.fold] = tuple(own)
    return told


def tell_contents(
    data: TaskData,
    splits: Splits,
    same_content: str,
    tell_parts: Callable[[Splits], object] | None = None,
) -> TaskData:
    """Report equal images of the splits in use; return the data with what was found in their report.

    `tell_parts` says what else is to be known of the parts of splits. What it and equal images say of each
    fold is in the data's `by_fold`.

    Raises DataError where images learned from are tested and `same_content` is "error".
    """
    groups = data.equal_files
    conflicts = label_conflicts(data.manifest, groups)
    tell_conflicts(conflicts)
    found: list[EqualContents] = []

    def tell(own: Splits) -> None:
        if tell_parts is not None:
            tell_parts(own)
        found.append(equal_contents(data.manifest, own, groups))
        tell_twins(found[-1], same_content)

    by_fold = told_by_fold(splits, tell)
    report = {**data.report, **twins_report(found[0]), CONFLICTS: conflicts}
    return replace(data, report=report, by_fold=by_fold)


def tell_conflicts(conflicts: Mapping[str, Any]) -> None:
    """Print how many sets of equal files carry different labels, with examples."""
    if told := conflicts_text(conflicts):
        say(
            "\n".join(
                filter(
                    None,
                    [
                        f"warning: {told}{':' if conflicts['first'] else ''}",
                        listing([" = ".join(one) for one in conflicts["first"]]),
                    ],
                )
            )
        )


def twins_report(twins: EqualContents) -> dict[str, list[list[str]]]:
    """Return the pairs by the names that reports give them, ready for JSON."""
    names = ("same_content", "same_content_validation", "same_content_classes")
    return {name: [list(pair) for pair in pairs] for name, pairs in zip(names, twins[:3], strict=True)}


def tell_twins(twins: EqualContents, same_content: str) -> None:
    """Report pairs of equal images across parts or classes.

    Raises DataError where images learned from are tested and `same_content` is "error".
    """
    if twins.relabelled:
        say(f"warning: {_told(twins.relabelled, 'with two classes')}")
    if twins.validated:
        say(f"warning: {_told(twins.validated, 'in training and validation')}")
    if twins.tested:
        told = _told(twins.tested, "in training and test")
        told = f"test images with an equal image in training or validation: {twins.images}; {told}"
        if same_content == "error":
            raise DataError(f"{told}\nRemove one of each pair, or say --data.same_content warn.")
        say(f"warning: {told}")


def _told(pairs: Pairs, where: str) -> str:
    lines = listing([" = ".join(pair) for pair in pairs])
    return f"{len(pairs)} pairs of images {where} are the same bytes:\n{lines}"


def with_contents(table: Manifest) -> Manifest:
    """Return a run's table of images with the hash of each file, which outlives the images."""
    return table.with_column(HASHES, content_hashes(table))


def seen_rows(result: Result, table: Manifest) -> np.ndarray:
    """Return which rows of a run's table a model of it has learned from or was selected on, bool (N,).

    A table that names each image's part says so; in another, what a single run has not tested; every one of
    several folds' models together has seen all.
    """
    if "part" in table:
        return np.isin(table["part"], SEEN_PARTS)
    if len(result.folds) > 1:
        return np.ones(len(table), dtype=bool)
    return ~np.isin(table["path"], result.predictions.path)


def refuse_seen_images(result: Result, table: Manifest | None, shown: Manifest) -> None:
    """Raise DataError when any image to be shown was seen by the run, whatever it is called now.

    Args:
        result: the run.
        table: its own table; None where a fold of a cross-validation has none.
        shown: the images.

    Seen is a file with the bytes of one that the run was trained or selected on: by the hashes in column
    sha256 where the run kept them, else by those of its files that are still there; how many can be compared
    is reported unless it is all. Of those that cannot, names are all there is: DataError where the images to
    be shown are by path and class the very list of the training part, of the validation part, or of both.

    A table that does not name each image's part belongs to the run as a whole: then the same list of images,
    wherever it lies, and any file that is on both lists are refused as well.
    """
    if table is None:
        _refuse_run_data(result, None, shown)
        say(
            f"warning: {result.folder} holds no table of its images, nor does the folder above: whether the "
            "new images were among them is unknown"
        )
        return
    if "part" not in table:
        _refuse_run_data(result, table, shown)
    seen = table.select(seen_rows(result, table))
    hashes = seen[HASHES] if HASHES in seen else content_hashes(seen)
    known = set(hashes.tolist()) - {""}
    if known:
        again = [name in known for name in content_hashes(shown).tolist()]
        _refuse_equal(result, [str(path) for path in shown["path"][again]], shown)
    comparable = int((hashes != "").sum())
    if comparable < len(seen):
        _refuse_lists(result, seen, shown)
        say(
            f"warning: {comparable} of {len(seen)} training and validation images of {result.folder} are "
            f"still there: whether the new images were among {'the others' if comparable else 'them'} "
            "is unknown"
        )


def tested_rows(result: Result, table: Manifest | None, shown: Manifest) -> np.ndarray:
    """Return which images have the bytes of one that the run was tested on, bool (N,)."""
    if table is None:
        return np.zeros(len(shown), dtype=bool)
    own = table.select(np.isin(table["path"], result.predictions.path))
    hashes = own[HASHES] if HASHES in own else content_hashes(own)
    return np.isin(content_hashes(shown), sorted(set(hashes.tolist()) - {""}))


def _refuse_run_data(result: Result, table: Manifest | None, shown: Manifest) -> None:
    """Refuse the list of images that a run was made of, and every file on it."""
    same, shared = shown.fingerprint == result.record.manifest, []
    if table is not None:
        same = same or _without_folds(table).fingerprint == _without_folds(shown).fingerprint
        known = {table.file(row).resolve() for row in range(len(table))}
        rows = range(len(shown))
        shared = [str(shown["path"][row]) for row in rows if shown.file(row).resolve() in known]
    if same or shared:
        raise DataError(
            f"{len(shown) if same else len(shared)} of {len(shown)} images belong to the data set that "
            f"{result.folder} was trained on:\n{listing(shared or shown['path'].tolist())}\n"
            "Without --data.* the run's own test images are scored; else name other data"
        )


def _without_folds(manifest: Manifest) -> Manifest:
    """Return the manifest as it is before anybody made folds."""
    return manifest.with_column("fold", np.full(len(manifest), -1))


def _refuse_equal(result: Result, shared: list[str], shown: Manifest) -> None:
    if shared:
        raise DataError(
            f"{result.folder} was trained or validated on {len(shared)} of these {len(shown)} images "
            f"(equal bytes), so that scores on them mean nothing:\n{listing(shared)}\nName other data, or "
            "leave --data.* out: then the run's own test images are scored"
        )


def _refuse_lists(result: Result, seen: Manifest, shown: Manifest) -> None:
    parts = [seen.select(seen["part"] == part) for part in SEEN_PARTS] if "part" in seen else []
    if _listed(shown) in [_listed(part) for part in (seen, *parts)]:
        raise DataError(
            f"{result.folder} was trained or validated on a list of images with the very paths and classes "
            f"of these {len(shown)}, so that scores on them mean nothing. Name other data, or leave --data.* "
            "out: then the run's own test images are scored"
        )


def _listed(manifest: Manifest) -> list[tuple[str, str]]:
    names = [manifest.class_names[label] for label in manifest.label.tolist()]
    return sorted(zip(manifest["path"].tolist(), names, strict=True))
