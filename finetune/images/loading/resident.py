"""Prepared images that stay on a GPU: crops are taken and mirrored there, and no process loads anything.

The pixels are those of the other way, bit for bit: where a crop lies is drawn by the same rule, and whole
pixels are moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from finetune.cli.console import progress
from finetune.cli.machine import free_gpu_bytes
from finetune.images.cache.source import CachedSource, ImageSource
from finetune.images.loading.batch import Batch
from finetune.images.loading.copies import to_device, wait_for_copies
from finetune.images.loading.making import Request
from finetune.images.preprocess import Place, PreprocessSpec
from finetune.images.workers import StoppedWaitingError
from finetune.runs.interrupts import stop_requested

FREE_SHARE = 3  # images stay where they take less than one part in this many of a GPU's free memory
CHUNK = 2**25  # bytes that are copied at once


def resident_bytes(
    source: ImageSource, rows: np.ndarray, spec: PreprocessSpec, device: torch.device
) -> int | None:
    """Return the bytes that these rows' images take on a GPU where they may stay on it; None elsewhere.

    None too where nobody knows how large they are: those of different shapes, not cached.
    """
    if device.type != "cuda":
        return None
    if isinstance(source, CachedSource):
        size = source.prepared_bytes(rows)
    elif spec.resize == "warp":
        size = len(np.unique(rows)) * spec.resize_size**2 * 3
    else:
        return None
    return size if size * FREE_SHARE < free_gpu_bytes(device) else None


class Pixels:
    """The pixels of prepared images, `size` bytes, one image after the other on a device.

    Raises BadImageError for an image that cannot be read, and StoppedWaitingError for a request to stop.
    """

    def __init__(self, source: ImageSource, rows: np.ndarray, device: torch.device, size: int) -> None:
        self._pixels = torch.empty((size // 3, 3), dtype=torch.uint8, device=device)
        self._shapes = np.zeros((len(source), 2), dtype=np.int64)
        self._starts = np.zeros(len(source), dtype=np.int64)
        unique = np.unique(rows).tolist()
        part = max(1, CHUNK * len(unique) // max(1, size))  # images that are copied at once
        done = 0
        with progress(len(unique), f"images to {device}") as bar:
            for at in range(0, len(unique), part):
                if stop_requested():
                    raise StoppedWaitingError("stopped while images were copied to the device")
                images = [source[row] for row in unique[at : at + part]]
                for row, image in zip(unique[at : at + part], images, strict=True):
                    self._shapes[row], self._starts[row] = image.shape[:2], done
                    done += image.shape[0] * image.shape[1]
                flat = torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in images]))
                self._pixels[done - len(flat) : done] = to_device(flat, device)
                bar.advance(len(images))
        wait_for_copies(device)  # crops are cut on the stream that runs ahead of this one

    def place(self, row: int, places: Callable[[int, int], list[Place]]) -> np.ndarray:
        """Return of each crop of a row's image its first pixel, the image's width, and 1 where it mirrors.

        Args:
            row: whose image.
            places: where the crops of an image of (height, width) lie.

        Returns int64 (crops, 3).
        """
        height, width = self._shapes[row].tolist()
        start = int(self._starts[row])
        found = [(start + top * width + left, width, int(turn)) for top, left, turn in places(height, width)]
        return np.array(found, dtype=np.int64)

    def cut(self, placed: np.ndarray, side: int) -> Tensor:
        """Return square crops, uint8 (n, side, side, 3) on the device: those that `place` told, (n, 3)."""
        device = self._pixels.device
        first, width, mirrored = to_device(torch.from_numpy(placed), device).unbind(1)
        steps = torch.arange(side, device=device)
        columns = torch.where(mirrored[:, None] == 1, side - 1 - steps, steps)
        rows = first[:, None] + steps * width[:, None]  # the first pixel of each row, were it not mirrored
        return self._pixels[rows[:, :, None] + columns[:, None, :]]


class Resident:
    """Answers requests in their order from images that it puts on the device for the first of them."""

    def __init__(self, load: Callable[[], Pixels], make: Callable[[Pixels, Request], Batch]) -> None:
        self._load, self._make = load, make
        self._pixels: Pixels | None = None

    def run(self, requests: Sequence[Request], following: Sequence[Request] = ()) -> Iterator[Batch]:  # noqa: ARG002
        """Yield the batches; none is made before it is asked for."""
        for request in requests:
            if self._pixels is None:
                self._pixels = self._load()
            yield self._make(self._pixels, request)
