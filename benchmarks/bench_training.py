"""Our training step against a plain loop: resnet34 at 224 px, from JPEG files to new weights.

The plain loop is what one writes with timm's loader: float32, channels first, standard training crop and
mirror. Ours reads the image cache, crops and mirrors alike, normalises on the device and computes as
`choose_precision` chooses. Both have the same batch, loss and optimiser, load in their own process and may
use every core. Steps alternate; a speed is that of the median step on the clock, so keep the machine quiet.

Bar: 3 times the plain loop wherever the hardware multiplies bfloat16 (or float16) natively. AVX-512's
bfloat16 instructions do at most twice the float32 ones' work in a cycle, so that a CPU without matrix
units can miss it however well it is used.

Run: python benchmarks/bench_training.py [--batch 16] [--steps 3]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import timm
import timm.data
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from finetune.images.augmentation.policies import build_augment
from finetune.images.batches import TrainBatches, normalise
from finetune.images.cache.source import open_source
from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec
from finetune.models.classifier import build_classifier
from finetune.training.objective import Objective
from finetune.training.optimization.optim import build_optimizer, parameter_groups
from finetune.training.optimization.precision import Precision, choose_precision

BACKBONE = "resnet34"
CLASSES = 8
BAR = 3.0
SPEC = PreprocessSpec(224, "warp", 256, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def write_photographs(folder: Path, count: int) -> Manifest:
    """Write smooth random JPEGs of 640 x 480 px and return the table of them."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(picture).save(folder / f"{number:04}.jpg", quality=90)
    names = np.array([f"{number:04}.jpg" for number in range(count)])
    classes = tuple(f"class {number}" for number in range(CLASSES))
    return Manifest(folder, classes, {"path": names, "label": np.arange(count) % CLASSES})


def our_steps(manifest: Manifest, cache: Path, batch: int, precision: Precision) -> Iterator[None]:
    source = open_source(manifest, SPEC, cache_dir=cache, workers=0)
    augment = build_augment("standard", SPEC)
    rows = np.arange(len(manifest))
    batches = TrainBatches(source, manifest.label, rows, augment=augment, batch_size=batch, seed=0)
    model = build_classifier(BACKBONE, "linear", CLASSES, weights="none")
    precision.place(model).train()
    groups = parameter_groups(model, lr=0.01, weight_decay=1e-4)
    optimizer = build_optimizer("sgd", groups, lr=0.01)
    objective = Objective(F.cross_entropy)
    for epoch in range(1_000_000):
        for loaded in batches.epoch(epoch):
            ready = loaded.to(precision.device)
            images = precision.arrange(normalise(ready.images, SPEC.mean, SPEC.std))
            with precision.autocast():
                output = model(images, ready.target)
            loss = objective(output, ready.target).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            yield


class Pictures(torch.utils.data.Dataset[object]):
    """The images as a plain data set: a PIL image, transformed, and its class."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.transform: Callable[[Image.Image], object] | None = None

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, row: int) -> tuple[object, int]:
        assert self.transform is not None
        picture = Image.open(self.manifest.file(row)).convert("RGB")
        return self.transform(picture), int(self.manifest.label[row])


def plain_steps(manifest: Manifest, batch: int, device: torch.device) -> Iterator[None]:
    loader = timm.data.create_loader(
        Pictures(manifest),
        input_size=(3, SPEC.image_size, SPEC.image_size),
        batch_size=batch,
        is_training=True,
        color_jitter=None,
        interpolation=SPEC.interpolation,
        num_workers=0,
        device=device,
        persistent_workers=False,
    )
    model = timm.create_model(BACKBONE, num_classes=CLASSES).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    while True:
        for images, target in loader:
            loss = F.cross_entropy(model(images.to(device)), target.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
            yield


def seconds(steps: Iterator[None]) -> float:
    start = time.perf_counter()
    next(steps)
    return time.perf_counter() - start


def bar(precision: Precision) -> float:
    """Return the ratio that this hardware should reach, 0 where it has no fast half precision."""
    return 0.0 if precision.dtype == torch.float32 else BAR


def measure(batch: int, steps: int) -> tuple[list[float], list[float], Precision]:
    """Return the seconds of each of our and of the plain loop's steps, warmed up."""
    precision = choose_precision()
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        manifest = write_photographs(pictures, 2 * batch)
        ours = our_steps(manifest, Path(folder) / "cache", batch, precision)
        plain = plain_steps(manifest, batch, precision.device)
        pairs = [(seconds(ours), seconds(plain)) for _ in range(steps + 1)][1:]
    return [own for own, _ in pairs], [other for _, other in pairs], precision


def main() -> int:
    """Print the table; return 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each side")
    options = parser.parse_args()
    torch.manual_seed(0)
    cv2.setNumThreads(0)
    ours, plain, precision = measure(options.batch, options.steps)
    table = Table("loop", "pictures/s", "fastest step, s", title=f"{BACKBONE}, {SPEC.image_size} px")
    for name, times in (("plain float32", plain), (f"ours, {precision.dtype_name}", ours)):
        table.add_row(name, f"{options.batch / statistics.median(times):.1f}", f"{min(times):.2f}")
    Console().print(table)
    print(precision.describe())
    ratio, least = statistics.median(plain) / statistics.median(ours), bar(precision)
    print(f"ratio {ratio:.2f}, bar {least:.1f}: {'met' if ratio >= least else 'MISSED'}")
    return 0 if ratio >= least else 1


if __name__ == "__main__":
    sys.exit(main())
