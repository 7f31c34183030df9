"""The three standard streams of a program: closed, full or of few letters, they stop no work."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from typing import Any

from finetune.errors import ResourceError

_NAMES = ("stdin", "stdout", "stderr")
_LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what was printed is wanted, and cannot be kept


class LastingOutput(io.RawIOBase):
    """Writes to a file descriptor; after the first failure it takes everything and writes nothing.

    A reader that has seen enough (`| head`), a terminal that is gone and a full disk end what is printed,
    never the work. The descriptor itself then leads nowhere, so that libraries and child processes go on too.

    Attributes:
        failure: why nothing is written any more; None while all is well.
    """

    def __init__(self, handle: int) -> None:
        super().__init__()
        self._handle = handle
        self.failure: OSError | None = None

    def writable(self) -> bool:
        """Return that it can be written to, always."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._handle

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._handle)

    def write(self, data: Any) -> int:
        """Write what can be written; return how many bytes are done with."""
        while self.failure is None:
            try:
                return os.write(self._handle, data)
            except BlockingIOError:  # a pipe that its other end made non-blocking: wait for room
                select.select([], [self._handle], [])
            except OSError as error:
                self.failure = error
                _lead_nowhere(self._handle, os.O_WRONLY)
        return len(data)


def keep_streams() -> None:
    """Let this program's standard streams last; doing it twice is harmless.

    A stream that was closed when the program began is opened on nothing, so that no file of ours gets its
    number. What an output's encoding cannot hold is spelled out. Streams that somebody replaced (a notebook,
    a test) are left as they are.
    """
    for handle, name in enumerate(_NAMES):
        if getattr(sys, name) is None and getattr(sys, f"__{name}__") is None:
            _open(handle, name)
        elif handle and getattr(sys, name) is getattr(sys, f"__{name}__"):
            _wrap(handle, name)


def lost_output() -> ResourceError | None:
    """Return what to say where standard output could not be kept; None where it could, or nobody reads it."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    failure = getattr(getattr(getattr(sys.stdout, "buffer", None), "raw", None), "failure", None)
    if failure is None or failure.errno not in _LOST:
        return None
    return ResourceError(
        f"the standard output could not be written: {failure.strerror}; the work itself is done"
    )


def printed(prog: str) -> int:
    """Return the exit code of a command that only printed: 5, with the reason, where it could not be kept."""
    lost = lost_output()
    if lost is None:
        return 0
    print(f"{prog}: {lost}", file=sys.stderr)
    return lost.exit_code


def _open(handle: int, name: str) -> None:
    """Open a stream that the program was started without."""
    try:
        os.fstat(handle)
    except OSError:
        _lead_nowhere(handle, os.O_WRONLY if handle else os.O_RDONLY)
    opened = os.fdopen(
        handle, "w" if handle else "r", encoding="utf-8", errors="backslashreplace", closefd=False
    )
    setattr(sys, name, opened)


def _wrap(handle: int, name: str) -> None:
    plain = getattr(sys, name)
    try:
        if plain.fileno() != handle:
            return
        plain.flush()
    except (OSError, ValueError, AttributeError):
        return
    lasting = io.TextIOWrapper(
        io.BufferedWriter(LastingOutput(handle)),
        encoding=plain.encoding,
        errors="backslashreplace",
        line_buffering=plain.line_buffering or handle == 2,
        write_through=handle == 2,
    )
    setattr(sys, name, lasting)


def _lead_nowhere(handle: int, mode: int) -> None:
    nothing = os.open(os.devnull, mode)
    if nothing != handle:
        os.dup2(nothing, handle)
        os.close(nothing)
