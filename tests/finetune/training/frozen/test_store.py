from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import finetune.training.frozen.store
from finetune.errors import ResourceError
from finetune.models.backbone import Features
from finetune.training.frozen.store import (
    CPU,
    DeviceStore,
    FeatureStore,
    FileStore,
    Layout,
    device_room,
    open_store,
)


def some_features(count: int = 4, seed: int = 0) -> Features:
    """Return features in several formats and orders, the embedding an odd number of bytes long."""
    generator = torch.Generator().manual_seed(seed)
    last = torch.randn(count, 5, 3, 2, generator=generator).to(memory_format=torch.channels_last)
    fine = torch.randn(count, 2, 4, 4, generator=generator)
    embedding = torch.randn(count, 3, generator=generator).to(torch.bfloat16)
    return Features(embedding, {"last": last, 8: fine.double(), "last-1": last.to(torch.float16)})


def assert_equal(found: Features, wanted: Features) -> None:
    assert list(found.maps) == list(wanted.maps)
    for tap, values in wanted.maps.items():
        assert found.maps[tap].dtype == values.dtype
        assert found.maps[tap].stride() == values.stride()
        assert torch.equal(found.maps[tap], values)
    assert found.embedding.dtype == wanted.embedding.dtype
    assert torch.equal(found.embedding, wanted.embedding)


def store_of(kind: str, layout: Layout, slots: int, folder: Path) -> FeatureStore:
    if kind == "device":
        return DeviceStore(layout, slots, CPU)
    return FeatureStore(layout, slots) if kind == "memory" else FileStore(layout, slots, folder)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_features_come_back_bit_for_bit_in_their_order_in_memory(tmp_path: Path, kind: str) -> None:
    features = some_features()
    layout = Layout.of(features)
    store = store_of(kind, layout, 9, tmp_path)
    store.write(np.array([7, 0, 3, 8]), layout.pack(features))
    assert_equal(layout.unpack(store.read(np.array([7, 0, 3, 8]))), features)
    backwards = layout.unpack(store.read(np.array([8, 3])))
    assert torch.equal(backwards.maps["last"], features.maps["last"][[3, 2]])
    assert list(tmp_path.iterdir()) == [], "the file has no name"


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("kind", ["memory", "file", "device"])
def test_features_come_part_by_part_bit_for_bit_also_when_they_are_read_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, ahead: bool
) -> None:
    monkeypatch.setattr(finetune.training.frozen.store, "reads_ahead", lambda device: ahead)
    features = some_features(7)
    layout = Layout.of(features)
    store = store_of(kind, layout, 9, tmp_path)
    slots = np.array([7, 0, 3, 8, 1, 2, 4])
    store.write(slots, layout.pack(features, store.device))
    parts = [np.array([7, 0]), np.array([3]), np.array([8, 1]), np.array([2, 4]), np.array([0, 4, 7])]
    found = list(store.features(parts, CPU))
    for part, own in zip(parts, found, strict=True):
        order = [slots.tolist().index(slot) for slot in part.tolist()]
        assert_equal(own, layout.unpack(layout.pack(features)[order]))
    assert list(store.features([], CPU)) == []
    left = store.features(parts, CPU)
    next(left)
    left.close()  # an epoch left early
    assert "crl-features_0" not in {thread.name for thread in threading.enumerate()}


def test_half_of_what_a_gpu_has_free_is_for_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.of(some_features())
    monkeypatch.setattr(finetune.training.frozen.store, "device_room", lambda device: 2 * 10 * layout.size)
    assert isinstance(open_store(layout, 10, tmp_path), DeviceStore)
    assert not isinstance(open_store(layout, 11, tmp_path), DeviceStore)
    monkeypatch.undo()
    monkeypatch.setattr(finetune.training.frozen.store, "free_gpu_bytes", lambda device: 130)
    assert device_room(torch.device("cuda:1")) == 130


def test_an_empty_embedding_and_no_pictures_are_fine() -> None:
    features = Features(torch.zeros(2, 0), {"last": torch.randn(2, 3, 1, 1)})
    layout = Layout.of(features)
    assert layout.size == 16
    assert_equal(layout.unpack(layout.pack(features).numpy()), features)
    assert layout.none().shape == (0, 16)
    assert layout.unpack(layout.none().numpy()).maps["last"].shape == (0, 3, 1, 1)


def test_what_does_not_fit_a_quarter_of_the_memory_goes_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout.of(some_features())
    monkeypatch.setattr(finetune.training.frozen.store, "memory_bytes", lambda: 4 * 10 * layout.size)
    assert not isinstance(open_store(layout, 10, tmp_path), FileStore)
    assert isinstance(open_store(layout, 11, tmp_path), FileStore)
    assert isinstance(open_store(layout, 10, tmp_path, processes=2), FileStore)
    beside = open_store(layout, 6, tmp_path)
    assert not isinstance(open_store(layout, 4, tmp_path, taken=beside.in_memory), FileStore)
    assert isinstance(open_store(layout, 5, tmp_path, taken=beside.in_memory), FileStore)
    assert FileStore(layout, 3, tmp_path).in_memory == 0
    gc.collect()


def test_a_disk_that_is_too_small_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.runs.files.free_bytes", lambda folder: 100)
    with pytest.raises(ResourceError, match=r"disk full: need (.|\n)*--train\.frozen_views 0"):
        FileStore(Layout.of(some_features()), 1000, tmp_path)
    assert list(tmp_path.iterdir()) == []
