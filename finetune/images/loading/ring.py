"""Slots of shared memory: loading processes write their images there, again and again.

Memory that is made for every batch costs more than its images do: pages are zeroed, mapped and freed. A slot
is free again when the last tensor that shows it is gone. So nothing that is still looked at is ever
overwritten, whoever keeps it.
"""

from __future__ import annotations

import math
import mmap
import shutil
import weakref
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.cli.console import say
from finetune.cli.machine import memory_bytes

MOST_LENT = 2  # batches that show their slots at one time: one in use, one on its way to the device
AHEAD = 2  # batches that each process is asked for
MEMORY_SHARE, SHARED_SHARE = 8, 2  # a ring takes at most one part in this many, of memory and of /dev/shm
SHARED = Path("/dev/shm")
PAGE = 4096
ON_EVERY_GPU = 1  # cudaHostRegisterPortable


def slots_of(processes: int) -> int:
    """Return how many slots keep so many processes busy while a batch is in use and one is copied."""
    return AHEAD * processes + MOST_LENT


class _Lent:
    """A slot that is shown: the memory of all tensors made of it, given back with the last of them."""

    def __init__(self, ring: Ring, slot: int, size: int) -> None:
        self._ring, self._slot = ring, slot
        place = ring.memory.data_ptr() + slot * ring.size
        self.__array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (place, False),
            "version": 3,
        }

    def __del__(self) -> None:
        self._ring.free.append(self._slot)


class Ring:
    """`slots` places of at least `size` bytes in memory that processes started later share.

    A slot is free, asked for (a process writes to it) or lent (a tensor shows it). Without `inherited`
    processes are sent the memory, which then lies in /dev/shm.

    Raises RuntimeError or OSError where there is no room.
    """

    def __init__(self, slots: int, size: int, *, inherited: bool) -> None:
        self.slots, self.size = slots, -(-size // PAGE) * PAGE
        self.memory = _touched(slots * self.size, inherited=inherited)
        self.free = deque(range(slots))
        self._asked: set[int] = set()
        self._locked: weakref.finalize[Any, Ring] | None = None

    def take(self, size: int) -> int | None:
        """Return a slot for so many bytes that a process may write to now; None where there is none."""
        if size > self.size or not self.free:
            return None
        slot = self.free.popleft()
        self._asked.add(slot)
        return slot

    def place(self, slot: int, shape: tuple[int, ...]) -> np.ndarray:
        """Return a slot's first bytes to write to, uint8 of this shape."""
        start = slot * self.size
        return self.memory.numpy()[start : start + math.prod(shape)].reshape(shape)

    def lend(self, slot: int, shape: tuple[int, ...]) -> Tensor:
        """Return what a process wrote to its slot, uint8 of this shape.

        The slot is lent until no tensor shows it. Where others are lent already this is a copy, so that
        processes always have somewhere to write.
        """
        self._asked.discard(slot)
        shown = torch.from_numpy(np.asarray(_Lent(self, slot, math.prod(shape)))).view(shape)
        return shown if self.lent <= MOST_LENT else shown.clone()

    @property
    def lent(self) -> int:
        """How many slots are shown by tensors."""
        return self.slots - len(self.free) - len(self._asked)

    def reclaim(self) -> None:
        """Take back the slots that were asked for: no process writes any more."""
        self.free.extend(self._asked)
        self._asked.clear()

    def lock(self) -> None:
        """Lock the memory for copies by a GPU, where this process uses one and the driver agrees.

        After the processes were started, which the driver's locks do not concern.
        """
        if self._locked is not None or not (
            torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        ):
            return
        library: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        place = self.memory.data_ptr()
        if int(library.cudaHostRegister(place, self.memory.numel(), ON_EVERY_GPU)) == 0:
            self._locked = weakref.finalize(self, library.cudaHostUnregister, place)
            return
        with suppress(RuntimeError):  # it is reported once more, to the next kernel: let that be this one
            torch.zeros(1, device="cuda")

    def unlock(self) -> None:
        """Undo `lock`, before processes are started."""
        if self._locked is not None:
            self._locked()
            self._locked = None

    def __getstate__(self) -> dict[str, Any]:
        """Travel as memory alone: who writes where is the business of the process that asks."""
        return {"size": self.size, "slots": self.slots, "memory": self.memory}


def open_ring(slots: int, size: int, *, inherited: bool) -> Ring | None:
    """Return a ring of so many slots of `size` bytes, of fewer where memory is short; None where it is full.

    What has no slot is sent through memory of its own, so a smaller ring is slower and nothing else.
    """
    room = memory_bytes() // MEMORY_SHARE
    if not inherited and SHARED.is_dir():
        room = min(room, shutil.disk_usage(SHARED).free // SHARED_SHARE)
    fitting = min(slots, room // max(1, size))
    if fitting < slots:
        where = "memory" if inherited else "shared memory (/dev/shm)"
        say(
            f"note: {where} has room for {fitting} of the {slots} batches of {size / 2**20:.0f} MB that the "
            "loading processes would fill in turn; they are slower without: take smaller batches or fewer "
            "processes (--run.workers)" + ("" if inherited else ", or more of it (--shm-size)")
        )
    try:
        return Ring(fitting, size, inherited=inherited) if fitting else None
    except (RuntimeError, OSError):  # taken meanwhile by others: the first batch that finds no room says so
        return None


def _touched(size: int, *, inherited: bool) -> Tensor:
    """Return shared memory whose pages are all there."""
    if inherited:
        memory = torch.from_numpy(np.frombuffer(mmap.mmap(-1, size), np.uint8))
    else:
        memory = torch.empty(size, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
    return memory.zero_()
