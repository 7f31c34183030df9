"""A data set that lives on the device as uint8: batches, augmentation and scaling happen there, no loader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from finetune.cli.machine import free_gpu_bytes
from finetune.seeding import epoch_order, numpy_generator

if TYPE_CHECKING:
    from generalcls.data.datasets import ImageSet

# Fraction of a GPU's free memory that images may take; where they need more they stay in the host's memory.
DEVICE_SHARE = 0.5


@dataclass(frozen=True)
class Scaling:
    """What turns uint8 into a network's input: (x / 255 - mean) / sd, per channel.

    Args:
        mean: per channel, in [0, 1].
        sd: per channel, positive.
    """

    mean: tuple[float, ...]
    sd: tuple[float, ...]

    @classmethod
    def of(cls, images: np.ndarray, kind: Literal["unit", "standard"]) -> Scaling:
        """Return "unit" (x / 255 alone) or "standard": the mean and spread of these images (N, H, W, C)."""
        channels = images.shape[-1]
        if kind == "unit":
            return cls((0.0,) * channels, (1.0,) * channels)
        levels = np.arange(256) / 255.0
        means, spreads = [], []
        for channel in range(channels):
            counts = np.zeros(256)
            for start in range(0, len(images), 4096):
                block = np.asarray(images[start : start + 4096, ..., channel])
                counts += np.bincount(block.ravel(), minlength=256)
            share = counts / counts.sum()
            mean = float(share @ levels)
            means.append(mean)
            spreads.append(max(float(share @ np.square(levels - mean)) ** 0.5, 1e-3))
        return cls(tuple(means), tuple(spreads))


class ResidentImages:
    """One split on the device: images uint8 (N, H, W, C) and targets int64 (N,).

    Images that would take more than half of a GPU's free memory stay in the host's (a memory map, say) and
    are copied batch by batch.

    Args:
        images: the images and their targets.
        device: where batches are wanted.
        scaling: what makes a network's input of them.
        dtype: of the input: float32, or float64 for exact comparisons.
    """

    def __init__(
        self, images: ImageSet, device: torch.device, scaling: Scaling, dtype: torch.dtype = torch.float32
    ) -> None:
        self.device, self.dtype = device, dtype
        self.target = torch.from_numpy(np.require(images.target, requirements=["C", "W"])).to(device)
        self.height, self.width, self.channels = images.images.shape[1:]
        self.host = images.images
        self.pictures: Tensor | None = None
        fits = images.images.nbytes <= DEVICE_SHARE * free_gpu_bytes(device)
        if fits or (device.type == "cpu" and not isinstance(images.images, np.memmap)):
            self.pictures = torch.from_numpy(np.require(images.images, requirements=["C", "W"])).to(device)
        scale = 1 / (255 * torch.tensor(scaling.sd, dtype=dtype, device=device))
        self._scale = scale
        self._shift = -torch.tensor(scaling.mean, dtype=dtype, device=device) * 255 * scale

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: Tensor) -> Tensor:
        """Return the images of these rows (any shape) as uint8 (..., H, W, C) on the device."""
        if self.pictures is None:
            return self.fetch(rows.cpu().numpy())
        found = self.pictures.flatten(1).index_select(0, rows.flatten())  # whole rows: far quicker on a CPU
        return found.view(*rows.shape, *self.pictures.shape[1:])

    def fetch(self, rows: np.ndarray) -> Tensor:
        """Return the images of these rows (any shape) from the host's memory, on the device.

        A GPU gets them from page-locked memory, and nobody waits for it.
        """
        found = torch.from_numpy(np.ascontiguousarray(self.host[rows.ravel()]))
        if self.device.type == "cuda":
            found = found.pin_memory()
        return found.to(self.device, non_blocking=True).view(*rows.shape, *found.shape[1:])

    def span(self, first: int, last: int) -> Tensor:
        """Return the images from `first` to before `last` as uint8 (N, H, W, C) on the device."""
        if self.pictures is not None:
            return self.pictures[first:last]
        return self.fetch(np.arange(first, min(last, len(self))))

    def scaled(self, pictures: Tensor) -> Tensor:
        """Return uint8 (..., H, W, C) as network input (..., C, H, W), in memory pixel by pixel."""
        values = pictures.to(self.dtype).mul_(self._scale).add_(self._shift)
        return values.movedim(-1, -3)


@dataclass(frozen=True)
class Batches:
    """The batches of every seed: which rows, in which order, moved and mirrored how.

    Everything is a function of (seed, epoch): models that share a seed see the same images in the same
    order with the same augmentation, whatever their loss.

    Args:
        images: the training split.
        seeds: one per batch sequence.
        batch_size: images per step and seed.
        augment: none, crop_flip or shift_flip.
    """

    images: ResidentImages
    seeds: tuple[int, ...]
    batch_size: int
    augment: Literal["none", "crop_flip", "shift_flip"] = "none"

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; a split smaller than a batch is one."""
        return max(1, len(self.images) // self.batch_size)

    def epoch(self, epoch: int) -> EpochBatches:
        """Return the plan of an epoch: every seed's order and, where images are moved, its draws."""
        count = len(self.images)
        orders = np.stack([epoch_order(count, seed, epoch) for seed in self.seeds])
        moves = None
        if self.augment != "none":
            moves = np.stack([self._moves(seed, epoch) for seed in self.seeds])
        device = self.images.device
        return EpochBatches(
            self,
            torch.from_numpy(orders).to(device),
            None if moves is None else torch.from_numpy(moves).to(device),
            orders if self.images.pictures is None else None,
        )

    def load(self, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """Return a step's network input (S, B, C, H, W) and targets int64 (S, B)."""
        images = self.images
        pictures = images.take(drawn.rows) if drawn.pictures is None else drawn.pictures
        if drawn.moves is not None:
            pictures = move(pictures, drawn.moves, repeat_edge=self.augment == "shift_flip")
        target = images.target.index_select(0, drawn.rows.flatten())
        return images.scaled(pictures), target.view(drawn.rows.shape)

    @property
    def reach(self) -> int:
        """How far an image may be moved, in pixels: an eighth of its side (crop) or a tenth (shift)."""
        side = int(max(self.images.height, self.images.width))
        return {"none": 0, "crop_flip": side // 8, "shift_flip": side // 10}[self.augment]

    def _moves(self, seed: int, epoch: int) -> np.ndarray:
        """Return (N, 3) for an epoch's places in order: rows down, columns right, mirrored or not."""
        generator = numpy_generator(seed, "moves", epoch)
        shifts = generator.integers(-self.reach, self.reach + 1, (len(self.images), 2))
        mirrored = generator.integers(0, 2, (len(self.images), 1))
        return np.concatenate([shifts, mirrored], axis=1)


class Drawn(NamedTuple):
    """Which images a step shows to every seed, and moved how.

    Args:
        rows: int64 (S, B).
        moves: int64 (S, B, 3), or None.
        pictures: uint8 (S, B, H, W, C) where the images are not on the device, else None.
    """

    rows: Tensor
    moves: Tensor | None
    pictures: Tensor | None


@dataclass(frozen=True)
class EpochBatches:
    """One epoch's plan.

    Args:
        plan: what it is an epoch of.
        order: int64 (S, N) on the device.
        moves: int64 (S, N, 3), or None.
        host_order: `order` in the host's memory where the images are there, else None.
    """

    plan: Batches
    order: Tensor
    moves: Tensor | None
    host_order: np.ndarray | None = None

    def draw(self, step: int) -> Drawn:
        """Return what a step shows; where the images are on the device these are views, and nothing moves."""
        places = slice(step * self.plan.batch_size, (step + 1) * self.plan.batch_size)
        moves = None if self.moves is None else self.moves[:, places]
        host = self.host_order
        pictures = None if host is None else self.plan.images.fetch(host[:, places])
        return Drawn(self.order[:, places], moves, pictures)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return a step's network input (S, B, C, H, W) and targets int64 (S, B)."""
        return self.plan.load(self.draw(step))


def move(pictures: Tensor, moves: Tensor, *, repeat_edge: bool) -> Tensor:
    """Return images shifted by whole pixels and mirrored, as one gather.

    Args:
        pictures: uint8 (..., H, W, C).
        moves: int64 (..., 3): rows down, columns right, 1 to mirror (before the shift).
        repeat_edge: fill with the nearest edge pixel; otherwise with 0 (black).

    >>> image = torch.tensor([[[[1], [2], [3]]]], dtype=torch.uint8)  # one image of 1 x 3
    >>> move(image, torch.tensor([[0, 1, 0]]), repeat_edge=False).flatten().tolist()
    [0, 1, 2]
    >>> move(image, torch.tensor([[0, 0, 1]]), repeat_edge=False).flatten().tolist()
    [3, 2, 1]
    """
    height, width = pictures.shape[-3:-1]
    flat = pictures.flatten(0, -4)
    down, right, mirrored = moves.flatten(0, -2).unbind(-1)
    rows = torch.arange(height, device=flat.device) - down[:, None]
    columns = torch.arange(width, device=flat.device) - right[:, None]
    inside_rows, inside_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    columns = torch.where(mirrored[:, None] == 1, width - 1 - columns, columns)
    each = torch.arange(len(flat), device=flat.device)[:, None, None]
    moved = flat[each, rows[:, :, None], columns[:, None, :]]
    if not repeat_edge:
        moved = moved * (inside_rows[:, :, None] & inside_columns[:, None, :])[..., None]
    return moved.view(pictures.shape)
