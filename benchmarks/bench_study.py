"""How much faster a study of losses is than the loop one would write: print ratios, all of one run.

Resident pipeline against a loader: the same network, batch, loss and optimiser, trained once from images
that lie on the device as uint8, and once through torch's DataLoader as the usual script does it (an image,
torchvision's ToTensor and Normalize, collated), with the better of no and two worker processes. That loop is
in float32, as the usual script is; the study's number format is --precision.

Together against one by one: sixteen models (four losses, four seeds) as a study trains them, against sixteen
trainings one after another.

Usage: python benchmarks/bench_study.py [--images 4096] [--rounds 3] [--device auto]
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


def loader_epoch(name: str, data: ImageSet, scaling: Scaling, device: torch.device, workers: int) -> float:
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
        start = time.perf_counter()
        for images, target in loader:
            loss = F.cross_entropy(model(images.to(device)), target.to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        wait(device)
        seconds = time.perf_counter() - start
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


def seconds_of(work: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(name: str, count: int, rounds: int, precision: Precision) -> list[str]:
    """Return the table's cells for one network: interleaved rounds, medians."""
    place = precision.device
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
    singles = [training(name, [cell], images, precision) for cell in cells]
    together = training(name, cells, images, precision)
    for found in (single, *singles, together):  # warm up, compile
        run_epoch(found)
    times: dict[str, list[float]] = {"loader": [], "resident": [], "apart": [], "together": []}
    for _ in range(rounds):
        times["loader"].append(min(loader_epoch(name, data, scaling, place, workers) for workers in (0, 2)))
        times["resident"].append(seconds_of(lambda: run_epoch(single), place))
        times["apart"].append(seconds_of(lambda: [run_epoch(found) for found in singles], place))
        times["together"].append(seconds_of(lambda: run_epoch(together), place))
    loader = median(a / b for a, b in zip(times["loader"], times["resident"], strict=True))
    gain = median(a / b for a, b in zip(times["apart"], times["together"], strict=True))
    rate = count / median(times["resident"])
    return [
        f"{rate:,.0f}",
        f"{loader:.2f}x",
        f"{gain:.2f}x",
        f"{len(cells) * median(times['resident']) / median(times['together']):.2f}x",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--networks", nargs="+", choices=SHAPES, default=list(SHAPES))
    options = parser.parse_args()
    precision = choose_precision(study_device(options.device), options.precision)
    print(precision.describe())
    print(f"{options.images} images, batch {BATCH}, medians of {options.rounds} rounds\n")
    header = [
        "network",
        "img/s, resident",
        "resident : loader",
        "16 together : 16 apart",
        "16 together : 16 x 1",
    ]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for name in options.networks:
        row = measure(name, options.images, options.rounds, precision)
        print("| " + " | ".join([name, *row]) + " |", flush=True)


if __name__ == "__main__":
    main()
