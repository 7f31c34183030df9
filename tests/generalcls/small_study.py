"""A tiny data set and ways to train on it, for the tests of the engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from finetune.experiments.study.arms import Arm, build_arms
from finetune.seeding import derive_seed
from finetune.training.optimization.precision import choose_precision
from generalcls.config import GeneralTrainConfig
from generalcls.data.image_set import ImageSet
from generalcls.networks.registry import Network, build_network
from generalcls.parallel.device_data import ResidentImages, Scaling
from generalcls.parallel.engine import Training
from generalcls.parallel.model_stack import ModelStack
from generalcls.parallel.objectives import StackObjective
from generalcls.parallel.optimizers import Member

CPU = torch.device("cpu")


def images(count: int = 40, side: int = 8, channels: int = 1, classes: int = 3, seed: int = 0) -> ImageSet:
    """Return noise images with a brighter corner per class."""
    generator = np.random.default_rng(seed)
    target = generator.integers(0, classes, count)
    pictures = generator.integers(0, 120, (count, side, side, channels), dtype=np.uint8)
    for picture, label in zip(pictures, target, strict=True):
        picture[2 * label : 2 * label + 3, :4] += 100
    return ImageSet(pictures, target.astype(np.int64))


class NormNet(nn.Module):
    """A convolution, batch norm and pooling: a trunk whose buffers change while it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(self.convolution(pictures))).mean((2, 3))


def network(name: str, seed: int, classes: int = 3) -> Network:
    """Return the network as the seed begins it; "norm" is the small one with batch norm."""
    torch.manual_seed(derive_seed(seed, "weights"))
    if name == "norm":
        return Network(NormNet(), 4, classes)
    return build_network(name, channels=1, image_size=8, num_classes=classes)


def arms(*words: str) -> list[Arm]:
    """Return the arms of these words, in this order."""
    return [arm for word in words for arm in build_arms([word], controls=False)[0 if word == "cel" else 1 :]]


def training(
    name: str,
    cells: list[tuple[Arm, int]],
    *,
    side_by_side: bool,
    factors: list[float] | None = None,
    dtype: torch.dtype = torch.float64,
    checkpoint=None,
    compiled: str = "off",
    **options,
) -> Training:
    """Return a training of these cells on 40 images, tested on 20 others."""
    learned, tested = images(), images(20, seed=1)
    scaling = Scaling.of(learned.images, "standard")
    precision = choose_precision("cpu", "float32")
    stack = ModelStack(
        [network(name, seed) for _, seed in cells],
        precision,
        side_by_side=side_by_side,
        dtype=dtype,
    )
    factors = factors or [1.0] * len(cells)
    return Training(
        stack,
        [Member(arm.name, seed, factor) for (arm, seed), factor in zip(cells, factors, strict=True)],
        StackObjective.of([arm for arm, _ in cells]),
        ResidentImages(learned, CPU, scaling, dtype),
        ResidentImages(tested, CPU, scaling, dtype),
        replace(GeneralTrainConfig(epochs=2, batch_size=8, lr=0.1), **options),
        checkpoint=checkpoint,
        compiled=compiled,
    )
