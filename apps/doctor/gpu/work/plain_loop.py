"""What a user would write instead, a plain loop with timm's own loader: check 11 measures against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import timm
import timm.data
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset

from apps.doctor.gpu.work.drawn import CLASSES
from finetune.training.optimization.precision import Precision

RATE = 0.02


class Repeated(Dataset[Any]):
    """A folder of images, named again and again until there are `count`."""

    def __init__(self, root: Path, count: int) -> None:
        self.inner = timm.data.ImageDataset(str(root))
        self.count = count

    @property
    def transform(self) -> Callable[..., Any] | None:
        """What is made of each image; timm's loader sets it."""
        found: Callable[..., Any] | None = self.inner.transform
        return found

    @transform.setter
    def transform(self, transform: Callable[..., Any] | None) -> None:
        self.inner.transform = transform

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Any:
        return self.inner[row % len(self.inner)]


def plain_steps(
    backbone: str, root: Path, batch: int, side: int, count: int, workers: int, precision: Precision
) -> Iterator[None]:
    """Yield after each step of a plain loop: prefetching loader, channels last, autocast."""
    device, half = precision.device, precision.dtype
    loader = timm.data.create_loader(
        Repeated(root, count),
        input_size=(3, side, side),
        batch_size=batch,
        is_training=True,
        color_jitter=None,
        interpolation="bicubic",
        num_workers=workers,
        pin_memory=device.type == "cuda",
        device=device,
        persistent_workers=False,
    )
    model = timm.create_model(backbone, num_classes=CLASSES)
    model = model.to(device=device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type, enabled=precision.use_scaler)
    for images, target in chain.from_iterable(repeat(loader)):
        shown = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=half, enabled=half != torch.float32):
            loss = F.cross_entropy(model(shown), target)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
        yield
