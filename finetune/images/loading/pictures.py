"""Images of manifest rows, augmented or cropped, written to where their batch is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from finetune.images.augmentation.crops import PLACES
from finetune.images.augmentation.policies import Augment
from finetune.images.cache.source import ImageSource
from finetune.images.loading.batch import Batch, CutBatch
from finetune.images.loading.making import BatchLoader, Request
from finetune.images.loading.resident import Pixels, Resident
from finetune.images.loading.ring import Ring, open_ring, slots_of
from finetune.images.preprocess import TEST_CROPS, Place, PreprocessSpec, place_crop, test_places
from finetune.seeding import derive_seed


class View(Protocol):
    """What is made of one prepared image: `crops` images of side `size`."""

    crops: int
    size: int

    def __call__(self, prepared: np.ndarray, epoch: int, row: int, place: np.ndarray) -> None:
        """Write the images to `place`, uint8 (crops, S, S, 3)."""

    def places(self, height: int, width: int, epoch: int, row: int) -> list[Place]:
        """Return where the images lie in a prepared one of this size, where they are crops and no more."""


class Augmented:
    """Images as they look in an epoch: an augmentation of each, or several."""

    def __init__(self, augment: Augment, seed: int, views: int) -> None:
        self.crops, self.size = views, augment.spec.image_size
        self._augment, self._seed = augment, seed

    def __call__(self, prepared: np.ndarray, epoch: int, row: int, place: np.ndarray) -> None:
        """Write the views of an image."""
        for seed, out in zip(self._seeds(epoch, row), place, strict=True):
            self._augment(prepared, seed, out=out)

    def places(self, height: int, width: int, epoch: int, row: int) -> list[Place]:
        """Return where the views lie; KeyError for a policy that changes more than places."""
        place = PLACES[self._augment.policy]
        return [place(seed, height, width, self.size) for seed in self._seeds(epoch, row)]

    def _seeds(self, epoch: int, row: int) -> list[int]:
        further = (derive_seed(self._seed, "augment", epoch, row, view) for view in range(1, self.crops))
        return [derive_seed(self._seed, "augment", epoch, row), *further]


class Cropped:
    """Test crops, the same in every pass."""

    def __init__(self, spec: PreprocessSpec, crops: str) -> None:
        self.crops, self.size = TEST_CROPS[crops], spec.image_size
        self._name = crops

    def __call__(self, prepared: np.ndarray, epoch: int, row: int, place: np.ndarray) -> None:
        """Write the crops of an image."""
        height, width = prepared.shape[:2]
        for found, out in zip(self.places(height, width, epoch, row), place, strict=True):
            place_crop(prepared, found, out)

    def places(self, height: int, width: int, epoch: int, row: int) -> list[Place]:  # noqa: ARG002
        """Return where the crops lie."""
        return test_places(height, width, self.size, self._name)


class PictureLoader(BatchLoader[Batch]):
    """Makes whole batches: every image is written to its final place, nothing is collated.

    `images` is how many a batch has at most, crops not counted; `batches` how many are asked for at most.
    """

    def __init__(
        self, source: ImageSource, target: np.ndarray, view: View, images: int, *, batches: int
    ) -> None:
        super().__init__()
        self.source, self.target, self.view = source, target, view
        self._most, self._batches = images, batches

    def load(self, request: Request) -> Batch:
        """Return one batch."""
        images = torch.empty(self._shape(request), dtype=torch.uint8)
        self._write(request, images.numpy())
        return self._batch(request, images)

    def tensors(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the tensors that travel to the process that trains, where the batch has no slot."""
        return batch.images, batch.target, batch.index

    def files(self, request: Request) -> list[str]:
        """Return the files that a batch is made of."""
        return [str(self.source.file(row)) for row in request.rows.tolist()]

    def open_ring(self, processes: int, *, inherited: bool) -> Ring | None:
        """Return a slot for each batch that may be on its way, and for those in use."""
        slots = min(slots_of(processes), self._batches)
        return open_ring(slots, self._most * self.view.crops * self.view.size**2 * 3, inherited=inherited)

    def slot(self, request: Request) -> int | None:
        """Return a free slot with room for this batch, if there is one."""
        return None if self.ring is None else self.ring.take(math.prod(self._shape(request)))

    def fill(self, request: Request) -> None:
        """Write one batch's images to its slot."""
        assert self.ring is not None
        assert request.slot is not None
        self._write(request, self.ring.place(request.slot, self._shape(request)))

    def filled(self, request: Request) -> Batch:
        """Return the batch whose images were written to a slot; it has that until nothing shows it."""
        assert self.ring is not None
        assert request.slot is not None
        return self._batch(request, self.ring.lend(request.slot, self._shape(request)))

    def resident(self, rows: np.ndarray, device: torch.device, size: int) -> Resident:
        """Return what makes the same batches of these rows' images on a device."""
        return Resident(lambda: Pixels(self.source, rows, device, size), self._cut_from)

    def _cut_from(self, pixels: Pixels, request: Request) -> Batch:
        def cut() -> Tensor:
            found = [pixels.place(row, self._places(request.epoch, row)) for row in request.rows.tolist()]
            return pixels.cut(np.concatenate(found), self.view.size)

        return CutBatch(cut, *self._numbers(request), self.view.crops)

    def _places(self, epoch: int, row: int) -> Callable[[int, int], list[Place]]:
        return lambda height, width: self.view.places(height, width, epoch, row)

    def _shape(self, request: Request) -> tuple[int, ...]:
        return len(request.rows) * self.view.crops, self.view.size, self.view.size, 3

    def _write(self, request: Request, images: np.ndarray) -> None:
        crops, *shape = self.view.crops, *images.shape[1:]
        places = images.reshape(len(request.rows), crops, *shape)
        for place, row in zip(places, request.rows.tolist(), strict=True):
            self.view(self.source[row], request.epoch, row, place)
            self.count_image()

    def _batch(self, request: Request, images: Tensor) -> Batch:
        return Batch(images, *self._numbers(request), self.view.crops)

    def _numbers(self, request: Request) -> tuple[Tensor, Tensor]:
        target = torch.from_numpy(self.target[request.rows].astype(np.int64))
        return target, torch.from_numpy(request.rows.copy())
