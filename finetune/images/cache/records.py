"""Records of equal size in a file that processes share: computed by one of them, mapped into memory by all.

Layout: a magic line; the records one after another; a digest of each; a JSON table; the footer of
`finetune.images.cache.file`. Who computes writes to a temporary file and holds its lock; whoever wants the
same records waits. The lock falls with its process, so what a killed one leaves is begun again, and nobody
reads it. All records are compared with their digests when a process first opens the file.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from finetune.cli.console import say
from finetune.images.cache.file import DIGEST_BYTES, LOCK, pixel_digest, read_tail, write_tail
from finetune.images.cache.limit import hold, limit_bytes, make_room
from finetune.runs.files import check_free_space
from finetune.runs.lock import try_lock

MAGIC = b"crl-records1\n"
PREFIX, SUFFIX, TEMPORARY = "features-", ".features", ".tmp"
LIMIT_SHARE = 4  # records may take one part in this many of what all caches may
ASK_EVERY = 0.2  # seconds between two looks at a lock

_checked: set[tuple[str, bytes]] = set()  # files that this process has compared with their digests


def records_file(folder: Path, key: str) -> Path:
    """Return the file of the records with a key, 32 hexadecimal digits."""
    return folder / f"{PREFIX}{key}{SUFFIX}"


class Records:
    """Records in a file, mapped into memory: `values` uint8 (n, size), and the `table` written with them.

    The file is not removed while this object is there (see `finetune.images.cache.limit`).
    """

    def __init__(self, descriptor: int, count: int, size: int, table: Mapping[str, Any]) -> None:
        weakref.finalize(self, os.close, descriptor)
        self.table = table
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            self.values = np.memmap(stream, np.uint8, "r", len(MAGIC), (count, size))


def open_records(file: Path) -> Records | None:
    """Return the records of a complete file; None where there is none.

    A damaged one is said and removed.
    """
    tail = read_tail(file, MAGIC)
    if tail is None:
        if file.is_file():
            _remove_damaged(file)
        return None
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:  # removed meanwhile
        return None
    held = hold(descriptor, file)
    count = len(tail.digests) // DIGEST_BYTES
    found = Records(descriptor, count, tail.body // max(1, count), tail.table)
    if not held:
        return None
    known = (str(file), pixel_digest(tail.digests.tobytes()))
    if known not in _checked:
        wanted = tail.digests.reshape(count, DIGEST_BYTES)
        pairs = zip(found.values, wanted, strict=True)
        if not all(pixel_digest(record.data) == digest.tobytes() for record, digest in pairs):
            _remove_damaged(file)
            return None
        _checked.add(known)
    return found


def count_images(file: Path) -> int | None:
    """Return of how many images a file holds records; None for another file, or a damaged one."""
    tail = read_tail(file, MAGIC)
    return None if tail is None else int(tail.table.get("images", 0))


def _remove_damaged(file: Path) -> None:
    say(f"note: {file} is damaged: what it held is computed again")
    with suppress(OSError):
        file.unlink(missing_ok=True)


@dataclass
class RecordWriter:
    """Writes the records of a file, in order; nobody sees them before `finish`."""

    file: Path
    stream: BinaryIO
    digests: list[bytes] = field(default_factory=list)

    def begin(self, count: int, size: int) -> None:
        """Make room for so many records of so many bytes; ResourceError where the disk has none."""
        need = count * size
        with _only_if_free(self.file.parent) as free:
            if free:
                make_room(self.file.parent, need)
        check_free_space(self.file.parent, need)
        self.stream.truncate(0)
        self.stream.write(MAGIC)

    def write(self, records: np.ndarray) -> None:
        """Add records, uint8 (n, size)."""
        for record in np.ascontiguousarray(records):
            self.digests.append(pixel_digest(record.data))
        self.stream.write(np.ascontiguousarray(records).data)

    def finish(self, table: Mapping[str, Any]) -> None:
        """Give the whole file its name."""
        write_tail(self.stream, b"".join(self.digests), table, MAGIC)
        Path(self.stream.name).replace(self.file)
        with _only_if_free(self.file.parent) as free:
            if free:
                make_room(self.file.parent, 0, keep=self.file)


@contextmanager
def writing(file: Path, *, waiting: Callable[[], None], ask: Callable[[], None]) -> Iterator[RecordWriter]:
    """Be the one process that writes a file of records; wait while another one does.

    Look for the finished file inside the `with`: another process may have written it meanwhile. Where
    `finish` is not called nothing stays behind.

    Args:
        file: to be written.
        waiting: called once, where another process is at work on it.
        ask: called again and again meanwhile; it may raise, to stop.

    Raises OSError where the folder cannot be written, or offers no locks.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(file.parent)
    stream = _locked(file.with_name(file.name + TEMPORARY), waiting, ask)
    os.register_at_fork(after_in_child=stream.close)  # loading processes must not keep a killed one's lock
    try:
        yield RecordWriter(file, stream)
    finally:
        if _is_named(stream):
            Path(stream.name).unlink(missing_ok=True)
        stream.close()


def fits(need: int) -> bool:
    """Return whether so many bytes of records may be kept among the caches."""
    return need * LIMIT_SHARE <= limit_bytes()


def _locked(temporary: Path, waiting: Callable[[], None], ask: Callable[[], None]) -> BinaryIO:
    told = False
    while True:
        stream = temporary.open("ab")
        try:
            while not try_lock(stream):
                if not told:
                    waiting()
                    told = True
                ask()
                time.sleep(ASK_EVERY)
        except BaseException:
            stream.close()
            raise
        if _is_named(stream):
            return stream
        stream.close()  # its writer has finished, or gave up: the name is another file's or none's


def _is_named(stream: BinaryIO) -> bool:
    """Return whether an open file still has its name."""
    try:
        there, own = os.stat(stream.name), os.fstat(stream.fileno())  # noqa: PTH116
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino)


def _remove_stale(folder: Path) -> None:
    """Remove what killed processes left."""
    for left in folder.glob(f"{PREFIX}*{SUFFIX}{TEMPORARY}"):
        with suppress(OSError), left.open("rb") as stream:
            if try_lock(stream) and _is_named(stream):
                left.unlink(missing_ok=True)


@contextmanager
def _only_if_free(folder: Path) -> Iterator[bool]:
    """Hold the folder as whoever builds or removes a cache there does, unless somebody else holds it."""
    with (folder / LOCK).open("wb") as stream:
        yield try_lock(stream)
