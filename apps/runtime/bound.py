"""Runs on a GPU from and to page-locked memory, two under way: one is computed while the other is copied."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

Given = TypeVar("Given")
Answer = TypeVar("Answer")

UNDER_WAY = 2


class BoundSession:
    """A session of ONNX Runtime with inputs and outputs in buffers that are made once; any thread may run.

    Args:
        session: the session.
        lock_pages: tells the driver of a new buffer, so that copies need no processor.
    """

    def __init__(self, session: Any, lock_pages: Callable[[np.ndarray], object]) -> None:
        self._free: SimpleQueue[_Buffers] = SimpleQueue()
        for _ in range(UNDER_WAY):
            self._free.put(_Buffers(session, lock_pages))

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray], options: Any) -> list[np.ndarray]:
        """Return the outputs of these names, as `InferenceSession.run` does; waits for free buffers."""
        buffers = self._free.get()
        try:
            return buffers.run(names, feed, options)
        finally:
            self._free.put(buffers)


class _Buffers:
    """One input or output of each name, as large as the largest batch so far."""

    def __init__(self, session: Any, lock_pages: Callable[[np.ndarray], object]) -> None:
        self._session, self._lock_pages = session, lock_pages
        self._made: dict[str, np.ndarray] = {}
        self._shapes = {item.name: tuple(item.shape[1:]) for item in session.get_outputs() if _is_plain(item)}

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray], options: Any) -> list[np.ndarray]:
        binding, count = self._session.io_binding(), 0
        for name, values in feed.items():
            count, place = len(values), self._place(name, values.shape, values.dtype)
            np.copyto(place, values)
            binding.bind_cpu_input(name, place)
        found = {}
        for name in names:
            if name in self._shapes:
                place = found[name] = self._place(name, (count, *self._shapes[name]), np.dtype(np.float32))
                binding.bind_output(name, "cpu", 0, np.float32, place.shape, place.ctypes.data)
            else:
                binding.bind_output(name)
        self._session.run_with_iobinding(binding, options)
        own = binding.get_outputs()
        return [
            found[name].copy() if name in found else own[number].numpy() for number, name in enumerate(names)
        ]

    def _place(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        made = self._made.get(name)
        if made is None or len(made) < shape[0] or made.shape[1:] != shape[1:] or made.dtype != dtype:
            made = self._made[name] = np.empty(shape, dtype)
            self._lock_pages(made)
        return made[: shape[0]]


def under_way(
    run: Callable[[Given], Answer], batches: Iterator[Given], at_once: int
) -> Iterator[tuple[Given, Answer]]:
    """Yield each batch and what `run` returns for it, in order, with `at_once` of them under way."""
    if at_once < 2:
        yield from ((batch, run(batch)) for batch in batches)
        return
    waiting: deque[tuple[Given, Future[Answer]]] = deque()
    with ThreadPoolExecutor(at_once, "crl-run") as pool:
        for batch in batches:
            waiting.append((batch, pool.submit(run, batch)))
            if len(waiting) == at_once:
                first, answer = waiting.popleft()
                yield first, answer.result()
        for first, answer in waiting:
            yield first, answer.result()


def _is_plain(output: Any) -> bool:
    return output.type == "tensor(float)" and all(isinstance(size, int) for size in output.shape[1:])
