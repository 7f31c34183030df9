"""How much memory tensors take: counted without computing, and what a device has left."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from finetune.cli.machine import free_gpu_bytes, memory_bytes

MEMORY_TABLE = Path("/proc/meminfo")
KEPT_FREE = 0.1  # fraction of a device's free memory that a plan leaves to what it does not see


class TensorMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors alive inside the `with`, by their storages, on any device.

    What a kernel takes and gives back within one operation is not seen, nor what an allocator rounds up or
    keeps for later: a process needs more than `peak`.

    Args:
        held: tensors that are there already (weights, the batch); others made before are not counted.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: set[int] = set()
        for tensor in held:
            self._see(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count the storages that are new in its result."""
        del types
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        name, size = (
            id(storage),
            storage.nbytes(),
        )  # one Python object stands for a storage as long as it lives
        if name in self._alive:
            return
        self._alive.add(name)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, name, size).atexit = False

    def _forget(self, name: int, size: int) -> None:
        self._alive.discard(name)
        self.now -= size


def free_bytes(device: torch.device) -> int:
    """Return the bytes that may be allocated on a device now: a GPU's free memory, or the machine's."""
    if device.type == "cuda":
        return free_gpu_bytes(device)
    whole = memory_bytes()
    if not MEMORY_TABLE.is_file():  # outside Linux: half of it, since others are at work too
        return whole // 2
    lines = dict(line.split(":", 1) for line in MEMORY_TABLE.read_text(encoding="ascii").splitlines())
    return min(whole, 1024 * int(lines["MemAvailable"].split()[0]))


def room(device: torch.device) -> int:
    """Return the bytes that a plan may fill on a device: what is free, less a tenth."""
    return int((1 - KEPT_FREE) * free_bytes(device))
