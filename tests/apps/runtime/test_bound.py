"""What a GPU gets: buffers made once, two batches under way. The processor's bindings stand in for it."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import apps.runtime.session
from apps.runtime import cuda_driver
from apps.runtime.bound import BoundSession, under_way
from apps.runtime.cuda_driver import lock_pages
from apps.runtime.session import CPU, CUDA, INT8_NOTE, OnnxClassifier
from tests.apps.tiny_onnx import tiny_facts, write_tiny


class AsOnCuda:
    """A session on the processor that calls itself one on CUDA."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The providers that sessions were started with; CUDA seems to be there."""
    start, asked = apps.runtime.session._start, []

    def on_processor(
        content: bytes, path: Path, threads: int, providers: list[Any], spin: bool = False
    ) -> Any:
        asked.append(providers)
        session = start(content, path, threads, [CPU], spin)
        return session if providers == [CPU] else AsOnCuda(session)

    monkeypatch.setattr(apps.runtime.session, "_start", on_processor)
    monkeypatch.setattr(apps.runtime.session, "cuda_problem", lambda index: None)
    return asked


def pictures(*counts: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for count in counts]


def test_bound_runs_answer_as_plain_ones_whatever_the_batches(tmp_path: Path, offered: list[Any]) -> None:
    file = write_tiny(tmp_path / "tiny.onnx")
    plain, bound = OnnxClassifier(file, device="cpu"), OnnxClassifier(file, device="cuda:1")
    assert (plain.device, bound.device) == ("cpu", "cuda")
    card = offered[1][0]
    assert card[0] == CUDA
    assert (card[1]["device_id"], card[1]["arena_extend_strategy"]) == ("1", "kSameAsRequested")
    kept = []
    for batch in pictures(3, 7, 1, 7, 0):
        own, other = plain.run(batch, maps=True), bound.run(batch, maps=True)
        kept.append(other)
        assert np.array_equal(own.logits, other.logits)
        assert np.array_equal(own.probs, other.probs)
        assert (own.maps is None and other.maps is None) or np.array_equal(own.maps, other.maps)
    assert np.array_equal(kept[0].probs, plain.run(pictures(3)[0]).probs), (
        "later runs leave earlier answers alone"
    )
    shown = list(pictures(9)[0])
    own, other = (model.predict(shown, batch_size=2) for model in (plain, bound))
    assert [answer.probability for answer in own] == [answer.probability for answer in other]


def test_buffers_are_made_for_the_largest_batch_and_locked_once(tmp_path: Path) -> None:
    session = OnnxClassifier(write_tiny(tmp_path / "tiny.onnx"), device="cpu")._session
    locked: list[tuple[int, ...]] = []
    bound = BoundSession(session, lambda array: locked.append(array.shape))
    for batch in pictures(2, 2, 4, 4, 3, 1):  # taken in turn by the two sets of buffers
        assert bound.run(["probs"], {"images": batch}, None)[0].shape == (len(batch), 8)
    assert sorted(locked) == sorted([(2, 32, 32, 3), (2, 8), (4, 32, 32, 3), (4, 8)] * 2)


def test_int8_on_a_gpu_is_told_to_be_for_processors(tmp_path: Path, offered: list[Any]) -> None:
    file = write_tiny(tmp_path / "int8.onnx", tiny_facts(precision="int8"))
    assert OnnxClassifier(file, device="cuda").device_note.endswith(INT8_NOTE)
    assert "int8" not in OnnxClassifier(file, device="cpu").device_note
    assert "int8" not in OnnxClassifier(write_tiny(tmp_path / "tiny.onnx"), device="cuda").device_note


def test_so_many_batches_are_under_way_and_come_back_in_order() -> None:
    begun: list[int] = []

    def batches() -> Any:
        for number in range(5):
            begun.append(number)
            yield number

    seen = [(given, answer, len(begun)) for given, answer in under_way(lambda n: n * n, batches(), at_once=2)]
    assert seen == [(0, 0, 2), (1, 1, 3), (2, 4, 4), (3, 9, 5), (4, 16, 5)]
    assert list(under_way(abs, iter([-1]), at_once=1)) == [(-1, 1)]
    assert list(under_way(abs, iter(()), at_once=2)) == []
    with pytest.raises(ZeroDivisionError):
        list(under_way(lambda n: 1 // n, iter([1, 0, 1]), at_once=2))


def test_pages_are_locked_as_long_as_the_array_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int | None]] = []

    def register(address: ctypes.c_void_p, size: ctypes.c_size_t, flags: ctypes.c_uint) -> int:
        calls.append(("lock", size.value))
        return 0 if size.value == 64 else 2

    library = SimpleNamespace(
        cudaHostRegister=register, cudaHostUnregister=lambda address: calls.append(("free", None))
    )
    monkeypatch.setattr(cuda_driver.ctypes, "CDLL", lambda name: library)
    array = np.empty(64, np.uint8)
    assert lock_pages(array, "13.0")
    assert not lock_pages(np.empty(65, np.uint8), "13.0")
    assert not lock_pages(np.empty(0, np.uint8), "13.0")
    del array
    gc.collect()
    assert calls == [("lock", 64), ("lock", 65), ("free", None)]
    monkeypatch.undo()
    assert not lock_pages(np.empty(4, np.uint8), "1.0"), "no such library"
