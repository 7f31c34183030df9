"""Pictures that a model has seen before it is to be tested on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from finetune.cli.console import say
from finetune.cli.machine import core_count
from finetune.errors import DataError, listing
from finetune.images.cache_file import UNREADABLE, hash_files
from finetune.images.manifest import Manifest

SEEN_PARTS = ("train", "validation")
HASHES = "sha256"


def content_hashes(manifest: Manifest) -> np.ndarray:
    """Return the SHA-256 of every row's file, hexadecimal; empty where it cannot be read."""
    found = hash_files([manifest.file(row) for row in range(len(manifest))], core_count())
    return np.array(["" if name.startswith(UNREADABLE) else name for name in found], dtype=str)


def refuse_seen_pictures(trained: Manifest, manifest: Manifest, rows: np.ndarray, run: Path) -> None:
    """Raise DataError when any of these rows is a picture the run was trained or selected on, by its bytes.

    Args:
        trained: the run's own table, with the column part (train, validation, test) and, as runs keep it, the
            column sha256 of the files' contents.
        manifest: the table of the pictures to be shown.
        rows: which of them.
        run: the run's folder, for the message.

    Where the run kept no hashes, its files are read where they still are; how many of them can be compared is
    told unless it is all. Of those that cannot, names are all there is: DataError where the pictures to be
    shown are by path and class the very list of the training part, of the validation part, or of both.
    """
    part = trained["part"]
    seen = trained.select(np.isin(part, SEEN_PARTS))
    hashes = seen[HASHES] if HASHES in seen else content_hashes(seen)
    known = set(hashes.tolist()) - {""}
    comparable = int((hashes != "").sum())
    shown = manifest.select(rows)
    if known:
        found = content_hashes(shown)
        _refuse([str(path) for path in shown["path"][[name in known for name in found.tolist()]]], shown, run)
    if comparable == len(seen):
        return
    lists = [_listed(trained.select(np.isin(part, names))) for names in (SEEN_PARTS, *zip(SEEN_PARTS))]
    if _listed(shown) in lists:
        raise DataError(
            f"{run} was trained or validated on a list of pictures with the very paths and classes of these "
            f"{len(shown)}, so that scores on them mean nothing. Name other data, or leave --data.* out: "
            "then the run's own test pictures are scored"
        )
    say(
        f"warning: {comparable} of {len(seen)} training and validation pictures of {run} are still there: "
        f"whether the new pictures were among {'the others' if comparable else 'them'} cannot be told"
    )


def _listed(manifest: Manifest) -> list[tuple[str, str]]:
    names = [manifest.class_names[label] for label in manifest.label.tolist()]
    return sorted(zip(manifest["path"].tolist(), names, strict=True))


def _refuse(shared: list[str], shown: Manifest, run: Path) -> None:
    if shared:
        raise DataError(
            f"{run} was trained or validated on {len(shared)} of these {len(shown)} pictures (equal bytes), "
            f"so that scores on them mean nothing:\n{listing(shared)}\nName other data, or leave --data.* "
            "out: then the run's own test pictures are scored"
        )
