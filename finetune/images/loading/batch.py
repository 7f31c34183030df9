"""A batch of images on its way to the device, and what the device makes of its pixels first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from finetune.images.loading.copies import to_device


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

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from which a GPU copies directly."""
        images, target, index = self.images.pin_memory(), self.target.pin_memory(), self.index.pin_memory()
        return Batch(images, target, index, self.crops)

    @property
    def pageable(self) -> bool:
        """Whether the images lie in ordinary memory, which a GPU does not read from."""
        return self.images.device.type == "cpu" and not self.images.is_pinned()


class CutBatch(Batch):
    """A batch whose images are cut on their device, each time that they are asked for."""

    def __init__(self, cut: Callable[[], Tensor], target: Tensor, index: Tensor, crops: int) -> None:
        for name, value in {"_cut": cut, "target": target, "index": index, "crops": crops}.items():
            object.__setattr__(self, name, value)

    @property
    def images(self) -> Tensor:
        """The images, uint8 (B * crops, S, S, 3), made now."""
        cut: Callable[[], Tensor] = self._cut  # type: ignore[attr-defined]
        return cut()

    @property
    def pageable(self) -> bool:
        """False: nothing is copied but where the crops lie."""
        return False


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
