"""What a loading process does: it makes the batches that it is asked for, and counts what it did."""

from __future__ import annotations

import mmap
import signal
from dataclasses import dataclass
from types import FrameType
from typing import Generic, TypeVar

import cv2
import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from finetune.cli.allocator import keep_freed_memory
from finetune.images.decode import BadImageError
from finetune.images.loading.ring import Ring

T = TypeVar("T")


@dataclass(frozen=True)
class Request:
    """One batch to be made: its epoch, its manifest rows, and the slot of the ring to make it in, if any."""

    epoch: int
    rows: np.ndarray
    slot: int | None = None

    def wants(self, other: Request) -> bool:
        """Return whether both ask for the same images."""
        return self.epoch == other.epoch and np.array_equal(self.rows, other.rows)


@dataclass(frozen=True)
class Shortage:
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
    """Makes the batch that a request asks for; a subclass says how.

    `ring` has the slots, of a loader whose processes have any. With `keeps_memory` these keep what they free,
    as the process that trains does: one that is forked does so anyway, one that is spawned must be told.
    """

    def __init__(self) -> None:
        self.pulse: Pulse | None = None
        self.ring: Ring | None = None
        self.keeps_memory = False

    def load(self, request: Request) -> T:
        """Return the batch; BadImageError, naming the file, for an image that cannot be read."""
        raise NotImplementedError

    def tensors(self, batch: T) -> tuple[Tensor, ...]:
        """Return the tensors of a batch, which travel to the process that trains where it has no slot."""
        raise NotImplementedError

    def files(self, request: Request) -> list[str]:
        """Return the files that a batch is made of."""
        raise NotImplementedError

    def open_ring(self, processes: int, *, inherited: bool) -> Ring | None:  # noqa: ARG002
        """Return slots for so many processes; None for a loader that has no use of any."""
        return None

    def slot(self, request: Request) -> int | None:  # noqa: ARG002
        """Return a free slot for a request; None where there is none."""
        return None

    def fill(self, request: Request) -> None:
        """Make the batch in the slot that the request names; raises what `load` raises."""
        raise NotImplementedError

    def filled(self, request: Request) -> T:
        """Return the batch that was made in a slot."""
        raise NotImplementedError

    def prepare(self, worker: int) -> None:  # noqa: ARG002
        """Make a process ready: it leaves requests to stop to the process that trains."""
        cv2.setNumThreads(0)
        if self.keeps_memory:
            keep_freed_memory()
        leave_signals_to_the_parent()

    def count_image(self) -> None:
        """Count one more image made, where somebody watches."""
        self._count(2)

    def __getitems__(self, request: Request) -> T | BadImageError | Shortage | None:
        self._count(0)
        try:
            if request.slot is not None:
                self.fill(request)
                return None
            batch = self.load(request)
            try:
                # Here, for the thread that sends them could tell nobody.
                for tensor in self.tensors(batch):
                    tensor.share_memory_()  # type: ignore[no-untyped-call]
            except (RuntimeError, OSError) as error:
                return Shortage((str(error).splitlines() or [""])[0])
            return batch
        except BadImageError as error:  # travels as a value: torch would rebuild it from its text alone
            return error
        finally:
            self._count(1)

    def _count(self, field: int) -> None:
        worker = get_worker_info()
        if self.pulse is not None and worker is not None:
            self.pulse.count(worker.id, field)


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
