"""Images that stay on the device: the pixels of the other way, bit for bit, here on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.errors import InterruptedRunError
from finetune.images.augmentation.crops import PLACES
from finetune.images.augmentation.policies import build_augment
from finetune.images.batches import Batch, EvalBatches, TrainBatches
from finetune.images.cache.source import ImageSource, open_source
from finetune.images.loading import resident
from finetune.images.loading.resident import resident_bytes
from finetune.images.preprocess import PreprocessSpec
from tests.finetune.pictures import SHORT, WARP, write_pictures

COUNT = 23
ROWS = np.arange(2, COUNT)
CPU, GPU = torch.device("cpu"), torch.device("cuda")
SPECS = {"warp": WARP, "short": SHORT}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ImageSource]:
    """Cached images, all of one shape and of several."""
    manifest = write_pictures(tmp_path_factory.mktemp("data"), COUNT)
    cache = tmp_path_factory.mktemp("cache")
    return {name: open_source(manifest, spec, cache_dir=cache, workers=1) for name, spec in SPECS.items()}


def size_of(source: ImageSource, rows: np.ndarray) -> int:
    return sum(source[row].nbytes for row in np.unique(rows).tolist())


def same(here: Iterator[Batch], there: Iterator[Batch]) -> bool:
    return all(
        torch.equal(one.images, other.images)
        and torch.equal(one.target, other.target)
        and torch.equal(one.index, other.index)
        and one.crops == other.crops
        for one, other in zip(here, there, strict=True)
    )


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("policy", PLACES)
def test_augmented_images_are_those_that_processes_make(
    sources: dict[str, ImageSource], name: str, policy: str
):
    source, target = sources[name], np.arange(COUNT) % 2
    made = [
        TrainBatches(
            source, target, ROWS, augment=build_augment(policy, SPECS[name]), batch_size=4, seed=7, views=2
        )
        for _ in range(2)
    ]
    made[1].stay_on(CPU, size_of(source, ROWS))
    for epoch in (0, 3):
        assert same(made[0].epoch(epoch), made[1].epoch(epoch))
    assert same(made[0].epoch(4, 3), made[1].epoch(4, 3))
    assert same(made[0].drawn(1, [ROWS[:5], ROWS[9:10]]), made[1].drawn(1, [ROWS[:5], ROWS[9:10]]))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("crops", ["center", "flip", "ten"])
def test_test_crops_are_those_that_processes_make(sources: dict[str, ImageSource], name: str, crops: str):
    source, rows = sources[name], np.array([5, 2, 20, 5, 11])
    made = [
        EvalBatches(source, np.arange(COUNT), rows, SPECS[name], crops=crops, batch_size=3) for _ in range(2)
    ]
    made[1].stay_on(CPU, size_of(source, rows))
    assert same(iter(made[0]), iter(made[1]))
    assert len(list(made[1])) == 2


def test_images_are_read_once_whatever_is_asked_later(
    sources: dict[str, ImageSource], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(resident, "CHUNK", 2 * 40 * 40 * 3)  # several copies
    source = sources["warp"]
    batches = EvalBatches(source, np.arange(COUNT), ROWS, WARP, batch_size=8)
    expected = [batch.images for batch in batches]
    batches.stay_on(CPU, size_of(source, ROWS))
    read: list[int] = []
    plain = type(source).__getitem__
    monkeypatch.setattr(type(source), "__getitem__", lambda self, row: read.append(row) or plain(self, row))
    for _ in range(2):
        for batch, images in zip(batches, expected, strict=True):
            assert torch.equal(batch.to("cpu").images, images)
            assert not batch.pageable
    assert read == ROWS.tolist()


def test_crops_are_cut_when_all_images_are_there(
    sources: dict[str, ImageSource], monkeypatch: pytest.MonkeyPatch
):
    done: list[str] = []
    plain = resident.to_device
    monkeypatch.setattr(resident, "to_device", lambda *given: done.append("copy") or plain(*given))
    monkeypatch.setattr(resident, "wait_for_copies", lambda device: done.append(f"wait for {device}"))
    batches = EvalBatches(sources["warp"], np.arange(COUNT), ROWS, WARP, batch_size=8)
    batches.stay_on(CPU, size_of(sources["warp"], ROWS))
    assert len(next(iter(batches)).images) == 8
    assert done == ["copy", "wait for cpu", "copy"], "a second stream cuts, which waits for nothing itself"


def test_a_request_to_stop_is_met_while_they_are_copied(
    sources: dict[str, ImageSource], monkeypatch: pytest.MonkeyPatch
):
    batches = EvalBatches(sources["warp"], np.arange(COUNT), ROWS, WARP, batch_size=8)
    batches.stay_on(CPU, size_of(sources["warp"], ROWS))
    monkeypatch.setattr(resident, "stop_requested", lambda: True)
    with pytest.raises(InterruptedRunError, match="copied to the device"):
        next(iter(batches))


def test_images_stay_where_they_take_less_than_a_third_of_the_free_memory(
    sources: dict[str, ImageSource], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def found(source: ImageSource, spec: PreprocessSpec, free: int) -> int | None:
        monkeypatch.setattr(resident, "free_gpu_bytes", lambda _device: free)
        return resident_bytes(source, ROWS, spec, GPU)

    for name, spec in SPECS.items():
        size = size_of(sources[name], ROWS)
        assert found(sources[name], spec, 3 * size + 1) == size
        assert found(sources[name], spec, 3 * size) is None
    manifest = write_pictures(tmp_path, COUNT)
    files = open_source(manifest, WARP, cache_dir=None, workers=1)
    assert found(files, WARP, 10**9) == 21 * 40 * 40 * 3
    assert found(files, SHORT, 10**9) is None, "nobody knows their shapes"
    assert resident_bytes(sources["warp"], ROWS, WARP, CPU) is None
