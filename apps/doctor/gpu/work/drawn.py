"""Networks with random weights, and drawn images to show them: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from apps.doctor.gpu.setup import Setup
from finegrained.synthetic.datasets import write_lookalike_folders
from finetune.cli.machine import core_count
from finetune.images.cache.source import open_source
from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec
from finetune.models.classifier import Classifier, build_classifier
from finetune.seeding import derive_seed, numpy_generator, seed_torch
from finetune.training.data import TrainingData

CLASSES = 6
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def draw_files(
    root: Path, count: int, side: int, classes: int = CLASSES
) -> tuple[list[str], tuple[str, ...]]:
    """Write at least `count` drawn JPEGs in folders of classes; return their paths and the classes."""
    if not root.is_dir():
        write_lookalike_folders(root, classes, max(2, -(-count // classes)), parts=(), image_size=side)
    names = tuple(sorted(folder.name for folder in root.iterdir() if folder.is_dir()))
    return sorted(file.relative_to(root).as_posix() for file in root.glob("*/*.jpg")), names


def spec_of(side: int) -> PreprocessSpec:
    """Return the preprocessing of a square of `side` pixels."""
    return PreprocessSpec(side, "warp", max(side, round(side * 8 / 7)), "bicubic", MEAN, STD)


def draw_task(root: Path, count: int, side: int, *, rows: int = 0, val: int = 0) -> TrainingData:
    """Return a task over `count` drawn images, decoded once into a cache beside them.

    Args:
        root: the folder of the images; drawn where it is not there yet.
        count: images.
        side: pixels of what the network sees.
        rows: rows of the table, which names its images again and again; 0 names each once.
        val: the last rows, for validation.
    """
    spec = spec_of(side)
    paths, names = draw_files(root, count, max(32, spec.resize_size))
    label = np.array([names.index(path.partition("/")[0]) for path in paths])
    order = numpy_generator(0, "rows").permutation(len(paths))
    listed = np.resize(order, rows or len(paths))
    columns = {"path": np.array(paths)[listed], "label": label[listed]}
    manifest = Manifest(root, names, columns)
    source = open_source(manifest, spec, cache_dir=root.parent / "decoded", workers=core_count())
    every = np.arange(len(manifest))
    split = len(every) - val
    return TrainingData(manifest, source, spec, every[:split], every[split:], "drawn")


def random_classifier(
    backbone: str,
    head: str,
    side: int,
    *,
    seed: int = 0,
    second: str = "",
    options: dict[str, Any] | None = None,
) -> Classifier:
    """Return a classifier on the CPU whose weights, scales and batch-norm statistics are random but tame.

    Fresh networks hide mistakes: residual branches end in zero, and statistics are those of nothing.
    """
    seed_torch(derive_seed(seed, "weights"))
    core = build_classifier(
        backbone,
        head,
        CLASSES,
        weights="none",
        image_size=side,
        second=second,
        second_weights="none",
        head_options=options or {},
    )
    for module in core.modules():
        randomise_norm(module)
    return core


def drawn_images(count: int, side: int, seed: int = 0) -> Tensor:
    """Return smooth random images, uint8 (count, side, side, 3)."""
    generator = numpy_generator(seed, "images")
    coarse = torch.from_numpy(generator.uniform(0, 255, (count, 3, 5, 5)))
    smooth = nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)
    noisy = smooth.permute(0, 2, 3, 1) + torch.from_numpy(generator.normal(0, 12, (count, side, side, 3)))
    return noisy.clamp(0, 255).to(torch.uint8).contiguous()


def targets(count: int) -> Tensor:
    """Return classes, int64 (count,), each as often as the others."""
    return torch.arange(count) % CLASSES


def small_batch(setup: Setup, side: int, views: int = 1) -> tuple[Tensor, Tensor]:
    """Return a batch of the check's size on the CPU: images uint8, `views` of each, and targets."""
    count = setup.sizes.batch
    return drawn_images(count, side).repeat_interleave(views, dim=0), targets(count)


def randomise_norm(module: nn.Module) -> None:
    """Draw new weights and statistics for a batch norm: those of a fresh one hide errors. Others stay."""
    if isinstance(module, _BatchNorm):
        for tensor, low, high in (
            (module.weight, 0.5, 1.5),
            (module.bias, -0.3, 0.3),
            (module.running_mean, -0.3, 0.3),
            (module.running_var, 0.5, 1.5),
        ):
            if isinstance(tensor, Tensor):
                nn.init.uniform_(tensor, low, high)
