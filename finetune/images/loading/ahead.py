"""The next batch on its way to a GPU while the last one is learned from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from finetune.images.loading.copies import forget_done


class Loaded(Protocol):
    """A batch as it was made."""

    @property
    def pageable(self) -> bool:
        """Whether its largest tensors lie in ordinary memory, which a GPU does not read from."""


class Ready(Protocol):
    """A batch on the device."""

    def tensors(self) -> Iterable[Tensor]:
        """Return what it is made of."""


T = TypeVar("T", bound=Loaded)
R = TypeVar("R", bound=Ready)
Begun = Future[tuple[R, torch.cuda.Event]]


def ahead(batches: Iterable[T], prepare: Callable[[T], R], device: torch.device) -> Iterator[R]:
    """Yield `prepare(batch)` for every batch; on a GPU the next one is prepared while one is used.

    There a second stream does it: copies and what is computed from them run beside the step. The caller's
    stream waits for an event before it uses a batch. Where a batch lies in ordinary memory a thread prepares
    it, for it has to be copied to page-locked memory first. What goes wrong with a batch is raised when its
    turn comes, after the batch before it was used.
    """
    if device.type != "cuda":
        return map(prepare, batches)
    return _Lane(device, prepare).through(iter(batches))


class _Lane(Generic[T, R]):
    """A stream beside the caller's."""

    def __init__(self, device: torch.device, prepare: Callable[[T], R]) -> None:
        self._prepare = prepare
        self._main = torch.cuda.current_stream(device)
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def through(self, batches: Iterator[T]) -> Iterator[R]:
        """Yield each batch, ready for the caller's stream."""
        self._side.wait_stream(self._main)  # what lies on the device already was made there
        with ThreadPoolExecutor(1) as thread:
            coming = self._begin(batches, thread)
            while coming is not None:
                ready, event = coming.result()
                coming = self._begin(batches, thread)
                self._main.wait_event(event)
                for tensor in ready.tensors():
                    if tensor.device.type == "cuda":
                        tensor.record_stream(self._main)  # its memory is not reused before the step is done
                yield ready
                del ready

    def _begin(self, batches: Iterator[T], thread: ThreadPoolExecutor) -> Begun[R] | None:
        """Start on the next batch; None after the last one."""
        forget_done(keep=1)
        begun: Begun[R] = Future()
        try:
            batch = next(batches, None)
            if batch is None:
                return None
            if batch.pageable:
                return thread.submit(self._send, batch)
            begun.set_result(self._send(batch))
        except Exception as error:
            begun.set_exception(error)
        return begun

    def _send(self, batch: T) -> tuple[R, torch.cuda.Event]:
        with torch.cuda.stream(self._side):
            return self._prepare(batch), self._side.record_event()
