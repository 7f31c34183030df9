"""Manifest rows -> batches of uint8 images; order and augmentation are functions of counters.

An epoch's order comes from (seed, epoch), an image's augmentation from (seed, epoch, row), and that of a
second or later view of it from (seed, epoch, row, view). So the batches are the same for any number of
worker processes, for any step at which an epoch is taken up again, and, put together, for any number of
ranks. Images stay uint8 until `normalise` runs on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from finetune.errors import DataError, UsageError, listing
from finetune.images.augmentation.policies import Augment
from finetune.images.cache.source import ImageSource
from finetune.images.loading.batch import Batch as Batch  # what batches are made of, in files of their own
from finetune.images.loading.batch import normalise as normalise
from finetune.images.loading.making import Request
from finetune.images.loading.pictures import Augmented, Cropped, PictureLoader
from finetune.images.loading.resident import Resident
from finetune.images.preprocess import TEST_CROPS, PreprocessSpec
from finetune.images.workers import Engine
from finetune.seeding import epoch_order


class TrainBatches:
    """Augmented training batches of one data set, epoch by epoch.

    `target` holds the class of every manifest row, int64 (N,); `rows` the rows to train on. `batch_size` is
    the global one: with `world_size` > 1 this rank gets the samples [rank::world_size] of every global batch.
    The last, incomplete batch of an epoch is left out (other images each time, as the order changes); a set
    smaller than one batch becomes one batch of all its images. `workers` > 0 moves the work to that many
    processes, which are kept until this object goes. Only the epoch started last may be read. `views` is how
    often each image is drawn, with an augmentation of its own, the views of one image side by side; the
    first view is the same whatever their number. Where `epochs` are given, processes begin with the first
    batches of the next of them when the last of one are given out.

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
        epochs: int = 0,
    ) -> None:
        self.rows = _check_rows(rows, source, target)
        _check_counts(batch_size, workers, rank, world_size)
        if views < 1:
            raise UsageError(f"an image is drawn at least once, got views {views}")
        if batch_size % world_size:
            raise UsageError(
                f"batch_size {batch_size} must be a multiple of the {world_size} processes; "
                f"{batch_size - batch_size % world_size or world_size} is the next that is"
            )
        if len(self.rows) < world_size:
            raise DataError(f"{len(self.rows)} training images are too few for {world_size} processes")
        self.batch_size = min(batch_size, len(self.rows))
        self.steps_per_epoch = len(self.rows) // self.batch_size
        self._seed, self._rank, self._world_size, self._epochs = seed, rank, world_size, epochs
        view = Augmented(augment, seed, views)
        share = -(-self.batch_size // world_size)
        most = self.steps_per_epoch * (2 if epochs else 1)
        self._loader = PictureLoader(source, target, view, share, batches=most)
        self._engine: Engine[Batch] | Resident = Engine(self._loader, workers)

    def stay_on(self, device: torch.device, size: int) -> None:
        """Keep the prepared images, `size` bytes, on a device from the first epoch on; make batches there.

        For a policy that moves whole pixels and no more (`finetune.images.augmentation.crops.PLACES`): the
        pixels are those that processes would make.
        """
        self._engine = self._loader.resident(self.rows, device, size)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield this rank's batches of one epoch, from `start_step` (0 to `steps_per_epoch`) on.

        Raises BadImageError, naming the file, when an image can no longer be read.
        """
        follows = epoch + 1 < self._epochs
        return self._engine.run(
            [Request(epoch, rows) for rows in self.epoch_rows(epoch, start_step)],
            [Request(epoch + 1, rows) for rows in self.epoch_rows(epoch + 1)] if follows else (),
        )

    def epoch_rows(self, epoch: int, start_step: int = 0) -> list[np.ndarray]:
        """Return the manifest rows of each of this rank's batches of one epoch, from `start_step` on."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise UsageError(f"start_step must lie in [0, {self.steps_per_epoch}], got {start_step}")
        order = self.rows[epoch_order(len(self.rows), self._seed, epoch)]
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
    `groups` gives the group of every manifest row, int (N,): no batch then has rows of two, and the rows come
    group by group.
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
        groups: np.ndarray | None = None,
    ) -> None:
        rows = _check_rows(rows, source, target)
        _check_counts(batch_size, workers, rank, world_size)
        if crops not in TEST_CROPS:
            raise UsageError(f"crops {crops!r} is not offered; choose from {', '.join(TEST_CROPS)}")
        self.rows = rows[rank::world_size]
        self.pieces = in_pieces(self.rows, batch_size, groups)
        self.crop_rule, self.crops = crops, TEST_CROPS[crops]
        parts = [part for piece in self.pieces for part in piece]
        self._requests = [Request(0, part) for part in parts]
        most = max((len(part) for part in parts), default=0)
        self._loader = PictureLoader(source, target, Cropped(spec, crops), most, batches=len(parts))
        self._engine: Engine[Batch] | Resident = Engine(self._loader, workers)

    def stay_on(self, device: torch.device, size: int) -> None:
        """Keep the prepared images, `size` bytes, on a device from the first pass on; cut the crops there."""
        self._engine = self._loader.resident(self.rows, device, size)

    @property
    def pictures(self) -> int:
        """How many images, crops counted one by one, this rank gives."""
        return self.crops * sum(len(request.rows) for request in self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Batch]:
        return self._engine.run(self._requests)

    def drawn(self, parts: Sequence[np.ndarray]) -> Iterator[Batch]:
        """Yield batches of these manifest rows, each no larger than the others are."""
        return self._engine.run([Request(0, rows) for rows in parts])


def in_pieces(rows: np.ndarray, size: int, groups: np.ndarray | None = None) -> list[list[np.ndarray]]:
    """Return each group's rows in batches of at most `size`; all rows are one group where none are told.

    >>> in_pieces(np.array([0, 1, 2, 5]), 2, groups=np.array([7, 3, 7, 0, 0, 7]))
    [[array([1])], [array([0, 2]), array([5])]]
    """
    own = None if groups is None else groups[rows]
    whole = [rows] if own is None else [rows[own == group] for group in np.unique(own)]
    pieces = [[part[start : start + size] for start in range(0, len(part), size)] for part in whole]
    return [piece for piece in pieces if piece]


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
