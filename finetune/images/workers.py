"""Processes that make batches, and the watch over them: none that dies or stands still keeps a run waiting.

What they make lies in slots of shared memory that were made before they were started (see
`finetune.images.loading.ring`): a request names its slot, and the answer is no more than that it is filled.
What has no slot travels through shared memory of its own. Where that is full, where a process was killed,
and where batches are lost on the way, the waiting process says so instead of waiting for ever. It looks up
from waiting every few seconds, so that a request to stop is met there too.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader

from finetune.cli.allocator import memory_is_kept
from finetune.cli.environment import WORKER_DIED
from finetune.errors import InterruptedRunError, ResourceError, listing
from finetune.images.decode import BadImageError
from finetune.images.loading.making import BatchLoader, Pulse, Request, Shortage
from finetune.images.loading.ring import AHEAD
from finetune.runs.interrupts import stop_requested

LOOK_SECONDS = 5.0  # between two looks at the signals and the processes
LOST_SECONDS = 40.0  # without a batch while no process makes one
STILL_SECONDS = 600.0  # without a single image while a process makes a batch
REMEDY = "start the container with more of it (--shm-size 1g), or load without processes: --run.workers 0"

T = TypeVar("T")


class StoppedWaitingError(InterruptedRunError):
    """A request to stop arrived while no batch did."""


class _Requests(Generic[T]):
    """The batch sampler of the worker processes: what they are asked for, one after the other.

    `sent` are the requests that are not answered yet, the oldest first.
    """

    def __init__(self, loader: BatchLoader[T]) -> None:
        self._loader = loader
        self.sent: deque[Request] = deque()
        self._pending: deque[Request] = deque()
        self._begins = False

    def begin(self, requests: Sequence[Request]) -> None:
        """Ask for these from the next pass on; what was asked for before is given up then."""
        self._pending, self._begins = deque(requests), True

    def goes_on(self, requests: Sequence[Request], following: Sequence[Request]) -> bool:
        """Ask for `following` too, and return True, where just `requests` are asked for already."""
        asked = [*self.sent, *self._pending]
        if not self.sent or len(asked) != len(requests):
            return False
        if not all(one.wants(other) for one, other in zip(asked, requests, strict=True)):
            return False
        self._pending.extend(following)
        return True

    def __iter__(self) -> Iterator[Request]:
        return self

    def __next__(self) -> Request:
        if self._begins:  # no process writes any more: each has said that it begins, or is gone
            self.sent.clear()
            if self._loader.ring is not None:
                self._loader.ring.reclaim()
            self._begins = False
        if not self._pending:
            raise StopIteration
        request = self._pending.popleft()
        self.sent.append(replace(request, slot=self._loader.slot(request)))
        return self.sent[-1]

    def __len__(self) -> int:
        return len(self._pending)


class _Children:
    """The processes of one engine, which nobody waits for when they are no longer needed."""

    def __init__(self) -> None:
        self._alive: list[BaseProcess] = []

    def begun(self, start: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Return what `start` does, and remember the processes that it began."""
        before = set(active_children())
        try:
            return start()
        finally:
            self._alive += set(active_children()) - before

    def end(self) -> None:
        """End them at once: they leave a request to stop to this process, so they would not heed one."""
        handler = signal.getsignal(signal.SIGCHLD)
        here = threading.current_thread() is threading.main_thread() and handler is not None
        if here:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise for each that ends
        for process in self._alive:
            process.kill()
        while self._alive:  # where a second Ctrl-C comes, the rest stays known
            self._alive[-1].join(1.0)  # no longer: one that its storage holds cannot even be killed
            self._alive.pop()
        if here:
            signal.signal(signal.SIGCHLD, handler)


