"""The SHA-256 of image files, computed once: processes remember them, a file beside the caches keeps them.

A digest is known by the file's path, size, times of change and inode. Whoever writes to a file, or puts
another in its place with the same size and date, changes one of them. A file that changed less than two
seconds before it was read is not remembered, for a further change may leave its times as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finetune.cli.machine import user_cache
from finetune.errors import CrlError
from finetune.runs.files import write_bytes

UNREADABLE = "unreadable: "
SETTLED_NS = 2_000_000_000  # nanoseconds since a file's last change
WORTH_KEEPING = 4_000_000  # bytes: fewer are read faster than a file of digests is written
PATTERN = "digests-*.json"

_known: dict[str, str] = {}  # absolute path -> stamp and digest
_stores: set[Path] = set()  # that were read
_choice = "auto"


def keep_digests(choice: str) -> None:
    """Keep digests where images are cached: none, auto (the user's cache folder, as at first) or a folder."""
    global _choice
    _choice = choice


def forget_digests(folder: Path) -> None:
    """Remove the digests kept in a folder."""
    for file in folder.glob(PATTERN):
        file.unlink(missing_ok=True)


def hash_files(files: Iterable[Path | str], threads: int, root: Path | None = None) -> list[str]:
    """Return the SHA-256 of every file's bytes; of one that cannot be read, a word that says so.

    Args:
        files: which; of one that is known and has not changed, nothing is read.
        threads: that read.
        root: the folder of the data set, by which other processes find its digests; None keeps none of them.
    """
    here = os.getcwd()  # noqa: PTH109
    names = [os.path.join(here, file) for file in files]  # noqa: PTH118  (thousands of files)
    store = None if root is None else _store(root)
    if store is not None:
        _read(store, root)
    stamps = list(map(_stamp, names))
    digests = [_digest(name, stamp) for name, stamp in zip(names, stamps, strict=True)]
    unknown = list({name: None for name, digest in zip(names, digests, strict=True) if not digest})
    if not unknown:
        return digests
    with ThreadPoolExecutor(threads) as pool:
        fresh = dict(zip(unknown, pool.map(_hash_file, unknown), strict=True))
    if store is not None and sum(size for _, size in fresh.values()) >= WORTH_KEEPING:
        _write(store, root)
    return [digest or fresh[name][0] for name, digest in zip(names, digests, strict=True)]


def _stamp(name: str) -> str:
    """Return what changes with a file; empty where it is not there."""
    try:
        return _stamp_of(os.stat(name))  # noqa: PTH116
    except (OSError, ValueError):
        return ""


def _stamp_of(found: os.stat_result) -> str:
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino} "


def _digest(name: str, stamp: str) -> str:
    """Return the known digest of a file with this stamp; empty where there is none."""
    kept = _known.get(name, "")
    return kept[len(stamp) :] if stamp and kept.startswith(stamp) else ""


def _hash_file(name: str) -> tuple[str, int]:
    """Return a file's digest, or a word that says why there is none, and how many bytes were read."""
    try:
        with open(name, "rb") as stream:  # noqa: PTH123
            before = os.fstat(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            after = os.fstat(stream.fileno())
    except OSError as error:
        return f"{UNREADABLE}{error.strerror}", 0
    settled = time.time_ns() - max(after.st_mtime_ns, after.st_ctime_ns) > SETTLED_NS
    if settled and _stamp_of(before) == _stamp_of(after):
        _known[name] = _stamp_of(after) + digest
    return digest, after.st_size


def _store(root: Path) -> Path | None:
    """Return the file of a data set's digests; None where none are kept."""
    folder = {"auto": user_cache(), "none": None}.get(_choice, Path(_choice))
    name = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:32]  # noqa: PTH100
    return None if folder is None else folder / f"digests-{name}.json"


def _read(store: Path, root: Path | None) -> None:
    """Learn what a store holds, once; a damaged one holds nothing."""
    if store in _stores:
        return
    _stores.add(store)
    start = os.path.join(os.getcwd(), str(root), "")  # noqa: PTH109, PTH118
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(store.read_bytes())
        if isinstance(content, dict):
            _known.update(
                (start + name, str(kept)) for name, kept in content.items() if start + name not in _known
            )


def _write(store: Path, root: Path | None) -> None:
    """Keep all that is known of a data set, and what other processes have kept; not on a full disk."""
    start = os.path.join(os.getcwd(), str(root), "")  # noqa: PTH109, PTH118
    _stores.discard(store)
    _read(store, root)
    content = {name[len(start) :]: kept for name, kept in _known.items() if name.startswith(start)}
    with contextlib.suppress(OSError, CrlError):
        store.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(store, json.dumps(content).encode())
