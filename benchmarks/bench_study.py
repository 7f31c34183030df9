"""How near a study of losses comes to the bare arithmetic, and what a loader costs: ratios, all of one run.

Bare step: forward, backward and a fused update of one network on one batch that lies ready, scaled and in
the same memory layout, number format and threads. It is the limit of what a study can reach.

Ours: the same network as a study trains it, every batch gathered and scaled, its sums added up; alone, as
sixteen models together (four losses, four seeds), and as the same sixteen one after another.

Loader: the usual script in float32, torch's DataLoader with torchvision's ToTensor and Normalize, without
worker processes (--workers 2: the better of none and two).

On a CPU with one thread (OMP_NUM_THREADS=1) times are the process's own, which a busy machine lengthens
least; with --workers, more threads or a GPU they are the clock's.

Usage: python benchmarks/bench_study.py [--images 2048] [--rounds 5] [--device auto] [--workers 0]
           [--precision float32] [--networks mlp ...]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from finetune.experiments.study.arms import Arm, build_arms
from finetune.training.optimization.precision import Precision, choose_precision
from finetune.training.optimization.torch_settings import prepare_torch
from generalcls.config import GeneralTrainConfig
from generalcls.data.image_set import ImageSet
from generalcls.networks.registry import Network, build_network
from generalcls.parallel.device_data import ResidentImages, Scaling
from generalcls.parallel.dispatch import computes_side_by_side, study_device
from generalcls.parallel.engine import Training
from generalcls.parallel.model_stack import ModelStack
from generalcls.parallel.objectives import StackObjective
from generalcls.parallel.optimizers import Member

SHAPES = {"logistic": (28, 1), "mlp": (28, 1), "mnist_cnn": (28, 1), "cifar_cnn": (32, 3)}
BATCH, CLASSES = 128, 10
LOSSES = ("crl", "nllr", "focal")
PERCEPTRONS = ("logistic", "mlp")


class Pictures(Dataset):
    """What torchvision's MNIST and CIFAR classes do for one image."""

    def __init__(self, data: ImageSet, scaling: Scaling) -> None:
        self.data = data
        self.transform = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize(scaling.mean, scaling.sd)]
        )

    def __len__(self) -> int:
        return len(self.data.target)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = self.data.images[index]
        image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
        return self.transform(image), int(self.data.target[index])


def build(name: str, seed: int) -> Network:
    torch.manual_seed(seed)
    side, channels = SHAPES[name]
    return build_network(name, channels=channels, image_size=side, num_classes=CLASSES)


