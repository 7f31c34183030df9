"""Our training step against a plain loop, from JPEG files to new weights.

On a processor: resnet34 at 224 px. The plain loop is what one writes with timm's loader: float32, channels
first, standard training crop and mirror. Ours reads the image cache, crops and mirrors alike, normalises on
the device and computes as `choose_precision` chooses. Both have the same batch, loss and optimiser, load in
their own process and may use every core. Steps alternate; a speed is that of the median step on the clock, so
keep the machine quiet.

Bar there: 3 times the plain loop wherever the hardware multiplies bfloat16 (or float16) natively. AVX-512's
bfloat16 instructions do at most twice the float32 ones' work in a cycle. A CPU without matrix units can miss
it however well it is used.

On a GPU: ResNet-50, batch 128 at 224 px and 32 at 448 px, three loops one after the other: (a) ours on a
batch that lies on the device, (b) ours with our loader, (c) timm's plain loop with its prefetching loader,
channels last, autocast and as many workers. The GPU's own clock is read, and nothing else is read back.

Bars there: (b) reaches 0.95 of (a), and (c).

Run: python benchmarks/bench_training.py [--batch 16] [--steps 3] [--workers 8]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
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
from finetune.images.batches import Batch, TrainBatches, normalise
from finetune.images.cache.source import open_source
from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec
from finetune.models.classifier import build_classifier
from finetune.training.objective import Objective
from finetune.training.optimization.optim import build_optimizer, parameter_groups
from finetune.training.optimization.precision import Precision, choose_precision
from finetune.training.optimization.torch_settings import prepare_torch
from finetune.training.optimization.trial_steps import learn_from
from finetune.training.predict import worker_count

BACKBONE, GPU_BACKBONE = "resnet34", "resnet50"
GPU_CASES = ((224, 128), (448, 32))  # px, images in a batch
GPU_STEPS, WARM_UP = 30, 10
IMAGES = 16  # batches of them are written
CLASSES = 8
BAR, OF_RESIDENT = 3.0, 0.95
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


@dataclass(frozen=True)
class Bench:
    """What is trained, and on what.

    Args:
        manifest: the images.
        cache: the folder of decoded ones.
        batch: images in a step.
        precision: device and number format.
        spec: how images are prepared.
        backbone: the network.
        workers: processes that load.
    """

    manifest: Manifest
    cache: Path
    batch: int
    precision: Precision
    spec: PreprocessSpec = SPEC
    backbone: str = BACKBONE
    workers: int = 0

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU trains."""
        return self.precision.device.type == "cuda"


def loaded_batches(bench: Bench) -> Iterator[Batch]:
    """Yield the batches of our loader without end."""
    manifest = bench.manifest
    source = open_source(manifest, bench.spec, cache_dir=bench.cache, workers=0)
    augment = build_augment("standard", bench.spec)
    rows = np.arange(len(manifest))
    batches = TrainBatches(
        source,
        manifest.label,
        rows,
        augment=augment,
        batch_size=bench.batch,
        seed=0,
        workers=bench.workers,
    )
    for epoch in range(1_000_000):
        yield from batches.epoch(epoch)


def resident_batch(bench: Bench) -> Iterator[Batch]:
    """Yield one batch on the device again and again."""
    yield from itertools.repeat(next(loaded_batches(replace(bench, workers=0))).to(bench.precision.device))


def our_steps(bench: Bench, batches: Iterator[Batch]) -> Iterator[None]:
    """Do one of our steps after the other."""
    precision, spec = bench.precision, bench.spec
    model = build_classifier(bench.backbone, "linear", CLASSES, weights="none")
    precision.place(model).train()
    optimizer = build_optimizer("sgd", parameter_groups(model, lr=0.01, weight_decay=1e-4), lr=0.01)
    objective, scaler = Objective(F.cross_entropy), precision.build_scaler()
    for loaded in batches:
        ready = loaded.to(precision.device)
        images = precision.arrange(normalise(ready.images, spec.mean, spec.std))
        with precision.autocast():
            output = model(images, ready.target)
        end_step(objective(output, ready.target).total, optimizer, scaler, read=not bench.on_gpu)
        yield


def end_step(
    loss: torch.Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None, *, read: bool
) -> None:
    """Go back, move the weights, and read the loss where the processor computes."""
    learn_from(loss, optimizer, scaler)
    if read:
        loss.item()


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


def plain_steps(bench: Bench) -> Iterator[None]:
    """Do one step after the other as timm's users write it; on a GPU with all that timm offers for speed."""
    device, on_gpu = bench.precision.device, bench.on_gpu
    loader = timm.data.create_loader(
        Pictures(bench.manifest),
        input_size=(3, bench.spec.image_size, bench.spec.image_size),
        batch_size=bench.batch,
        is_training=True,
        color_jitter=None,
        interpolation=bench.spec.interpolation,
        num_workers=bench.workers,
        device=device,
        use_prefetcher=True,
        pin_memory=on_gpu,
        persistent_workers=bench.workers > 0,
    )
    model = timm.create_model(bench.backbone, num_classes=CLASSES).to(device).train()
    scaler = None
    if on_gpu:
        model = model.to(memory_format=torch.channels_last)
        scaler = bench.precision.build_scaler()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    while True:
        for images, target in loader:
            given = images.to(device)
            if on_gpu:
                given = given.contiguous(memory_format=torch.channels_last)
            with bench.precision.autocast() if on_gpu else nullcontext():
                logits = model(given)
            end_step(F.cross_entropy(logits.float(), target.to(device)), optimizer, scaler, read=not on_gpu)
            yield


