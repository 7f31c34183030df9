"""What a machine refuses a program: memory, files, threads, names; as a sentence with its exit code."""

from __future__ import annotations

import errno
import os
import sys

from finetune.errors import CrlError, DataError, ResourceError

_REMEDIES = {
    errno.EMFILE: "This process may open too few files at once: raise the limit (ulimit -n 4096)",
    errno.ENFILE: "This machine has too many files open: end other programs",
    errno.ENOMEM: "There is too little memory: end other programs, or raise the limit (ulimit -v)",
    errno.ENAMETOOLONG: "Choose a shorter name",
}
_ROOM_FOR_A_THREAD = 64 * 2**20  # bytes of addresses: its stack, and its part of the C library's heap
_PLACE = "Choose a place with room that you may write to (--debug shows more)"
WORKER_DIED = "DataLoader worker (pid"

# What the system's loader and allocators say, in lower case, and what follows from it.
_WORDS = {
    "too many open files": _REMEDIES[errno.EMFILE],
    "ancdata": _REMEDIES[errno.EMFILE],  # a file that another process sent could not be opened here
    "failed to map segment": _REMEDIES[errno.ENOMEM],
    "cannot allocate memory": _REMEDIES[errno.ENOMEM],
    "can't allocate memory": _REMEDIES[errno.ENOMEM],
    "not enough memory": _REMEDIES[errno.ENOMEM],
    "out of memory": _REMEDIES[errno.ENOMEM],
    "unable to allocate shared memory": "Shared memory (/dev/shm) is full: see --shm-size of the container",
}


def refusal(error: Exception) -> CrlError | None:
    """Return what a machine's refusal means for the user; None for an error that is a mistake of ours.

    >>> str(refusal(MemoryError()))
    'out of memory. There is too little memory: end other programs, or raise the limit (ulimit -v)'
    """
    if isinstance(error, OSError):
        return ResourceError(refused(error))
    if isinstance(error, MemoryError):
        told = str(error) or "out of memory"
        return ResourceError(f"{told}. {_REMEDIES[errno.ENOMEM]}")
    if isinstance(error, UnicodeEncodeError):
        return _unwritable_name(error)
    if isinstance(error, RuntimeError | ImportError | SystemError):
        return _from_words(error)
    return None


def refused(error: OSError) -> str:
    """Return what the system refused, where, and what to do about it."""
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error) or type(error).__name__
    remedy = no_thread() if error.errno == errno.EAGAIN else _REMEDIES.get(error.errno or 0, _PLACE)
    return f"{where}{reason}. {remedy}"


def no_thread() -> str:
    """Return what to do where no thread or process can be started: which limit it is that was met.

    A thread's stack needs addresses: where few are left, the limit of memory refused it, not that of threads.
    """
    too_many = "No more processes or threads may be started: raise the limit (ulimit -u)"
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return too_many
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit - address_space() < _ROOM_FOR_A_THREAD:
        return _REMEDIES[errno.ENOMEM]
    return too_many


def address_space() -> int:
    """Return how many bytes of addresses this process has in use; where it is not told, as many as can be."""
    try:
        with open("/proc/self/statm", encoding="ascii") as told:  # noqa: PTH123
            return int(told.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return sys.maxsize


def _from_words(error: Exception) -> CrlError | None:
    said = str(error)
    first = (said.splitlines() or [""])[0]
    if WORKER_DIED in said:
        return ResourceError(
            f"a loading process died ({first}). The usual cause is too little memory or shared memory "
            "(/dev/shm): use fewer workers, --run.workers 0 or a smaller batch"
        )
    if "can't start new thread" in said.lower():
        return ResourceError(f"{first}. {no_thread()}")
    remedy = next((remedy for words, remedy in _WORDS.items() if words in said.lower()), None)
    return None if remedy is None else ResourceError(f"{first}. {remedy}")


def _unwritable_name(error: UnicodeEncodeError) -> CrlError | None:
    letters = error.object[error.start : error.end]
    if not any("\ud800" <= letter <= "\udfff" for letter in letters) and error.encoding.lower() == "utf-8":
        return None
    return DataError(
        f"a name cannot be written as {error.encoding}: {error.object!a}. Start the program with "
        "PYTHONUTF8=1 (or LC_ALL=C.UTF-8), or rename the file"
    )