def loader_epoch(
    name: str,
    data: ImageSet,
    scaling: Scaling,
    device: torch.device,
    workers: int,
    clock: Callable[[], float],
) -> float:
    """Return the seconds of the second epoch of a plain loop (the first one warms up)."""
    model = build(name, 0).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    loader = DataLoader(
        Pictures(data, scaling),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    seconds = 0.0
    for _ in range(2):
        start = clock()
        for images, target in loader:
            loss = F.cross_entropy(model(images.to(device)), target.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        wait(device)
        seconds = clock() - start
    return seconds


def training(
    name: str, cells: Sequence[tuple[Arm, int]], images: ResidentImages, precision: Precision
) -> Training:
    """Return a training of these cells as a study begins it."""
    networks = [build(name, seed) for _, seed in cells]
    together = computes_side_by_side(networks[0], precision.device, len(networks))
    stack = ModelStack(networks, precision, side_by_side=together)
    return Training(
        stack,
        [Member(arm.name, seed) for arm, seed in cells],
        StackObjective.of([arm for arm, _ in cells]).to(precision.device),
        images,
        images,
        GeneralTrainConfig(epochs=100, batch_size=BATCH, lr=0.01),
    )


def run_epoch(found: Training) -> None:
    plan = found.batches.epoch(found.epoch)
    for step in range(found.batches.steps_per_epoch):
        found.step = step
        found.train_step(plan)
    found.epoch, found.step = found.epoch + 1, 0


def bare_epoch(
    model: Network, optimizer: torch.optim.Optimizer, batch: tuple, steps: int, precision: Precision
) -> None:
    images, target = batch
    for _ in range(steps):
        with precision.autocast():
            logits = model(images)
        loss = F.cross_entropy(logits.float(), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def seconds_of(work: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    start = clock()
    work()
    wait(device)
    return clock() - start


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(name: str, options: argparse.Namespace, precision: Precision) -> list[str]:
    """Return the table's cells for one network: interleaved rounds, medians of ratios within a round."""
    place, count = precision.device, options.images
    side, channels = SHAPES[name]
    generator = np.random.default_rng(0)
    data = ImageSet(
        generator.integers(0, 256, (count, side, side, channels), dtype=np.uint8),
        generator.integers(0, CLASSES, count).astype(np.int64),
    )
    scaling = Scaling.of(data.images, "standard")
    images = ResidentImages(data, place, scaling)
    arms = build_arms(LOSSES, controls=False)
    cells = [(arm, seed) for arm in arms for seed in range(4)]
    single = training(name, cells[:1], images, precision)
    apart = [training(name, [cell], images, precision) for cell in cells]
    together = training(name, cells, images, precision)
    ready, target = single.batches.epoch(0).batch(0)
    model = build(name, 0).to(place).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, fused=True)
    steps, batch = single.batches.steps_per_epoch, (ready[0], target[0])
    works: dict[str, Callable[[], object]] = {
        "bare": lambda: bare_epoch(model, optimizer, batch, steps, precision),
        "ours": lambda: run_epoch(single),
        "together": lambda: run_epoch(together),
        "apart": lambda: [run_epoch(found) for found in apart],
    }
    own_time = place.type == "cpu" and torch.get_num_threads() == 1 and not options.workers
    clock = time.process_time if own_time else time.perf_counter
    for work in works.values():  # warm up, compile
        work()
    times: dict[str, list[float]] = {name: [] for name in (*works, "loader")}
    for _ in range(options.rounds):
        for kind, work in works.items():
            times[kind].append(seconds_of(work, place, clock))
        found = [loader_epoch(name, data, scaling, place, n, clock) for n in {0, options.workers}]
        times["loader"].append(min(found))

    def ratio(above: str, below: str, factor: float = 1.0) -> float:
        return factor * median(a / b for a, b in zip(times[above], times[below], strict=True))

    near = 1.25 if name in PERCEPTRONS else 1.10
    return [
        f"{1000 * median(times['bare']) / steps:.2f} ms",
        f"{count / median(times['ours']):,.0f}",
        told(ratio("ours", "bare"), near, ratio("ours", "bare") <= near, "at most"),
        f"{ratio('together', 'bare', 1 / len(cells)):.2f}x",
        told(ratio("apart", "together"), 1, ratio("apart", "together") >= 1, "at least"),
        told(ratio("loader", "ours"), 3, ratio("loader", "ours") >= 3, "at least"),
    ]


def told(ratio: float, bar: float, met: bool, bound: str) -> str:
    return f"{ratio:.2f}x ({bound} {bar:g}x: {'met' if met else '**missed**'})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--networks", nargs="+", choices=SHAPES, default=list(SHAPES))
    options = parser.parse_args()
    precision = choose_precision(study_device(options.device), options.precision)
    prepare_torch(precision)
    print(precision.describe())
    print(f"{options.images} images, batch {BATCH}, medians of {options.rounds} rounds, ", end="")
    print(f"{torch.get_num_threads()} thread(s)\n")
    header = ["network", "bare step", "ours, img/s", "ours : bare", "16 together : 16 bare"]
    header += ["16 apart : 16 together", "loader : ours"]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for name in options.networks:
        print("| " + " | ".join([name, *measure(name, options, precision)]) + " |", flush=True)


if __name__ == "__main__":
    main()
