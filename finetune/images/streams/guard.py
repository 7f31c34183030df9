"""Decoding that may be ended: images from anywhere, decoded in processes of which each can be killed.

What is fast for certain is decoded here and now. Everything else goes to a process that the system ends
when it takes too long or too much memory; another takes its place.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from finetune.cli.machine import core_count
from finetune.errors import InterruptedRunError, ResourceError
from finetune.images.decode import BadImageError, CostlyImageError, decode_content, read_content
from finetune.images.streams.prepared import MEMORY_BYTES
from finetune.runs.interrupts import SIGNALS, at_stop, stop_requested

CPU_SECONDS = 5
WALL_SECONDS = 30.0  # a machine with too much to do still gets its image decoded
START_SECONDS = 60.0
FAULT = "its decoder was ended by a fault, twice; save it again as JPEG or PNG"
CHEAP_PIXELS = 16_000_000  # of JPEG, PNG, bitmaps: a third of a second
SPARE_BYTES = 64_000_000  # for the interpreter itself
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from finetune.images.streams.guard import serve; serve()"
)
_HEAD = 8  # bytes that say how long a message is


def decode_guarded(source: Path | bytes, *, notices: list[str] | None = None) -> np.ndarray:
    """Return an image's pixels, uint8 (H, W, 3), as `decode_image` does, at a bounded cost.

    Decoding takes at most 5 s of the processor and 512 MB beside the file. Any thread may call this.
    Raises BadImageError for what `decode_image` refuses, and for an image that costs more.
    """
    name = "uploaded bytes" if isinstance(source, bytes) else str(source)
    content = read_content(source)
    try:
        return decode_content(content, name, notices=notices, cheap_pixels=CHEAP_PIXELS)
    except CostlyImageError:
        return _pool().decode(content, name, notices)


class DecodeProcesses:
    """Processes that decode, at most one for each core; each waits for the next image when it is done."""

    def __init__(self, count: int) -> None:
        self._free = threading.Semaphore(count)
        self._lock = threading.Lock()
        self._idle: list[subprocess.Popen[bytes]] = []
        self._busy: set[subprocess.Popen[bytes]] = set()
        self._owner = os.getpid()

    def decode(self, content: bytes, name: str, notices: list[str] | None = None) -> np.ndarray:
        """Return the pixels of a file.

        Raises BadImageError where it is refused or its process had to end, ResourceError where no process can
        be started, and InterruptedRunError where a signal ended its process: nothing is known of the image.
        """
        with self._free:
            found = self._asked(content, name) or self._asked(content, name, last=True)
        assert found is not None
        told, pixels = found
        if told["reason"]:
            raise BadImageError(name, str(told["reason"]))
        if notices is not None:
            notices += [f"{name}: {words}" for words in told["notices"]]
        return pixels

    def _asked(
        self, content: bytes, name: str, *, last: bool = False
    ) -> tuple[dict[str, Any], np.ndarray] | None:
        """Return a process's answer; None where it was ended by a fault, perhaps not of this image."""
        with self._process() as process:
            timer = threading.Timer(WALL_SECONDS, process.kill)
            timer.start()
            try:
                return _ask(process, content)
            except (OSError, ValueError):
                reason = _why_ended(process, late=timer.finished.is_set())
                if stop_requested():
                    raise InterruptedRunError("stopped by a signal while an image was decoded") from None
                if last or reason != FAULT:
                    raise BadImageError(name, reason) from None
            finally:
                timer.cancel()
        return None

    def end(self) -> None:
        """Kill every process, those at work included."""
        if os.getpid() == self._owner:  # a forked child leaves them to its parent
            for process in (*self._idle, *self._busy):
                process.kill()

    def close(self) -> None:
        """Kill every process and wait for its end."""
        self.end()
        for process in (*self._idle, *self._busy) if os.getpid() == self._owner else ():
            _close(process)

    @contextlib.contextmanager
    def _process(self) -> Iterator[subprocess.Popen[bytes]]:
        with self._lock:
            waiting = [process for process in self._idle if process.poll() is None]
            for dead in (process for process in self._idle if process not in waiting):
                _close(dead)
            new = not waiting
            process = _start() if new else waiting.pop()
            self._idle = waiting
            self._busy.add(process)
        try:
            if new:
                _wait_until_ready(process)
            yield process
        except BaseException:
            _close(process)
            raise
        else:
            with self._lock:
                self._idle.append(process)
        finally:
            with self._lock:
                self._busy.discard(process)


