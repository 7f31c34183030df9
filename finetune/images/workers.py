"""Processes that make batches, and the watch over them: none that dies or stands still keeps a run waiting.

What they make travels through shared memory. Where that is full, where a process was killed, and where
batches are lost on the way, the waiting process says so instead of waiting for ever. It looks up from
waiting every few seconds, so that a request to stop is met there too.
"""

from __future__ import annotations

import mmap
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from types import FrameType
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from finetune.cli.environment import WORKER_DIED
from finetune.errors import InterruptedRunError, ResourceError, listing
from finetune.images.decode import BadImageError
from finetune.runs.interrupts import stop_requested

LOOK_SECONDS = 5.0  # between two looks at the signals and the processes
LOST_SECONDS = 40.0  # without a batch while no process makes one
STILL_SECONDS = 600.0  # without a single image while a process makes a batch
REMEDY = "start the container with more of it (--shm-size 1g), or load without processes: --run.workers 0"

T = TypeVar("T")


class StoppedWaitingError(InterruptedRunError):
    """A request to stop arrived while no batch did."""


@dataclass(frozen=True)
class Request:
    """One batch to be made: the epoch it belongs to and its manifest rows."""

    epoch: int
    rows: np.ndarray


@dataclass(frozen=True)
class _Shortage:
    """What a process returns in place of a batch that found no room in shared memory."""

    reason: str


class Pulse:
    """What each process does, in memory that all see: batches begun, batches made, images made."""

    FIELDS = 3

    def __init__(self, processes: int) -> None:
        self._memory = mmap.mmap(-1, 8 * self.FIELDS * processes)
        self._counts = np.frombuffer(self._memory, dtype=np.int64).reshape(processes, self.FIELDS)

    def count(self, process: int, field: int) -> None:
        """Count one more: field 0 a batch begun, 1 a batch made or given up, 2 an image."""
        self._counts[process, field] += 1

    def look(self) -> tuple[bool, bytes]:
        """Return whether a process is making a batch, and a text that changes with everything made."""
        now = self._counts.copy()
        return bool((now[:, 0] > now[:, 1]).any()), now.tobytes()


class BatchLoader(Dataset[T], Generic[T]):
    """Makes the batch that a request asks for; a subclass says how."""

    def __init__(self) -> None:
        self.pulse: Pulse | None = None

    def load(self, request: Request) -> T:
        """Return the batch; BadImageError, naming the file, for an image that cannot be read."""
        raise NotImplementedError

    def tensors(self, batch: T) -> tuple[Tensor, ...]:
        """Return the tensors of a batch, which travel to the process that trains."""
        raise NotImplementedError

    def files(self, request: Request) -> list[str]:
        """Return the files that a batch is made of."""
        raise NotImplementedError

    def prepare(self, worker: int) -> None:  # noqa: ARG002
        """Make a process ready: it leaves requests to stop to the process that trains."""
        cv2.setNumThreads(0)
        leave_signals_to_the_parent()

    def count_image(self) -> None:
        """Count one more image made, where somebody watches."""
        self._count(2)

    def __getitems__(self, request: Request) -> T | BadImageError | _Shortage:
        self._count(0)
        try:
            batch = self.load(request)
            try:
                # Here, for the thread that sends them could tell nobody.
                for tensor in self.tensors(batch):
                    tensor.share_memory_()  # type: ignore[no-untyped-call]
            except (RuntimeError, OSError) as error:
                return _Shortage((str(error).splitlines() or [""])[0])
            return batch
        except BadImageError as error:  # travels as a value: torch would rebuild it from its text alone
            return error
        finally:
            self._count(1)

    def _count(self, field: int) -> None:
        worker = get_worker_info()
        if self.pulse is not None and worker is not None:
            self.pulse.count(worker.id, field)


class _Requests:
    """The batch sampler of the worker processes; what it yields is set before each pass."""

    def __init__(self) -> None:
        self.pending: Sequence[Request] = ()

    def __iter__(self) -> Iterator[Request]:
        return iter(self.pending)

    def __len__(self) -> int:
        return len(self.pending)


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
        self._queue = _Requests()
        self._processes: DataLoader[T] | None = None
        self._children = _Children()
        self._runs = 0
        # Also as the interpreter ends, before it would wait for them; torch alone waits 10 s, or for ever.
        self._ending = Finalize(self, self._children.end, exitpriority=10)

    def run(self, requests: Sequence[Request]) -> Iterator[T]:
        """Yield the batches; those of an earlier call that are not yet read are given up.

        Raises BadImageError for an image that cannot be read, ResourceError where shared memory is full, a
        process died or batches are lost, and StoppedWaitingError for a request to stop while waiting.
        """
        self._runs += 1
        if self._workers == 0:
            return (self._loader.load(request) for request in requests)
        return self._run_in_processes(requests, self._runs)

    def _run_in_processes(self, requests: Sequence[Request], run: int) -> Iterator[T]:
        self._queue.pending = requests
        answers = self._begin()
        for request in requests:
            if run != self._runs:
                raise RuntimeError("these batches were given up when a newer epoch was started")
            try:
                answer = self._wait(answers, request)
                if isinstance(answer, BadImageError):
                    raise answer
                if isinstance(answer, _Shortage):
                    raise ResourceError(f"shared memory (/dev/shm) is full: {REMEDY} ({answer.reason})")
            except BaseException:
                self._give_up()
                raise
            yield answer

    def _begin(self) -> Iterator[Any]:
        """Start a pass; processes that do not answer in time, busy with the last one, are started again."""
        if self._processes is not None:
            try:
                return iter(self._processes)
            except RuntimeError:
                self._processes = None
        self._children.end()
        self._processes = self._start()
        return self._children.begun(self._processes.__iter__)

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

    def _start(self) -> DataLoader[T]:
        forked = multiprocessing.get_start_method() == "fork"
        self._loader.pulse = Pulse(self._workers) if forked else None
        return DataLoader(
            self._loader,
            batch_sampler=self._queue,  # type: ignore[arg-type]  # yields requests instead of index lists
            num_workers=self._workers,
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


def leave_signals_to_the_parent() -> None:
    """Ignore requests to stop, which may be sent to the process that trains together with its workers.

    A second SIGTERM ends a worker all the same: that is how one that does not answer is ended.
    """
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _heed_the_next)


def _heed_the_next(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
