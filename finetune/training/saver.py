"""When a training saves inside an epoch: when it is time, and when it is asked to stop; and who writes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from finetune.cli.console import Progress as Bar
from finetune.images.batches import TrainBatches
from finetune.images.workers import StoppedWaitingError
from finetune.runs.interrupts import StopRequest
from finetune.training.checkpoint import Progress
from finetune.training.config import FitConfig
from finetune.training.epoch_metrics import Totals
from finetune.training.failures import check_batch_norm, check_finite_weights
from finetune.training.learner import Learner
from finetune.training.optimization.distributed import World, all_true, any_true
from finetune.training.optimization.host_copy import host_copy, writes_beside

MOST_WAITING = 2  # files at a time that are written beside the training: the last and the best checkpoint


def nothing() -> None:
    """Do nothing."""


class Writer:
    """Writes files one after the other: at once, or on a GPU beside the training.

    What fails is raised at the next look (`poll`, `join`, `write`), in the thread of the training, and what
    is to follow a file is done there too, once the file is safe.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = ThreadPoolExecutor(1, "crl-save")  # its thread starts with the first file
        self._waiting: deque[tuple[Future[object], Callable[[], None]]] = deque()

    def write(self, write: Callable[[Any], object], state: Any, then: Callable[[], None] = nothing) -> None:
        """Have `write(state)` called with the state as it is now, and `then` afterwards."""
        if not writes_beside(self._device):
            write(state)
            then()
            return
        while len(self._waiting) >= MOST_WAITING:
            self._finish()
        copy, wait_for_copy = host_copy(state, self._device)

        def work() -> None:
            wait_for_copy()
            write(copy)

        self._waiting.append((self._pool.submit(work), then))

    def poll(self) -> None:
        """Do what follows the files that are written by now."""
        while self._waiting and self._waiting[0][0].done():
            self._finish()

    def join(self) -> None:
        """Wait until all is written, and do what follows."""
        while self._waiting:
            self._finish()

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Let nothing be left to write when the `with` ends, whatever ends it."""
        try:
            yield
        finally:
            self.join()

    def _finish(self) -> None:
        future, then = self._waiting.popleft()
        future.result()
        then()


class Saved(Protocol):
    """The run that is saved."""

    learner: Learner
    world: World
    config: FitConfig
    progress: Progress

    @property
    def writer(self) -> Writer:
        """What writes its checkpoints."""

    @property
    def train_batches(self) -> TrainBatches:
        """What it learns from."""

    def save(self) -> None:
        """Write the checkpoint to go on from."""


class Saver:
    """Called after every optimiser step: moves the bar, saves when it is time, and stops when asked to."""

    def __init__(self, run: Saved, stop: StopRequest) -> None:
        check_batch_norm(run.learner.core, run.train_batches.batch_size // run.world.size)
        self.run, self.stop = run, stop
        self.bar: Bar | None = None
        self.epoch = 0
        self.left_early = False
        self.finished: tuple[int, Totals] | None = None
        self.last_save = self.last_lap = time.monotonic()
        self.ask_every, self.calls = 1 if run.world.size == 1 else 10, 0

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        now = time.monotonic()
        seconds, self.last_lap = now - self.last_lap, now
        return seconds

    def __call__(self, step: int, totals: Totals) -> bool:
        """Return whether to leave the epoch here, after saving; `step` counts the epoch's finished steps."""
        run, steps = self.run, self.run.train_batches.steps_per_epoch
        run.writer.poll()
        self.finished = step, totals
        if self.bar is not None:
            self.bar.advance(step * run.train_batches.batch_size - self.bar.done)
        self.calls += 1
        if step == steps or self.calls % self.ask_every:
            return False
        stopped = any_true(self.stop.requested, run.world)
        due = time.monotonic() - self.last_save >= 60 * run.config.run.checkpoint_minutes
        if not (stopped or any_true(due, run.world)):
            return False
        if not all_true(totals.finite(), run.world):
            return False  # the loop is about to name the batch that corrupted the weights
        check_finite_weights(run.learner.core, self.epoch, step)
        run.progress.seconds += self.lap()
        run.progress.step, run.progress.totals = step, totals
        run.save()
        self.last_save = time.monotonic()
        self.left_early = stopped
        return stopped

    @contextmanager
    def when_waiting_ends(self) -> Iterator[None]:
        """Save what is finished where a request to stop ends the waiting for a batch.

        Not where batches share an optimiser step: part of one cannot be resumed from.
        """
        self.finished = None
        try:
            yield
        except StoppedWaitingError:
            if self.run.world.size == 1 and self.run.config.train.accumulate == 1:
                self._save_finished()
            raise

    def _save_finished(self) -> None:
        run = self.run
        run.progress.seconds += self.lap()
        if self.finished is not None:
            run.progress.step, run.progress.totals = self.finished
        if run.progress.totals is None or all_true(run.progress.totals.finite(), run.world):
            check_finite_weights(run.learner.core, self.epoch, run.progress.step)
            run.save()
