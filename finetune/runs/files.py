"""Files that are either the old version or the new one, whole, and values as plain Python and strict JSON.

A file is written under a temporary name in its own folder, flushed, forced to the disk and renamed.
Whatever is left of a killed write carries a name that `remove_stale` knows. JSON is such that every reader
accepts it (no NaN, no Infinity).
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np

from finetune.errors import ResourceError

_STALE = ".crl-*.tmp"
_SHORTAGES = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "file size limit reached",
}

# What a file system says that cannot sync folders (shared folders of virtual machines, old CIFS, some FUSE).
_NOT_FOR_FOLDERS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def atomic_file(
    file: Path, need_bytes: int = 0, before_replace: Callable[[], None] | None = None
) -> Iterator[BinaryIO]:
    """Yield a stream whose bytes become `file` when the block ends without an error, and vanish otherwise.

    Args:
        file: the target; its folder must exist. The temporary name does not depend on it, so a target may use
            all 255 bytes that a name can have.
        need_bytes: the expected size, given in the message when the disk is full.
        before_replace: called once the new bytes are safe on the disk and before they take the target's name.

    Raises:
        ResourceError: the disk is full or the folder cannot be written to; the old file is untouched and the
            temporary one removed.
    """
    temporary = file.parent / f".crl-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        stream = temporary.open("xb")
    except OSError as error:
        raise write_error(error, file, need_bytes) from error
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if before_replace is not None:
            before_replace()
        temporary.replace(file)
        sync_folder(file.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)  # before the free space is measured for the message
        raise write_error(error, file, need_bytes) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(file: Path, data: bytes) -> None:
    """Write `data` to `file` atomically."""
    with atomic_file(file, len(data)) as stream:
        stream.write(data)


def sync_folder(folder: Path) -> None:
    """Force a rename in `folder` to the disk, where its file system can do that to a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise
    finally:
        os.close(handle)


def is_file(name: str) -> bool:
    """Return whether a word names a file; one too long for a name does not."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def is_stale(file: Path) -> bool:
    """Return whether `file` has the name of an unfinished write."""
    return file.match(_STALE)


def remove_stale(folder: Path) -> list[Path]:
    """Remove what killed writes left in `folder` and return it; only for the folder's one writer."""
    stale = sorted(folder.glob(_STALE))
    for file in stale:
        file.unlink(missing_ok=True)
    return stale


def check_free_space(folder: Path, need_bytes: int) -> None:
    """Raise ResourceError unless `need_bytes` are free where `folder` lies, or will lie once it is made."""
    if free_bytes(folder) < need_bytes:
        raise ResourceError(_shortage("disk full", folder, need_bytes))


def check_writable(folder: Path) -> None:
    """Raise ResourceError unless files may be made in `folder`, or in its nearest parent that is there.

    For those who work long before they write.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise ResourceError(f"{existing} is a file: {folder} cannot be a folder; choose another one")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ResourceError(f"nothing may be written into {existing}; choose a folder that you may write to")


def free_bytes(folder: Path) -> int:
    """Return the bytes free to this user on the disk of `folder` or of its nearest existing parent."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


def write_error(error: OSError, file: Path, need_bytes: int = 0) -> ResourceError:
    """Return the error that says why `file` could not be written."""
    if error.errno in _SHORTAGES:
        return ResourceError(_shortage(_SHORTAGES[error.errno], file.parent, need_bytes))
    reason = error.strerror or str(error)
    return ResourceError(f"cannot write {file}: {reason}; choose a folder that you may write to")


def _shortage(reason: str, folder: Path, need_bytes: int) -> str:
    need = max(1, math.ceil(need_bytes / 1e6))
    free = free_bytes(folder) // 10**6
    remedy = "make room or choose another folder, then resume"
    return f"{reason}: need {need} MB, {free} MB free at {folder}; {remedy}"


def to_plain(value: Any) -> Any:
    """Return `value` built only of dict (text keys), list, str, int, float, bool and None.

    Tuples and arrays become lists, numpy scalars Python numbers, paths text. Raises TypeError, naming the
    type, for anything else: a value that cannot be read back should not be written.

    >>> to_plain({"counts": np.arange(3), "lr": np.float32(0.5), "names": ("a", "b")})
    {'counts': [0, 1, 2], 'lr': 0.5, 'names': ['a', 'b']}
    """
    if isinstance(value, np.generic | np.ndarray):
        return to_plain(value.tolist())
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    raise TypeError(
        f"a record holds numbers, text, lists and mappings, got {type(value).__name__}: {value!r}"
    )


def json_text(value: Any, indent: int | None = None, *, ascii_only: bool = False) -> str:
    """Return `value` as JSON; a NaN or an infinity, which JSON does not know, becomes null.

    With `ascii_only` every other letter is escaped, for an output that cannot hold it.

    >>> json_text({"accuracy": float("nan"), "n": np.int64(3)})
    '{"accuracy": null, "n": 3}'
    """
    return json.dumps(_finite(to_plain(value)), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
