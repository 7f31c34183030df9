"""Where a comparison of two results is written, and that it takes no other comparison's place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.cli.console import say
from finetune.errors import DataError, UsageError
from finetune.runs.folder import read_json, write_json

RECORD = "comparison.json"
SEED = "seed-"  # how a study calls the folders of an arm's cells

Sides = Mapping[str, Sequence[str]]


def place_comparison(asked: str | None, first: Sequence[Path], second: Sequence[Path]) -> tuple[Path, Sides]:
    """Return where a comparison goes, `asked` or else `comparison_folder`, and its claim on that place."""
    out = Path(asked) if asked else comparison_folder(first, second)
    return out, claim_comparison(out, first, second)


def comparison_folder(first: Sequence[Path], second: Sequence[Path]) -> Path:
    """Return SECOND-against-FIRST (and -N-seeds) beside the first folder of the second side.

    Where the two have one name, or are called seed-N as a study's cells are, the folder above is put before
    it.

    >>> cells = Path("/runs/losses/cells")
    >>> comparison_folder([cells / "cel/seed-0"], [cells / "crl/seed-0"]).as_posix()
    '/runs/losses/cells/crl/crl-seed-0-against-cel-seed-0'
    """
    left, right = first[0].resolve(), second[0].resolve()
    alike = left.name == right.name
    seeds = f"-{len(first)}-seeds" if len(first) > 1 else ""
    return right.parent / f"{_called(right, alike)}-against-{_called(left, alike)}{seeds}"


def _called(folder: Path, alike: bool) -> str:
    return f"{folder.parent.name}-{folder.name}" if alike or folder.name.startswith(SEED) else folder.name


def claim_comparison(out: Path, first: Sequence[Path], second: Sequence[Path]) -> Sides:
    """Return the folders of both sides as `write_record` takes them, as seen from `out`.

    Raises UsageError where `out` holds a comparison of other folders, and names the way out. One of a
    previous version, which does not record its folders, is replaced, and that is reported.
    """
    sides = {"a": _seen_from(out, first), "b": _seen_from(out, second)}
    file = out / RECORD
    if not file.is_file():
        return sides
    try:
        told = read_json(file).get("folders")
    except DataError:
        told = None
    if told is None:
        say(f"notice: {out} holds a comparison that does not record its folders; this one takes its place")
    elif told != sides:
        raise UsageError(
            f"{out} holds the comparison of other results ({', '.join(told['b'])} against "
            f"{', '.join(told['a'])}, as seen from there): give --out another folder, or remove {out}"
        )
    return sides


def write_record(out: Path, comparison: Mapping[str, Any], page: Path, sides: Sides) -> dict[str, Any]:
    """Write comparison.json: what was found, the `page` that shows it, and the `folders`; return that."""
    folders = {side: list(names) for side, names in sides.items()}
    record = {**comparison, "folders": folders, "page": str(page)}
    write_json(out / RECORD, record)
    return record


def _seen_from(out: Path, folders: Sequence[Path]) -> list[str]:
    """Return the folders as paths from `out`, so that a tree of runs can be moved as a whole."""
    place = out.resolve()
    try:
        return [Path(os.path.relpath(folder.resolve(), place)).as_posix() for folder in folders]
    except ValueError:  # another drive
        return [folder.resolve().as_posix() for folder in folders]
