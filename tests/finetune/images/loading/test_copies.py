"""Copies to a GPU, with tensors and events that only note what they are asked."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.images.loading import copies
from finetune.images.loading.copies import forget_done, to_device, to_device_together


class Event:
    def __init__(self) -> None:
        self.done, self.waited = False, 0

    def query(self) -> bool:
        return self.done

    def synchronize(self) -> None:
        self.waited += not self.done
        self.done = True


class Pixels:
    """A tensor in memory that is page-locked, or is not."""

    device = torch.device("cpu")

    def __init__(self, *, pinned: bool) -> None:
        self.pinned = pinned

    def is_pinned(self) -> bool:
        return self.pinned

    def pin_memory(self) -> Pixels:
        return Pixels(pinned=True)

    def to(self, device: torch.device, *, non_blocking: bool) -> tuple[str, bool, bool]:
        return device.type, non_blocking, self.pinned


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Event]]:
    """The events behind copies, as they are recorded."""
    made: list[Event] = []

    class Stream:
        def record_event(self) -> Event:
            made.append(Event())
            return made[-1]

    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: Stream())
    yield made
    forget_done(keep=0)


def sent(pixels: Any) -> Any:
    return to_device(pixels, "cuda")


@pytest.mark.usefixtures("events")
def test_every_copy_is_made_from_page_locked_memory_without_waiting():
    assert sent(Pixels(pinned=False)) == sent(Pixels(pinned=True)) == ("cuda", True, True)


def test_what_is_copied_from_is_kept_until_the_event_behind_the_copy(events: list[Event]):
    slot = Pixels(pinned=True)
    there = weakref.ref(slot)
    sent(slot)
    del slot
    forget_done(keep=1)
    gc.collect()
    assert there() is not None
    events[0].done = True
    forget_done(keep=1)
    assert there() is None


def test_the_host_waits_for_the_oldest_where_more_are_under_way(events: list[Event]):
    for _ in range(4):
        sent(Pixels(pinned=True))
    assert [event.waited for event in events] == [1, 1, 0, 0]
    forget_done(keep=1)
    assert [event.waited for event in events] == [1, 1, 1, 0]


def test_torch_looks_after_the_memory_that_it_locks_itself(events: list[Event]):
    sent(Pixels(pinned=False))
    assert events == []


def test_numbers_travel_in_one_block(monkeypatch: pytest.MonkeyPatch):
    blocks: list[Tensor] = []

    def note(tensor: Tensor, _device: torch.device) -> Tensor:
        blocks.append(tensor)
        return tensor

    monkeypatch.setattr(copies, "to_device", note)
    given = [torch.arange(3), torch.arange(12).view(3, 2, 2), torch.tensor([5, 4, 3])]
    found = to_device_together(given, torch.device("cuda"))
    assert [block.shape for block in blocks] == [(18,)]
    for one, other in zip(found, given, strict=True):
        assert torch.equal(one, other)
    here = to_device_together(given, torch.device("cpu"))
    assert all(one is other for one, other in zip(here, given, strict=True))
