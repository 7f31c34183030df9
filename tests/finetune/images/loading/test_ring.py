"""Slots of shared memory: what is looked at is never overwritten, and what does not fit is told."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.images.loading import ring as rings
from finetune.images.loading.ring import MOST_LENT, Ring, open_ring, slots_of

SHAPE = (2, 3, 4, 3)
BYTES = 72


def written(ring: Ring, value: int) -> Tensor:
    """Ask for a slot, fill it as a process would, and show it."""
    slot = ring.take(BYTES)
    assert slot is not None
    ring.place(slot, SHAPE)[:] = value
    return ring.lend(slot, SHAPE)


def in_ring(ring: Ring, tensor: Tensor) -> bool:
    start = ring.memory.data_ptr()
    return start <= tensor.data_ptr() < start + ring.memory.numel()


@pytest.mark.parametrize("inherited", [True, False])
def test_a_slot_is_lent_until_the_last_tensor_that_shows_it_is_gone(inherited: bool):
    ring = Ring(2, BYTES, inherited=inherited)
    shown = written(ring, 7)
    part = shown[1:].permute(0, 3, 1, 2)
    del shown
    assert in_ring(ring, part)
    assert ring.lent == 1
    other = ring.take(BYTES)
    assert other is not None
    assert ring.take(BYTES) is None
    ring.place(other, SHAPE)[:] = 9
    assert bool((part == 7).all())
    del part
    assert ring.lent == 0
    assert ring.take(BYTES) is not None


def test_of_many_that_are_kept_the_later_ones_are_copies_and_processes_can_go_on():
    ring = Ring(slots_of(1), BYTES, inherited=True)
    kept = [written(ring, value) for value in range(9)]
    assert [in_ring(ring, tensor) for tensor in kept] == [True] * MOST_LENT + [False] * 7
    assert [int(tensor.unique()) for tensor in kept] == list(range(9))
    assert len(ring.free) == slots_of(1) - MOST_LENT


def test_slots_asked_for_are_taken_back_and_lent_ones_are_not():
    ring = Ring(3, BYTES, inherited=True)
    shown = written(ring, 1)
    assert None not in (ring.take(BYTES), ring.take(BYTES))
    ring.reclaim()
    assert (len(ring.free), ring.lent) == (2, 1)
    assert bool((shown == 1).all())


def test_what_is_larger_than_a_slot_gets_none():
    ring = Ring(1, BYTES, inherited=True)
    assert ring.take(ring.size + 1) is None
    assert ring.take(ring.size) == 0


def test_slots_begin_at_pages_and_do_not_touch():
    ring = Ring(3, rings.PAGE + 1, inherited=True)
    assert ring.size == 2 * rings.PAGE
    for slot in range(3):
        ring.place(slot, (ring.size,))[:] = slot + 1
    assert [int(part.unique()) for part in ring.memory.view(3, -1)] == [1, 2, 3]


def test_a_small_shared_memory_gets_a_smaller_ring_which_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(rings.shutil, "disk_usage", lambda _path: SimpleNamespace(free=10 * 2**20))
    ring = open_ring(18, 2**20, inherited=False)
    assert ring is not None
    assert ring.slots == 5
    told = " ".join(capsys.readouterr().out.split())
    assert "shared memory (/dev/shm) has room for 5 of the 18 batches of 1 MB" in told
    assert "--shm-size" in told
    monkeypatch.setattr(rings.shutil, "disk_usage", lambda _path: SimpleNamespace(free=2**20))
    assert open_ring(18, 2**20, inherited=False) is None
    whole = open_ring(18, 2**10, inherited=True)  # what processes inherit does not lie there
    assert whole is not None
    assert whole.slots == 18


def test_a_ring_takes_an_eighth_of_the_memory_at_most(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(rings, "memory_bytes", lambda: 8 * 3 * 2**20)
    ring = open_ring(4, 2**20, inherited=True)
    assert ring is not None
    assert ring.slots == 3
    assert "memory has room for 3 of the 4" in " ".join(capsys.readouterr().out.split())


def test_shared_memory_that_is_taken_meanwhile_leaves_the_telling_to_the_first_batch(
    monkeypatch: pytest.MonkeyPatch,
):
    def no_room(_tensor: Tensor) -> Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left")

    monkeypatch.setattr(Tensor, "share_memory_", no_room)
    assert open_ring(4, BYTES, inherited=False) is None


class Driver:
    """What the ring asks of CUDA's library."""

    def __init__(self, answer: int) -> None:
        self.answer, self.calls = answer, list[tuple[object, ...]]()

    def cudaHostRegister(self, *given: int) -> int:  # noqa: N802
        self.calls.append(("register", *given))
        return self.answer

    def cudaHostUnregister(self, *given: int) -> int:  # noqa: N802
        self.calls.append(("unregister", *given))
        return 0


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A process that uses a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    return monkeypatch


def test_memory_is_locked_once_and_unlocked_before_processes_start_and_before_it_goes(
    on_gpu: pytest.MonkeyPatch,
):
    driver = Driver(0)
    on_gpu.setattr(torch.cuda, "cudart", lambda: driver)
    ring = Ring(2, BYTES, inherited=True)
    place, size = ring.memory.data_ptr(), ring.memory.numel()
    ring.lock()
    ring.lock()
    assert driver.calls == [("register", place, size, 1)]
    ring.unlock()
    ring.unlock()
    assert driver.calls[1:] == [("unregister", place)]
    ring.lock()
    shown = written(ring, 3)
    del ring
    gc.collect()
    assert len(driver.calls) == 3, "a tensor still shows it"
    del shown
    gc.collect()
    assert driver.calls[3:] == [("unregister", place)]


def test_a_driver_that_refuses_is_left_alone_and_its_refusal_is_met_at_once(on_gpu: pytest.MonkeyPatch):
    met: list[str] = []

    def refused(*_: object, device: str) -> None:
        met.append(device)
        raise RuntimeError("CUDA error: operation not supported")

    on_gpu.setattr(torch.cuda, "cudart", lambda: Driver(801))
    ring = Ring(2, BYTES, inherited=True)
    on_gpu.setattr(rings, "torch", SimpleNamespace(cuda=torch.cuda, zeros=refused))
    ring.lock()
    assert met == ["cuda"]
    ring.unlock()


def test_without_a_gpu_nothing_is_locked():
    ring = Ring(2, BYTES, inherited=True)
    ring.lock()
    assert bool((written(ring, 5) == 5).all())
    assert not np.shares_memory(ring.place(0, SHAPE), ring.place(1, SHAPE))
