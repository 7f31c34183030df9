"""How much the caches of images and features may take: those unused for the longest time go, none in use.

A cache file in use is locked (shared) by every source that reads it; the system takes the lock back when
the process ends, however it ends. A file's date of change is the time of its last opening.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from finetune.cli.console import say
from finetune.errors import UsageError

LIMIT_VARIABLE = "CRL_CACHE_GB"
LIMIT_GB = 20.0
GB = 10**9
PATTERNS = ("pictures-*.pixels", "features-*.features")


@dataclass(frozen=True)
class CacheFile:
    """One file of images or features: `size` in bytes, last `used` (seconds since 1970), `held` by a run."""

    path: Path
    size: int
    used: float
    held: bool


def limit_bytes() -> int:
    """Return how many bytes the caches of one folder may take: CRL_CACHE_GB (10^9 bytes), 20 where unset.

    Raises UsageError where the variable is not a number above zero.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    try:
        limit = float(text) if text else LIMIT_GB
        if not 0 < limit < float("inf"):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"{LIMIT_VARIABLE} must be a number of gigabytes above 0, got {text!r}; unset it for {LIMIT_GB:g}"
        ) from None
    return int(limit * GB)


def list_caches(folder: Path) -> list[CacheFile]:
    """Return the folder's cache files, the one unused for the longest time first."""
    found = []
    for path in (path for pattern in PATTERNS for path in folder.glob(pattern)):
        try:
            state = path.stat()
        except FileNotFoundError:  # removed meanwhile
            continue
        if stat.S_ISREG(state.st_mode):  # opening a pipe would wait for its writer
            found.append(CacheFile(path, state.st_size, state.st_mtime, _is_held(path)))
    return sorted(found, key=lambda cache: (cache.used, cache.path.name))


def make_room(folder: Path, needed: int, *, keep: Path | None = None) -> list[CacheFile]:
    """Remove caches until `needed` more bytes fit into the limit and onto the disk; return those removed.

    A cache in use stays, and so does `keep`. What was removed is said, and where the limit is passed still.
    Call it with the folder's lock held, so that no other process builds or removes there.
    """
    limit = limit_bytes()
    caches = list_caches(folder)

    def fits(taken: int) -> bool:
        return taken + needed <= limit and shutil.disk_usage(folder).free >= needed

    removed = remove_oldest(caches, fits, keep=keep)
    taken = bytes_of(caches) - bytes_of(removed)
    if removed:
        say(
            f"image cache: {_counted(removed)} unused for the longest time removed from {folder}, "
            f"to stay under {limit / GB:g} GB ({LIMIT_VARIABLE})"
        )
    if keep is not None and taken > limit:
        say(
            f"note: the image cache in {folder} takes {taken / GB:.1f} GB, more than its limit of "
            f"{limit / GB:g} GB ({LIMIT_VARIABLE}): what a run is using is not removed"
        )
    return removed


def bytes_of(caches: Iterable[CacheFile]) -> int:
    """Return how many bytes these caches take together."""
    return sum(cache.size for cache in caches)


def remove_oldest(
    caches: Sequence[CacheFile], enough: Callable[[int], bool], *, keep: Path | None = None
) -> list[CacheFile]:
    """Remove caches in this order until `enough` says so of the bytes left; return those removed.

    A cache in use stays, and so does `keep`.
    """
    taken, removed = bytes_of(caches), []
    for cache in caches:
        if enough(taken):
            break
        if cache.path != keep and remove_unused(cache.path):
            removed.append(cache)
            taken -= cache.size
    return removed


def remove_unused(path: Path) -> bool:
    """Remove a cache file that no run holds; return whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        if not _is_ours_alone(descriptor):
            return False
        path.unlink(missing_ok=True)
    except OSError:  # the folder is read-only
        return False
    finally:
        os.close(descriptor)
    return True


def hold(descriptor: int, path: Path) -> bool:
    """Mark an open cache file as in use and as used now; return whether it still has its name.

    The mark stays until the last copy of `descriptor` is closed, in forked processes too.
    """
    with suppress(OSError):  # no locks on this file system: nothing is ever removed there
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    with suppress(OSError):  # a cache that somebody else made
        os.utime(path)
    return os.fstat(descriptor).st_nlink > 0


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _is_ours_alone(descriptor)
    finally:
        os.close(descriptor)


def _is_ours_alone(descriptor: int) -> bool:
    """Lock an open cache file against every reader; False where a run holds it, or there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _counted(caches: Iterable[CacheFile]) -> str:
    sizes = [cache.size for cache in caches]
    return f"{len(sizes)} {'file' if len(sizes) == 1 else 'files'} ({sum(sizes) / GB:.2f} GB)"