_pools: list[DecodeProcesses] = []
_making = threading.Lock()


def _pool() -> DecodeProcesses:
    with _making:
        if not _pools or _pools[-1]._owner != os.getpid():
            pool = DecodeProcesses(max(core_count(), 1))
            _pools.append(pool)
            atexit.register(pool.close)
            at_stop(pool.end)
        return _pools[-1]


def _start() -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-c",
        _START,
        json.dumps([str(Path(place or ".").absolute()) for place in sys.path]),
    ]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _wait_until_ready(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process's first byte; ResourceError where it ends before it has sent one."""
    assert process.stdout is not None
    timer = threading.Timer(START_SECONDS, process.kill)
    timer.start()
    try:
        if process.stdout.read(1):
            return
    finally:
        timer.cancel()
    if stop_requested():
        raise InterruptedRunError("stopped by a signal while an image was decoded")
    raise ResourceError(
        "the process that decodes images did not start: there is too little memory (ulimit -v), or too few "
        "files may be open at once (ulimit -n)"
    )


def _close(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    process.wait()


def _ask(process: subprocess.Popen[bytes], content: bytes) -> tuple[dict[str, Any], np.ndarray]:
    """Send a file and return what comes back; OSError or ValueError where the process ends before."""
    assert process.stdin is not None
    assert process.stdout is not None
    _send(process.stdin, content)
    told = json.loads(_receive(process.stdout))
    pixels = np.frombuffer(_receive(process.stdout), np.uint8).reshape(told["shape"])
    return told, pixels


def _why_ended(process: subprocess.Popen[bytes], *, late: bool) -> str:
    ended = process.wait()
    if ended == -getattr(signal, "SIGXCPU", 0):
        return f"decoding it takes more than {CPU_SECONDS} s; save it again as JPEG or PNG"
    if late:
        return f"its decoder had to be ended after {WALL_SECONDS:g} s; save it again as JPEG or PNG"
    return FAULT


def _send(stream: IO[bytes], content: bytes | memoryview) -> None:
    stream.write(len(content).to_bytes(_HEAD, "little"))
    stream.write(content)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytearray:
    """Return the next message; ValueError where the other side has ended."""
    found = bytearray(int.from_bytes(_exactly(stream, bytearray(_HEAD)), "little"))
    return _exactly(stream, found)


def _exactly(stream: IO[bytes], room: bytearray) -> bytearray:
    place, view = 0, memoryview(room)
    while place < len(room):
        count = stream.readinto(view[place:])  # type: ignore[attr-defined]
        if not count:
            raise ValueError("the other side has ended")
        place += count
    return room


def serve() -> None:
    """Decode what comes on the standard input until it ends: the life of such a process."""
    for number in SIGNALS:  # to the whole group they are for the parent, who ends this one
        signal.signal(number, signal.SIG_IGN)
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(b"\1")  # ready
    answers.flush()
    while True:
        try:
            content = bytes(_receive(asked))
        except ValueError:
            return
        _limit(len(content))
        notices: list[str] = []
        reason, pixels = "", np.zeros((0, 0, 3), np.uint8)
        try:
            pixels = decode_content(content, "", notices=notices)
        except BadImageError as error:
            reason = error.reason
        except MemoryError:
            reason = f"decoding it takes more than {MEMORY_BYTES // 10**6} MB; save it again as JPEG or PNG"
        told = [words.removeprefix(": ") for words in notices]
        answer = {"shape": pixels.shape, "notices": told, "reason": reason}
        _send(answers, json.dumps(answer).encode())
        _send(answers, pixels.data.cast("B") if pixels.size else b"")


def _limit(size: int) -> None:
    """Let this process have its seconds and its memory from now on, for a file of `size` bytes."""
    try:
        import resource
    except ImportError:  # Windows: the clock of the parent is left
        return

    def limit(kind: int, most: int) -> None:
        highest = resource.getrlimit(kind)[1]  # what this user may have is less, perhaps
        resource.setrlimit(kind, (most if highest == resource.RLIM_INFINITY else min(most, highest), highest))

    limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + CPU_SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = Path("/proc/self/statm")
    if memory.exists():
        now = int(memory.read_text().split()[0]) * resource.getpagesize()
        limit(resource.RLIMIT_AS, now + MEMORY_BYTES + SPARE_BYTES + 2 * size)
