"""Many workers, one suite: how many, whose turn it is, and in which order."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import pytest

from finetune.cli.machine import cpu_quota, granted_cores, memory_bytes

WORKER_BYTES = 3e9  # what one worker's torch, timm, ONNX Runtime and their children take at most


def worker_count(cores: int, quota: float | None, memory: float) -> int:
    """Return how many workers `-n auto` starts; 0 runs every test in this process.

    One for each core's worth of time that this process may use, and no more than the memory holds.
    """
    count = min(cores, int(quota) if quota else cores, int(memory / WORKER_BYTES))
    return count if count > 1 else 0


def at_hand() -> int:
    """Return the number of workers for this machine."""
    return worker_count(granted_cores(), cpu_quota(), memory_bytes())


@contextmanager
def locked(file: Path, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
    """Hold a file's lock; a process forked meanwhile cannot keep it longer than this `with`."""
    with file.open("a") as stream:
        fcntl.flock(stream, kind)
        try:
            yield
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)


class Turns:
    """While a test marked `alone` runs, no other test runs, in whichever worker.

    Every test holds the room, most of them together and a test alone by itself. They get there through the
    door, one after the other, so that one who waits for an empty room is not passed by later ones.
    """

    def __init__(self, folder: Path) -> None:
        self.door, self.room = folder / "door.lock", folder / "room.lock"

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # first: outside the clock of pytest-timeout
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Run one test, its fixtures included, when it may."""
        with self.turn(alone=item.get_closest_marker("alone") is not None):
            return (yield)

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        """Hold the room, by oneself or with others."""
        with self.room.open("a") as room:
            with locked(self.door):
                fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            try:
                yield
            finally:
                fcntl.flock(room, fcntl.LOCK_UN)


def common_folder(factory: pytest.TempPathFactory) -> Path:
    """Return a folder of this test run that every worker sees."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def shuffled(items: list[pytest.Item], seed: int) -> list[pytest.Item]:
    """Return the tests in another order: files are shuffled, and the tests inside each file."""
    dice = random.Random(seed)
    files = [list(group) for _, group in groupby(items, key=lambda item: item.path)]
    dice.shuffle(files)
    for group in files:
        dice.shuffle(group)
    return [item for group in files for item in group]
