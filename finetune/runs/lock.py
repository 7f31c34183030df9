"""One writer for a folder: a lock that the system takes back when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from finetune.errors import UsageError
from finetune.runs.files import write_error

LOCK_NAME = ".lock"


class FolderLock:
    """Holds `folder` from its making until `release` or the end of the process, kill -9 included.

    The lock belongs to the open file `.lock`, which also records who holds it. Processes forked meanwhile
    (those that prepare batches) let go of it at once, so that they cannot keep a killed run's folder locked.
    The empty file stays behind: removing it would let two processes lock two files of one name.

    Raises:
        UsageError: another process holds the folder after `wait_seconds` (it is named, with its machine and
            its start).
        ResourceError: the folder cannot be written to, or its file system offers no locks.
    """

    def __init__(self, folder: Path, wait_seconds: float = 0.0) -> None:
        file = folder / LOCK_NAME
        try:
            self._stream: BinaryIO = file.open("a+b", buffering=0)
        except OSError as error:
            raise write_error(error, file) from error
        try:
            self._acquire(folder, wait_seconds)
            self._sign()
        except OSError as error:
            self._stream.close()
            raise write_error(error, file) from error
        os.register_at_fork(after_in_child=self._stream.close)

    def release(self) -> None:
        """Let go of the folder; doing it twice, or in a forked process, is harmless."""
        if not self._stream.closed:
            self._stream.truncate(0)
            self._stream.close()

    def _acquire(self, folder: Path, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        while not try_lock(self._stream):
            if time.monotonic() >= deadline:
                holder = _read_holder(self._stream)
                self._stream.close()
                raise UsageError(
                    f"{folder} is being written by {holder}: wait for it, or choose another folder"
                )
            time.sleep(0.05)

    def _sign(self) -> None:
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        record = {"pid": os.getpid(), "host": platform.node(), "since": since}
        self._stream.truncate(0)
        self._stream.write(json.dumps(record).encode())


def try_lock(stream: BinaryIO) -> bool:
    """Lock an open file for this process alone; False where another holds it, OSError without locks."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_holder(stream: BinaryIO) -> str:
    stream.seek(0)
    try:
        record = json.loads(stream.read())
        return f"process {record['pid']} on {record['host']} since {record['since']}"
    except (ValueError, KeyError):  # it has only just begun
        return "another process"