class Engine(Generic[T]):
    """Answers requests in their order, in this process or with persistent worker processes."""

    def __init__(self, loader: BatchLoader[T], workers: int) -> None:
        self._loader, self._workers = loader, workers
        self._queue = _Requests(loader)
        self._processes: DataLoader[T] | None = None
        self._answers: Iterator[Any] = iter(())
        self._children = _Children()
        self._runs = 0
        # Also as the interpreter ends, before it would wait for them; torch alone waits 10 s, or for ever.
        self._ending = Finalize(self, self._children.end, exitpriority=10)

    def run(self, requests: Sequence[Request], following: Sequence[Request] = ()) -> Iterator[T]:
        """Yield the batches; those of an earlier call that are not yet read are given up.

        Processes go on with `following`, which the next call may ask for, when all of these are given out.

        Raises BadImageError for an image that cannot be read, ResourceError where shared memory is full, a
        process died or batches are lost, and StoppedWaitingError for a request to stop while waiting.
        """
        self._runs += 1
        if self._workers == 0:
            return (self._loader.load(request) for request in requests)
        return self._run_in_processes(requests, following, self._runs)

    def _run_in_processes(
        self, requests: Sequence[Request], following: Sequence[Request], run: int
    ) -> Iterator[T]:
        if self._processes is None or not self._queue.goes_on(requests, following):
            self._queue.begin([*requests, *following])
            self._answers = self._begin()
        for request in requests:
            if run != self._runs:
                raise RuntimeError("these batches were given up when a newer epoch was started")
            try:
                answer = self._wait(self._answers, request)
                if isinstance(answer, BadImageError):
                    raise answer
                if isinstance(answer, Shortage):
                    raise ResourceError(f"shared memory (/dev/shm) is full: {REMEDY} ({answer.reason})")
            except BaseException:
                self._give_up()
                raise
            sent = self._queue.sent.popleft()
            yield answer if sent.slot is None else self._loader.filled(sent)

    def _begin(self) -> Iterator[Any]:
        """Start a pass; processes that do not answer in time, busy with the last one, are started again."""
        if self._processes is not None:
            with suppress(RuntimeError):
                return iter(self._processes)
        self._give_up()
        self._processes = self._start()
        answers = self._children.begun(self._processes.__iter__)
        if self._loader.ring is not None:
            self._loader.ring.lock()
        return answers

    def _wait(self, answers: Iterator[Any], request: Request) -> Any:
        """Return the next answer, with an eye on the signals and on what the processes do."""
        pulse = self._loader.pulse
        seen, since = b"", time.monotonic()
        while True:
            try:
                return next(answers)
            except RuntimeError as error:
                if "timed out after" not in str(error):
                    raise self._explain(error, request) from error
            if stop_requested():
                raise StoppedWaitingError("stopped while waiting for images")
            busy, found = pulse.look() if pulse is not None else (True, b"")
            if found != seen:
                seen, since = found, time.monotonic()
            if time.monotonic() - since > (STILL_SECONDS if busy else LOST_SECONDS):
                raise self._stuck(request, busy)

    def _give_up(self) -> None:
        """End the processes without waiting for what they do, so that whoever stops can save at once."""
        self._processes = None
        self._children.end()
        self._answers = iter(())  # torch's own end of them follows: nothing is left to wait for

    def _start(self) -> DataLoader[T]:
        forked = multiprocessing.get_start_method() == "fork"
        self._loader.pulse = Pulse(self._workers) if forked else None
        self._loader.keeps_memory = memory_is_kept()
        if self._loader.ring is None:
            self._loader.ring = self._loader.open_ring(self._workers, inherited=forked)
        else:
            self._loader.ring.unlock()
        return DataLoader(
            self._loader,
            batch_sampler=self._queue,  # type: ignore[arg-type]  # yields requests instead of index lists
            num_workers=self._workers,
            prefetch_factor=AHEAD,
            collate_fn=_as_it_is,
            worker_init_fn=self._loader.prepare,
            persistent_workers=True,
            timeout=LOOK_SECONDS,
            generator=torch.Generator(),  # its own: starting workers must not draw from the global one
        )

    def _explain(self, error: RuntimeError, request: Request) -> Exception:
        if WORKER_DIED not in str(error):  # an exception of our own code, with its traceback
            return error
        if stop_requested():
            return StoppedWaitingError("stopped; the loading processes had ended before")
        return ResourceError(
            f"a loading process died ({error}). The usual cause is too little memory or shared memory "
            "(/dev/shm): use fewer workers (--run.workers 0 for none) or a smaller batch. The batch being "
            f"waited for holds:\n{listing(self._loader.files(request))}"
        )

    def _stuck(self, request: Request, busy: bool) -> ResourceError:
        if not busy:
            return ResourceError(
                f"no batch arrived from {self._workers} loading processes within {LOST_SECONDS:.0f} s, and "
                f"none is being made: shared memory (/dev/shm) is full, or too few files may be open at "
                f"once (ulimit -n). For the first, {REMEDY}"
            )
        return ResourceError(
            f"no image was read within {STILL_SECONDS / 60:.0f} minutes: is the storage there? Go on with "
            f"--run.resume auto. The batch being waited for holds:\n{listing(self._loader.files(request))}"
        )


def _as_it_is(batch: Any) -> Any:
    return batch
