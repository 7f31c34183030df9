"""Manifest rows -> batches of uint8 images; order and augmentation are functions of counters.

An epoch's order comes from (seed, epoch), an image's augmentation from (seed, epoch, row), and that of a
second or later view of it from (seed, epoch, row, view). So the batches are the same for any number of
worker processes, for any step at which an epoch is taken up again, and, put together, for any number of
ranks. Images stay uint8 until `normalise` runs on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from finetune.errors import DataError, UsageError, listing
from finetune.images.augmentation.policies import Augment
from finetune.images.cache.source import ImageSource
from finetune.images.preprocess import TEST_CROPS, PreprocessSpec, test_crops
from finetune.images.workers import BatchLoader, Engine, Request
from finetune.seeding import derive_seed, epoch_order


@dataclass(frozen=True)
class Batch:
    """Images on their way to the device.

    `images` uint8 (B * crops, S, S, 3), the crops of one image side by side; `target` int64 (B,),
    zero-based classes; `index` int64 (B,), the manifest rows; `crops` the number of crops per image.
    """

    images: Tensor
    target: Tensor
    index: Tensor
    crops: int = 1

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with images and targets on `device`; the index stays on the CPU."""
        return Batch(to_device(self.images, device), to_device(self.target, device), self.index, self.crops)


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return `tensor` on `device`; for a GPU by way of page-locked memory, so that the host goes on at once.

    A copy from ordinary memory waits until the GPU has done all that was asked of it before, whatever
    `non_blocking` says. Torch keeps page-locked memory for the next copy, and until this one is done.
    """
    there = torch.device(device)
    if there.type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(there, non_blocking=True)


def normalise(
    images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return (x / 255 - mean) / std for uint8 images, computed in float32 on their device.

    `images` is uint8 (B, H, W, 3); `mean` and `std` hold three numbers on the 0-1 scale, RGB. Returns `dtype`
    (B, 3, H, W) in channels_last memory: the images' own layout, nothing is moved.

    >>> white = torch.full((1, 1, 1, 3), 255, dtype=torch.uint8)
    >>> normalise(white, [0.5] * 3, [0.25, 0.5, 1.0]).flatten()
    tensor([2.0000, 1.0000, 0.5000])
    """
    centre, scale = _scaling(tuple(mean), tuple(std), images.device)
    return images.to(torch.float32).sub_(centre).mul_(scale).permute(0, 3, 1, 2).to(dtype)


