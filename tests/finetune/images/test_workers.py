"""Processes that make batches: none that dies, stands still or finds no room keeps a run waiting."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.errors import ResourceError
from finetune.images import workers
from finetune.images.loading import making
from finetune.images.workers import BatchLoader, Engine, Request, StoppedWaitingError
from finetune.runs.interrupts import StopRequest

ROOT = Path(__file__).resolve().parents[3]
REQUESTS = [Request(0, np.array([row])) for row in range(4)]


class Rows(BatchLoader[Tensor]):
    """Batches that hold their row, after whatever `before` does in the process that makes them."""

    def __init__(self, before: Callable[[int], None] = lambda row: None) -> None:
        super().__init__()
        self.before = before

    def load(self, request: Request) -> Tensor:
        (row,) = request.rows.tolist()
        self.before(row)
        self.count_image()
        return torch.tensor([row])

    def tensors(self, batch: Tensor) -> tuple[Tensor, ...]:
        return (batch,)

    def files(self, request: Request) -> list[str]:
        return [f"row{row}.jpg" for row in request.rows.tolist()]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(workers, "LOST_SECONDS", 0.4)
    monkeypatch.setattr(workers, "STILL_SECONDS", 1.0)


def made(loader: Rows, count: int = 1) -> list[int]:
    return [int(batch) for batch in Engine(loader, count).run(REQUESTS)]


def test_slow_processes_are_waited_for():
    assert made(Rows(lambda row: time.sleep(0.6)), 2) == [0, 1, 2, 3]


@pytest.mark.parametrize("kept", [False, True])
def test_processes_keep_freed_memory_where_the_one_that_trains_does(
    monkeypatch: pytest.MonkeyPatch, kept: bool
):
    asked: list[int] = []
    monkeypatch.setattr(making, "keep_freed_memory", lambda: asked.append(1))
    monkeypatch.setattr(workers, "memory_is_kept", lambda: kept)
    monkeypatch.setattr(Rows, "load", lambda self, request: torch.tensor([len(asked)]))
    assert made(Rows()) == [int(kept)] * 4


def test_shared_memory_that_is_full_is_told_with_its_remedies(monkeypatch: pytest.MonkeyPatch):
    def no_room(_tensor: Tensor) -> Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left")

    monkeypatch.setattr(Tensor, "share_memory_", no_room)
    with pytest.raises(ResourceError, match=r"/dev/shm.* is full: .*--shm-size.*--run\.workers 0") as caught:
        made(Rows())
    assert caught.value.exit_code == 5


class Unsendable:
    """What the thread that sends cannot send: it prints its error, and nobody hears of it."""

    def __reduce__(self) -> str:
        raise OSError(24, "Too many open files")


@pytest.mark.filterwarnings("ignore")
def test_batches_lost_on_the_way_are_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Rows, "load", lambda self, request: Unsendable())
    monkeypatch.setattr(Rows, "tensors", lambda self, batch: ())
    start = time.monotonic()
    with pytest.raises(ResourceError, match=r"no batch arrived .*ulimit -n.*--run\.workers 0"):
        made(Rows())
    assert time.monotonic() - start < 10


def test_images_that_never_come_are_noticed():
    with pytest.raises(ResourceError, match=r"no image was read .*storage(.|\n)*row0\.jpg"):
        made(Rows(lambda row: time.sleep(30)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_dies_is_told_with_its_files(number: signal.Signals):
    with pytest.raises(ResourceError, match=r"loading process died(.|\n)*row[0-3]\.jpg"):
        made(Rows(lambda row: os.kill(os.getpid(), number)))


@pytest.mark.usefixtures("as_in_a_terminal")
def test_a_request_to_stop_is_met_while_waiting():
    with StopRequest(), pytest.raises(StoppedWaitingError):
        made(Rows(lambda row: os.kill(os.getppid(), signal.SIGTERM) or time.sleep(30)))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGINT"])
def test_a_signal_to_the_whole_group_leaves_the_stop_to_the_process_that_trains(name: str):
    assert made(Rows(lambda row: os.kill(os.getpid(), getattr(signal, name)) if row == 1 else None)) == [
        0,
        1,
        2,
        3,
    ]


def test_a_pass_given_up_by_a_busy_process_does_not_spoil_the_next():
    engine = Engine(Rows(lambda row: time.sleep(0.5)), 1)
    assert int(next(iter(engine.run(REQUESTS)))) == 0
    assert [int(batch) for batch in engine.run(REQUESTS[2:])] == [2, 3]


def test_what_is_thrown_away_half_way_ends_its_processes_at_once():
    before = set(active_children())
    answers = Engine(Rows(), 2).run(REQUESTS)
    next(answers)
    loop: list[object] = [answers]  # as an exception and the frames of its traceback hold each other
    loop.append(loop)
    del answers, loop
    since = time.monotonic()
    gc.collect()
    assert time.monotonic() - since < 4  # torch alone: 5 s for each process, and 5 s more
    assert set(active_children()) == before


def test_a_second_ctrl_c_while_they_end_leaves_none_behind(monkeypatch: pytest.MonkeyPatch):
    before = set(active_children())
    engine = Engine(Rows(lambda row: time.sleep(0.2)), 2)
    answers = engine.run(REQUESTS)
    next(answers)
    handler = signal.getsignal(signal.SIGCHLD)

    def interrupted(_process: BaseProcess, _seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BaseProcess, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine._children.end()
    for process in set(active_children()) - before:
        process.join(5)
    signal.signal(signal.SIGCHLD, handler)
    assert set(active_children()) == before


END_HALF_WAY = """
from tests.finetune.images.test_workers import Engine, REQUESTS, Rows
answers = Engine(Rows(), 2).run(REQUESTS)
next(answers)
raise SystemExit(7)
"""


def test_a_program_that_ends_half_way_does_not_wait_for_its_processes():
    child = [sys.executable, "-c", END_HALF_WAY]
    assert subprocess.run(child, cwd=ROOT, timeout=60, check=False).returncode == 7