def seconds(steps: Iterator[None]) -> float:
    start = time.perf_counter()
    next(steps)
    return time.perf_counter() - start


def bar(precision: Precision) -> float:
    """Return the ratio that this hardware should reach, 0 where it has no fast half precision."""
    return 0.0 if precision.dtype == torch.float32 else BAR


def measure(batch: int, steps: int, precision: Precision) -> tuple[list[float], list[float]]:
    """Return the seconds of each of our and of the plain loop's steps, warmed up."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(written(Path(folder), 2 * batch), Path(folder) / "cache", batch, precision)
        ours, plain = our_steps(bench, loaded_batches(bench)), plain_steps(bench)
        pairs = [(seconds(ours), seconds(plain)) for _ in range(steps + 1)][1:]
    return [own for own, _ in pairs], [other for _, other in pairs]


def written(folder: Path, count: int) -> Manifest:
    """Return the table of images written below a folder."""
    pictures = folder / "pictures"
    pictures.mkdir()
    return write_photographs(pictures, count)


def images_per_second(steps: Iterator[None], batch: int, count: int) -> tuple[float, float]:
    """Return the speed of so many steps by the GPU's clock, and the main thread's share of that time."""
    for _ in range(WARM_UP):
        next(steps)
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    busy = time.thread_time()
    start.record()
    for _ in range(count):
        next(steps)
    end.record()
    busy = time.thread_time() - busy
    end.synchronize()
    took = start.elapsed_time(end) / 1000
    return count * batch / took, busy / took


def measure_gpu(bench: Bench, count: int) -> dict[str, tuple[float, float]]:
    """Return speed and the main thread's share of the three loops."""
    loops: dict[str, Callable[[], Iterator[None]]] = {
        "(a) ours, batch on the device": lambda: our_steps(bench, resident_batch(bench)),
        "(b) ours, our loader": lambda: our_steps(bench, loaded_batches(bench)),
        "(c) timm's plain loop": lambda: plain_steps(bench),
    }
    return {name: images_per_second(make(), bench.batch, count) for name, make in loops.items()}


def gpu_main(precision: Precision, batch: int | None, steps: int | None, workers: int) -> int:
    """Print the tables of a GPU; return 1 when a bar is missed."""
    missed = False
    for side, usual in GPU_CASES:
        own = batch or usual
        spec = replace(SPEC, image_size=side, resize_size=side * 256 // 224)
        with tempfile.TemporaryDirectory() as folder:
            manifest, cache = written(Path(folder), IMAGES * own), Path(folder) / "cache"
            bench = Bench(manifest, cache, own, precision, spec, GPU_BACKBONE, workers)
            found = measure_gpu(bench, steps or GPU_STEPS)
        table = Table("loop", "images/s", "main thread", title=f"{GPU_BACKBONE}, {side} px, batch {own}")
        for name, (speed, share) in found.items():
            table.add_row(name, f"{speed:.0f}", f"{share:.0%}")
        Console().print(table)
        resident, ours, plain = (speed for speed, _ in found.values())
        met = ours >= OF_RESIDENT * resident and ours >= plain
        missed |= not met
        told = f"(b) is {ours / resident:.2f} of (a), bar {OF_RESIDENT}, and {ours / plain:.2f} of (c), bar 1"
        print(f"{told}: {'met' if met else 'MISSED'}")
    print(precision.describe())
    return int(missed)


def main() -> int:
    """Print the table; return 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, help="images per step (32 on a processor)")
    parser.add_argument("--steps", type=int, help="timed steps of each side (3 on a processor, 30 on a GPU)")
    parser.add_argument("--workers", type=int, default=-1, help="loading processes on a GPU; -1: by cores")
    options = parser.parse_args()
    torch.manual_seed(0)
    cv2.setNumThreads(0)
    precision = choose_precision()
    if precision.device.type == "cuda":
        prepare_torch(precision, deterministic=False)
        return gpu_main(precision, options.batch, options.steps, worker_count(options.workers))
    batch = options.batch or 32
    ours, plain = measure(batch, options.steps or 3, precision)
    table = Table("loop", "pictures/s", "fastest step, s", title=f"{BACKBONE}, {SPEC.image_size} px")
    for name, times in (("plain float32", plain), (f"ours, {precision.dtype_name}", ours)):
        table.add_row(name, f"{batch / statistics.median(times):.1f}", f"{min(times):.2f}")
    Console().print(table)
    print(precision.describe())
    ratio, least = statistics.median(plain) / statistics.median(ours), bar(precision)
    print(f"ratio {ratio:.2f}, bar {least:.1f}: {'met' if ratio >= least else 'MISSED'}")
    return 0 if ratio >= least else 1


if __name__ == "__main__":
    sys.exit(main())