@lru_cache(maxsize=64)
def _scaling(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return 255 mean and 1 / (255 std), float32 (3,), copied to a device once."""
    with torch.inference_mode(mode=False):  # they are kept, and training may use them next
        scale = torch.tensor(std, dtype=torch.float32).mul_(255).reciprocal_()
        centre = torch.tensor(mean, dtype=torch.float32).mul_(255)
        return centre.to(device), scale.to(device)


class TrainBatches:
    """Augmented training batches of one data set, epoch by epoch.

    `target` holds the class of every manifest row, int64 (N,); `rows` the rows to train on. `batch_size` is
    the global one: with `world_size` > 1 this rank gets the samples [rank::world_size] of every global batch.
    The last, incomplete batch of an epoch is left out (other images each time, as the order changes); a set
    smaller than one batch becomes one batch of all its images. `workers` > 0 moves the work to that many
    processes, which are kept until this object goes. Only the epoch started last may be read. `views` is how
    often each image is drawn, with an augmentation of its own, the views of one image side by side; the
    first view is the same whatever their number.

    Raises UsageError when `batch_size` is no multiple of `world_size`, or a rank or worker count is
    impossible; DataError when there are fewer rows than ranks, or rows outside the source.
    """

    def __init__(
        self,
        source: ImageSource,
        target: np.ndarray,
        rows: np.ndarray,
        *,
        augment: Augment,
        batch_size: int,
        seed: int,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        views: int = 1,
    ) -> None:
        self._rows = _check_rows(rows, source, target)
        _check_counts(batch_size, workers, rank, world_size)
        if views < 1:
            raise UsageError(f"an image is drawn at least once, got views {views}")
        if batch_size % world_size:
            raise UsageError(
                f"batch_size {batch_size} must be a multiple of the {world_size} processes; "
                f"{batch_size - batch_size % world_size or world_size} is the next that is"
            )
        if len(self._rows) < world_size:
            raise DataError(f"{len(self._rows)} training images are too few for {world_size} processes")
        self.batch_size = min(batch_size, len(self._rows))
        self.steps_per_epoch = len(self._rows) // self.batch_size
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._engine = Engine(_Loader(source, target, _Augmented(augment, seed, views)), workers)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's batches of one epoch, from `start_step` (0 to `steps_per_epoch`) on.

        Raises BadImageError, naming the file, when an image can no longer be read.
        """
        return self._engine.run([Request(epoch, rows) for rows in self.epoch_rows(epoch, start_step)])

    def epoch_rows(self, epoch: int, start_step: int = 0) -> list[np.ndarray]:
        """Return the manifest rows of each of this rank's batches of one epoch, from `start_step` on."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise UsageError(f"start_step must lie in [0, {self.steps_per_epoch}], got {start_step}")
        order = self._rows[epoch_order(len(self._rows), self._seed, epoch)]
        steps = range(start_step, self.steps_per_epoch)
        shares = [order[step * self.batch_size :][: self.batch_size] for step in steps]
        return [share[self._rank :: self._world_size] for share in shares]

    def drawn(self, epoch: int, parts: Sequence[np.ndarray]) -> Iterator[Batch]:
        """Yield batches of these manifest rows as they look in an epoch, whatever its order is."""
        return self._engine.run([Request(epoch, rows) for rows in parts])


class EvalBatches:
    """Test crops of every row, each row exactly once over all ranks, in the rows' order.

    `crops` is "center", "flip" or "ten" (see `test_crops`); `batch_size` counts images, not crops. Nothing
    is padded or left out: the last batch is as small as it comes out, and ranks may differ by one image.
    """

    def __init__(
        self,
        source: ImageSource,
        target: np.ndarray,
        rows: np.ndarray,
        spec: PreprocessSpec,
        *,
        crops: str = "center",
        batch_size: int,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        rows = _check_rows(rows, source, target)
        _check_counts(batch_size, workers, rank, world_size)
        if crops not in TEST_CROPS:
            raise UsageError(f"crops {crops!r} is not offered; choose from {', '.join(TEST_CROPS)}")
        share = rows[rank::world_size]
        parts = [share[start : start + batch_size] for start in range(0, len(share), batch_size)]
        self._requests, self._crops = [Request(0, part) for part in parts], TEST_CROPS[crops]
        self._engine = Engine(_Loader(source, target, _Cropped(spec, crops)), workers)

    @property
    def pictures(self) -> int:
        """How many images, crops counted one by one, this rank gives."""
        return self._crops * sum(len(request.rows) for request in self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Batch]:
        return self._engine.run(self._requests)


def _check_rows(rows: np.ndarray, source: ImageSource, target: np.ndarray) -> np.ndarray:
    if len(target) != len(source):
        raise DataError(f"{len(target)} targets for {len(source)} images; each manifest row needs one")
    outside = [str(row) for row in rows if not 0 <= row < len(source)]
    if outside:
        raise DataError(f"rows must lie in [0, {len(source) - 1}], got:\n{listing(outside)}")
    return np.asarray(rows, dtype=np.int64)


def _check_counts(batch_size: int, workers: int, rank: int, world_size: int) -> None:
    if batch_size < 1 or workers < 0 or not 0 <= rank < world_size:
        given = f"batch_size {batch_size}, workers {workers}, rank {rank}, world_size {world_size}"
        raise UsageError(f"need batch_size >= 1, workers >= 0 and 0 <= rank < world_size; got {given}")


class _View(Protocol):
    """What is made of one prepared image: `crops` images, written to `place`, uint8 (crops, S, S, 3)."""

    crops: int
    size: int

    def __call__(self, prepared: np.ndarray, epoch: int, row: int, place: np.ndarray) -> None: ...


class _Augmented:
    def __init__(self, augment: Augment, seed: int, views: int) -> None:
        self.crops, self.size = views, augment.spec.image_size
        self._augment, self._seed = augment, seed

    def __call__(self, prepared: np.ndarray, epoch: int, row: int, place: np.ndarray) -> None:
        self._augment(prepared, derive_seed(self._seed, "augment", epoch, row), out=place[0])
        for view in range(1, self.crops):
            self._augment(prepared, derive_seed(self._seed, "augment", epoch, row, view), out=place[view])


class _Cropped:
    def __init__(self, spec: PreprocessSpec, crops: str) -> None:
        self.crops, self.size = TEST_CROPS[crops], spec.image_size
        self._spec, self._name = spec, crops

    def __call__(self, prepared: np.ndarray, epoch: int, row: int, place: np.ndarray) -> None:  # noqa: ARG002
        place[:] = test_crops(prepared, self._spec, self._name)


class _Loader(BatchLoader[Batch]):
    """Makes whole batches: every image is written to its final place, nothing is collated."""

    def __init__(self, source: ImageSource, target: np.ndarray, view: _View) -> None:
        super().__init__()
        self.source, self.target, self.view = source, target, view

    def load(self, request: Request) -> Batch:
        """Return one batch."""
        view, rows = self.view, request.rows
        images = torch.empty((len(rows) * view.crops, view.size, view.size, 3), dtype=torch.uint8)
        places = images.numpy().reshape(len(rows), view.crops, view.size, view.size, 3)
        for place, row in zip(places, rows.tolist(), strict=True):
            view(self.source[row], request.epoch, row, place)
            self.count_image()
        target = torch.from_numpy(self.target[rows].astype(np.int64))
        return Batch(images, target, torch.from_numpy(rows.copy()), view.crops)

    def tensors(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the tensors that travel to the process that trains."""
        return batch.images, batch.target, batch.index

    def files(self, request: Request) -> list[str]:
        """Return the files that a batch is made of."""
        return [str(self.source.file(row)) for row in request.rows.tolist()]
