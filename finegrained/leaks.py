"""Pictures that a model has seen before it is to be tested on them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

import numpy as np

from finetune.errors import DataError, listing
from finetune.manifest import Manifest

SEEN_PARTS = ("train", "validation")


def refuse_seen_pictures(trained: Manifest, manifest: Manifest, rows: np.ndarray, run: Path) -> None:
    """Raise DataError when any of these rows is a picture the run was trained or selected on, by its bytes.

    Args:
        trained: the run's own table, with the column part (train, validation, test).
        manifest: the table of the pictures to be shown.
        rows: which of them.
        run: the run's folder, for the message.

    Pictures of the run that are no longer there cannot be compared; all others are, by size and then content.
    """
    seen = np.flatnonzero(np.isin(trained["part"], SEEN_PARTS))
    by_size: dict[int, list[Path]] = defaultdict(list)
    for row in seen:
        file = trained.file(int(row))
        if file.is_file():
            by_size[file.stat().st_size].append(file)
    digests: dict[int, set[bytes]] = {}
    shared = []
    for row in rows:
        file = manifest.file(int(row))
        size = file.stat().st_size if file.is_file() else -1
        if size not in by_size:
            continue
        if size not in digests:
            digests[size] = {_digest(known) for known in by_size[size]}
        if _digest(file) in digests[size]:
            shared.append(str(manifest["path"][row]))
    if shared:
        raise DataError(
            f"{run} was trained or validated on {len(shared)} of these {len(rows)} pictures (equal bytes), "
            f"so that scores on them mean nothing:\n{listing(shared)}\nName other data, or leave --data.* "
            "out: then the run's own test pictures are scored"
        )


def _digest(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()
