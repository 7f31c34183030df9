"""The same pixels on a real GPU, by each way there; CRL_TEST_GPU=1 lets the tests see one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from finetune.images.augmentation.policies import build_augment
from finetune.images.batches import Batch, TrainBatches, normalise
from finetune.images.cache.source import ImageSource, open_source
from finetune.images.loading.ahead import ahead
from finetune.images.loading.copies import to_device
from finetune.images.loading.resident import resident_bytes
from tests.finetune.pictures import WARP, write_pictures

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
COUNT, GPU = 23, torch.device("cuda")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    manifest = write_pictures(tmp_path_factory.mktemp("data"), COUNT)
    torch.zeros(1, device=GPU)  # the process uses it, as one that trains does
    return open_source(manifest, WARP, cache_dir=tmp_path_factory.mktemp("cache"), workers=1)


def train_batches(source: ImageSource, workers: int) -> TrainBatches:
    rows, augment = np.arange(COUNT), build_augment("crop", WARP)
    return TrainBatches(
        source, rows % 2, rows, augment=augment, batch_size=4, seed=7, workers=workers, epochs=4
    )


class There:
    """A batch's images on the device, normalised."""

    def __init__(self, batch: Batch) -> None:
        self.images = normalise(to_device(batch.images, GPU), WARP.mean, WARP.std)

    def tensors(self) -> list[torch.Tensor]:
        return [self.images]


def shown(batches: TrainBatches) -> list[torch.Tensor]:
    """Return what a step sees that keeps the GPU busy, so that copies overtake it."""
    found = []
    busy = torch.randn(2048, 2048, device=GPU)
    for epoch in range(4):
        for there in ahead(batches.epoch(epoch), There, GPU):
            busy = torch.tanh(busy @ busy)
            found.append(there.images.clone())
    return [images.cpu() for images in found]


def expected(source: ImageSource) -> list[torch.Tensor]:
    batches = train_batches(source, 0)
    return [
        normalise(batch.images.to(GPU), WARP.mean, WARP.std).cpu()
        for epoch in range(4)
        for batch in batches.epoch(epoch)
    ]


@pytest.mark.parametrize("locked", [True, False])
def test_slots_are_copied_ahead_of_the_step_whether_the_driver_locks_them_or_not(
    source: ImageSource, locked: bool, monkeypatch: pytest.MonkeyPatch
):
    if not locked:
        monkeypatch.setattr("finetune.images.loading.ring.Ring.lock", lambda _ring: None)
    batches = train_batches(source, 2)
    found = shown(batches)
    ring = batches._loader.ring
    assert ring is not None
    assert ring.memory.is_pinned() is locked
    for one, other in zip(found, expected(source), strict=True):
        assert torch.equal(one, other)


def test_images_that_stay_give_the_same_pixels(source: ImageSource):
    batches = train_batches(source, 0)
    size = resident_bytes(source, batches.rows, WARP, GPU)
    assert size == COUNT * 40 * 40 * 3
    batches.stay_on(GPU, size)
    for one, other in zip(shown(batches), expected(source), strict=True):
        assert torch.equal(one, other)


def test_a_copy_that_is_under_way_keeps_its_slot(source: ImageSource):
    batches = train_batches(source, 1)
    there = [to_device(batch.images, GPU) for batch in batches.epoch(0)]
    for one, batch in zip(there, train_batches(source, 0).epoch(0), strict=True):
        assert torch.equal(one.cpu(), batch.images)
