"""The next batch is prepared while one is used: the order of what streams are asked, without a GPU."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

from finetune.images.loading.ahead import ahead

GPU = torch.device("cuda")


@dataclass
class Loaded:
    number: int
    pageable: bool = False


class Ready:
    """A batch that notes for which stream its memory is kept."""

    device = GPU

    def __init__(self, number: int, notes: list[str]) -> None:
        self.number, self.notes = number, notes

    def tensors(self) -> list[Ready]:
        return [self]

    def record_stream(self, stream: Stream) -> None:
        self.notes.append(f"{stream.name} keeps {self.number}")


class Stream:
    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes, self.events = name, notes, 0

    def record_event(self) -> str:
        self.events += 1
        return f"{self.name}'s event {self.events - 1}"

    def wait_event(self, event: str) -> None:
        self.notes.append(f"{self.name} waits for {event}")

    def wait_stream(self, stream: Stream) -> None:
        self.notes.append(f"{self.name} waits for {stream.name}")


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What streams are asked, in order."""
    notes: list[str] = []

    @contextmanager
    def within(stream: Stream) -> Iterator[None]:
        notes.append(f"on {stream.name}:")
        yield

    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: Stream("side", notes))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: Stream("main", notes))
    monkeypatch.setattr(torch.cuda, "stream", within)
    return notes


def test_the_next_batch_is_on_its_way_before_one_is_used_and_the_step_waits_for_its_event(notes: list[str]):
    def send(batch: Loaded) -> Ready:
        notes.append(f"send {batch.number}")
        return Ready(batch.number, notes)

    for ready in ahead([Loaded(number) for number in range(3)], send, GPU):
        notes.append(f"use {ready.number}")
    assert notes == [
        "side waits for main",
        *("on side:", "send 0"),
        *("on side:", "send 1"),
        *("main waits for side's event 0", "main keeps 0", "use 0"),
        *("on side:", "send 2"),
        *("main waits for side's event 1", "main keeps 1", "use 1"),
        *("main waits for side's event 2", "main keeps 2", "use 2"),
    ]


@pytest.mark.parametrize("pageable", [False, True])
def test_what_is_wrong_with_a_batch_is_raised_after_the_one_before_it_was_used(
    notes: list[str], pageable: bool
):
    def send(batch: Loaded) -> Ready:
        if batch.number == 1:
            raise RuntimeError("out of memory")
        return Ready(batch.number, notes)

    batches = ahead([Loaded(0, pageable), Loaded(1, pageable)], send, GPU)
    assert next(batches).number == 0
    with pytest.raises(RuntimeError, match="out of memory"):
        next(batches)


def test_what_is_wrong_with_the_loading_is_raised_then_too(notes: list[str]):
    def batches() -> Iterator[Loaded]:
        yield Loaded(0)
        raise RuntimeError("a process died")

    readied = ahead(batches(), lambda batch: Ready(batch.number, notes), GPU)
    assert next(readied).number == 0
    with pytest.raises(RuntimeError, match="a process died"):
        next(readied)


def test_a_thread_copies_what_lies_in_ordinary_memory_and_ends_with_the_pass(notes: list[str]):
    threads: list[bool] = []

    def send(batch: Loaded) -> Ready:
        threads.append(threading.current_thread() is threading.main_thread())
        return Ready(batch.number, notes)

    before = threading.active_count()
    batches = ahead([Loaded(0, pageable=True), Loaded(1), Loaded(2, pageable=True)], send, GPU)
    assert [next(batches).number, next(batches).number] == [0, 1]
    batches.close()  # type: ignore[attr-defined]
    assert threads == [False, True, False]
    assert threading.active_count() == before


def test_without_a_gpu_each_batch_is_prepared_when_it_is_asked_for():
    seen: list[int] = []
    batches = ahead([Loaded(0), Loaded(1)], lambda batch: seen.append(batch.number), torch.device("cpu"))
    next(batches)
    assert seen == [0]
