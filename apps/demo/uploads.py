"""Where the demo keeps uploaded images: a private folder, swept while it runs, removed when it ends."""

from __future__ import annotations

import atexit
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from finetune.cli.console import say

PREFIX = "crl-demo-"
RESULT_PREFIX = "result-"
_NAME = re.compile(rf"{PREFIX}(\d+)-")
_YOUNG_SECONDS = 60.0  # a folder this young may belong to a process that has not locked it yet


class UploadFolder:
    """A folder that only its owner may read, locked while this process lives, removed when it ends.

    Arguments: `parent`, the folder to make it in; None takes the system's folder for temporary files. Folders
    that dead processes of the same user left there are removed first.

    Use it as a context; leaving it removes the folder, and so does the end of the program. A process that is
    killed outright leaves it to the next demo's start.
    """

    def __init__(self, parent: Path | None = None) -> None:
        home = Path(os.path.realpath(parent or tempfile.gettempdir()))
        remove_stale(home)
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=home))
        self._owner = os.getpid()
        self._lock = _lock(self.path)
        atexit.register(self.close)

    def __enter__(self) -> UploadFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the folder and all that is in it; a second call, or one in a forked child, does nothing."""
        if os.getpid() != self._owner:
            return
        _remove(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def owns(self, path: str | os.PathLike[str]) -> bool:
        """Return whether `path` is an image that was uploaded here, and nothing else.

        True only for the absolute path of a regular file strictly inside the folder that no link leads to:
        no symbolic link on the way, no `..` in it, and no second name (hard link).
        """
        try:
            file = Path(path)
            if self.path not in file.parents or os.path.realpath(file) != os.fspath(path):
                return False
            facts = file.lstat()
        except (OSError, ValueError):
            return False
        return stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1

    def new_file(self, name: str) -> Path:
        """Return a path for a result to be written, such as "heatmap.csv", in a folder of its own in here."""
        folder = self.path / f"{RESULT_PREFIX}{secrets.token_hex(16)}"
        folder.mkdir(mode=0o700)
        return folder / Path(name).name

    def size(self) -> int:
        """Return the bytes that the files in here hold together."""
        return sum(facts.st_size for _, facts in _files(self.path))


class Janitor(threading.Thread):
    """A thread that removes images some minutes after they came, while the demo goes on.

    Args:
        folder: the folder to sweep.
        keep_minutes: how long a file may stay, > 0; the sweep before that removes it.
        clock: tells the time of day in seconds; for tests.
        pause: seconds between two sweeps; None takes a quarter of `keep_minutes`, 30 s at most.

    A file's age counts from its last change or its arrival here, whichever is later. A file from the future,
    after the machine's clock was set back, counts the same way. A result's age counts from its last change
    alone, so that it can bear the date of the upload it was made of. Sweeping never ends the
    program: what cannot be removed now is tried again, and said once.
    """

    def __init__(
        self,
        folder: Path,
        keep_minutes: float,
        *,
        clock: Callable[[], float] = time.time,
        pause: float | None = None,
    ) -> None:
        super().__init__(name="upload-janitor", daemon=True)
        self.folder = folder
        self.keep_seconds = keep_minutes * 60
        self._clock = clock
        self._pause = min(30.0, self.keep_seconds / 4) if pause is None else pause
        self._ended = threading.Event()
        self._told: set[str] = set()

    def __enter__(self) -> Janitor:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(self) -> None:
        """Sweep until `stop` is called."""
        while not self._ended.wait(self._pause):
            self.sweep()

    def stop(self) -> None:
        """End the thread and wait for it, at most a second."""
        self._ended.set()
        if self.is_alive():
            self.join(timeout=1.0)

    def sweep(self) -> int:
        """Remove what has been here too long, and return how many files that were."""
        removed = sum(self._remove_old(file, facts) for file, facts in _files(self.folder))
        for folder in _folders(self.folder):
            self._remove_empty(folder)
        return removed

    def _is_old(self, facts: os.stat_result) -> bool:
        return abs(self._clock() - max(facts.st_mtime, facts.st_ctime)) > self.keep_seconds - self._pause

    def _is_old_result(self, facts: os.stat_result) -> bool:
        # A result bears the date of the upload that it was made of, and goes with it.
        return abs(self._clock() - facts.st_mtime) > self.keep_seconds - self._pause

    def _remove_old(self, file: Path, facts: os.stat_result) -> bool:
        is_result = file.parent.name.startswith(RESULT_PREFIX)
        if not (self._is_old_result(facts) if is_result else self._is_old(facts)):
            return False
        try:
            file.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            self._tell(f"an uploaded file could not be removed yet: {error}")
            return False
        return True

    def _remove_empty(self, folder: Path) -> None:
        # Only an old folder: an upload makes its folder first and moves the image in afterwards.
        try:
            if self._is_old(folder.lstat()) and next(folder.iterdir(), None) is None:
                folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            self._tell(f"an empty upload folder could not be removed yet: {error}")

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            say(f"note: {message}")


def remove_stale(parent: Path) -> list[Path]:
    """Remove the upload folders in `parent` whose demo is dead, and return them.

    Only folders of this user, by the name that `UploadFolder` gives, are touched; links are left alone.
    """
    removed = []
    for entry in sorted(parent.glob(f"{PREFIX}*")):
        if _NAME.match(entry.name) and _is_stale(entry):
            _remove(entry)
            removed.append(entry)
    return removed


def _is_stale(folder: Path) -> bool:
    try:
        facts = folder.lstat()
        if not stat.S_ISDIR(facts.st_mode) or (hasattr(os, "getuid") and facts.st_uid != os.getuid()):
            return False
        lock = _lock(folder)
    except OSError:
        return False
    match = _NAME.match(folder.name)
    alive = match is None or _lives(int(match.group(1)))
    if lock is None:  # another process holds it, or this system has no such locks
        return not _has_locks() and not alive
    os.close(lock)
    return not alive or time.time() - facts.st_mtime > _YOUNG_SECONDS


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it is another user's
        return True
    return True


def _has_locks() -> bool:
    try:
        import fcntl  # noqa: F401
    except ImportError:
        return False
    return True


def _lock(folder: Path) -> int | None:
    """Return an open descriptor that holds the folder's lock, None where it is held or locks are unknown."""
    if not _has_locks():
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(folder: Path) -> None:
    # Twice: a request that is just being answered may write one more file during the first.
    for _ in range(2):
        shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        say(f"note: {folder} could not be removed; remove it by hand, it may hold uploaded images")


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for parent, _, names in os.walk(folder):
        for file in (Path(parent, name) for name in names):
            try:
                found.append((file, file.lstat()))
            except OSError:  # swept or moved between listing and looking
                continue
    return found


def _folders(folder: Path) -> list[Path]:
    return [Path(parent, name) for parent, names, _ in os.walk(folder, topdown=False) for name in names]
