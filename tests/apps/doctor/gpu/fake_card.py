"""A GPU that is the CPU: what only a GPU's software could answer is said by fields that a test may change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from apps.doctor.gpu.card import Card
from apps.doctor.gpu.outcome import Outcome
from apps.doctor.gpu.setup import TINY, Setup

GB = 10**9


class FakeCard(Card):
    """A sound GPU of capability 9.0 with 16 GB; `taken` is what the allocator says that a step took."""

    name = "a drawn GPU"
    capability = (9, 0)
    has_tf32 = False
    halves = ("bfloat16",)
    count = 1
    has_nccl = True

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.reason: str | None = None
        self.free, self.shared = 12 * GB, 8 * GB
        self.has_compiler = self.has_python = True
        self.answer: Tensor | None = None
        self.taken = GB

    def kernels(self) -> list[str]:
        return ["sm_90"]

    def unserved(self) -> str | None:
        return self.reason

    def driver(self) -> str:
        return "580.65"

    def free_and_total(self) -> tuple[int, int]:
        return self.free, 16 * GB

    def shared_memory(self) -> int | None:
        return self.shared

    def compiler(self) -> str | None:
        return "cc" if self.has_compiler else None

    def has_headers(self) -> bool:
        return self.has_python

    def computes(self) -> Tensor:
        return super().computes() if self.answer is None else self.answer

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    @contextmanager
    def waiting_is_an_error(self) -> Iterator[Callable[[], None]]:
        with NoReads():
            yield lambda: None

    def peak_of(self, work: Callable[[], object]) -> int:
        return self.taken

    @contextmanager
    def without_memory(self) -> Iterator[None]:
        if True:  # nothing can be done inside
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        yield


class NoReads(TorchDispatchMode):
    """Raises, as torch does on a GPU, where a value is read."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "local_scalar_dense" in str(func):
            raise RuntimeError("called a synchronizing CUDA operation")
        return func(*args, **(kwargs or {}))


def setup_in(folder: Path, card: Card | None = None) -> Setup:
    """Return what checks are given, in sizes of a fraction of a second."""
    return Setup(card or FakeCard(), folder, TINY)


def is_wrong(outcome: Outcome, *, found: str, repair: str) -> bool:
    """Return whether an outcome is wrong, and says what and how to repair it."""
    assert outcome.status == "wrong", outcome
    assert found in outcome.found, outcome.found
    assert repair in outcome.repair, outcome.repair
    return True
