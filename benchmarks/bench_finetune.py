"""`crl fine train` against timm's own train.py, as whole commands on the same images.

Both train the same network on class folders with the ImageNet crop and mirror, SGD with momentum .9 and one
learning rate on a cosine without warm-up. Both test once, at the end. timm runs in float32 and with bfloat16
autocast, ours as it chooses. The commands alternate. A steady speed is that of the last epoch, loading
included: timm's own average on its last line, and the seconds between our last two epochs. A bar is against
the faster of timm's two formats where it says so. Keep the machine quiet.

timm's train.py is not in its package: take it from a checkout of the repository (`--timm_train`).

Run: python benchmarks/bench_finetune.py --timm_train pytorch-image-models/train.py [--data FOLDER]
    [--network resnet34 --size 224] [--weights FILE] [--pairs 5] [--epochs 3] [--batch 32]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

OURS, FLOAT32, BFLOAT16 = "ours", "timm, float32", "timm, bfloat16 autocast"
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 1e-4


@dataclass(frozen=True)
class Bars:
    """Least ratios: steady speed against timm's faster format and its float32, and whole commands."""

    steady: float | None = None
    steady_float32: float | None = None
    command: float | None = None


BARS = {
    "tf_efficientnet_lite0": Bars(steady=2.1, command=1.8),
    "resnet34": Bars(steady=1.1, steady_float32=2.2),
}


@dataclass(frozen=True)
class Work:
    """What both sides train."""

    data: Path
    network: str
    size: int
    batch: int
    epochs: int
    weights: Path | None
    classes: int


@dataclass(frozen=True)
class Result:
    """One whole command: seconds on the clock and of the CPU, images a second, and the test accuracy in %."""

    wall: float
    cpu: float
    speed: float
    accuracy: float


def our_command(work: Work, folder: Path) -> list[str]:
    options = {
        "data.root": work.data,
        "data.val_share": 0,
        "model.backbone": work.network,
        "model.weights": work.weights or "none",
        "model.image_size": work.size,
        "train.epochs": work.epochs,
        "train.batch_size": work.batch,
        "train.augment": "standard",
        "train.lr": LEARNING_RATE,
        "train.head_lr_multiplier": 1,
        "train.weight_decay": WEIGHT_DECAY,
        "run.dir": folder,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "apps.cli", "fine", "train", *words]


def timm_command(work: Work, folder: Path, script: Path, more: list[str]) -> list[str]:
    options = {
        "data-dir": work.data,
        "train-split": "train",
        "val-split": "test",
        "model": work.network,
        "num-classes": work.classes,
        "img-size": work.size,
        "batch-size": work.batch,
        "epochs": work.epochs,
        "val-interval": work.epochs,
        "log-interval": 1,
        "opt": "momentum",
        "momentum": MOMENTUM,
        "weight-decay": WEIGHT_DECAY,
        "lr": LEARNING_RATE,
        "warmup-epochs": 0,
        "color-jitter": 0,
        "smoothing": 0,
        "train-interpolation": "bicubic",
        "checkpoint-hist": 1,
        "device": "cpu",
        "workers": 2,
        "output": folder,
        "experiment": "run",
    }
    if work.weights:
        options["pretrained-path"] = work.weights
        more = ["--pretrained", *more]
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, str(script), *words, *more]


def run_once(side: str, work: Work, script: Path) -> Result:
    """Run one command and read what it left; SystemExit with its last lines where it fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        more = ["--amp", "--amp-dtype", "bfloat16"] if side == BFLOAT16 else []
        ours = side == OURS
        words = our_command(work, folder / "run") if ours else timm_command(work, folder, script, more)
        before, start = os.times(), time.perf_counter()
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        wall, after = time.perf_counter() - start, os.times()
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}\nended with {done.returncode}:\n{done.stderr[-3000:]}")
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        speed, accuracy = our_numbers(folder / "run", work) if ours else timm_numbers(done)
    return Result(wall, cpu, speed, accuracy)


def our_numbers(run: Path, work: Work) -> tuple[float, float]:
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last, one = epochs[-1], epochs[-2]
    record = json.loads((run / "run.json").read_text())
    images = (last["step"] - one["step"]) * work.batch
    return images / (last["seconds"] - one["seconds"]), float(record["scores"]["top1"])


def timm_numbers(done: subprocess.CompletedProcess[str]) -> tuple[float, float]:
    """Return the average speed of the last epoch, and the test accuracy."""
    said = done.stdout + done.stderr
    speeds = re.findall(r"Train: \d+ .*?Time: [\d.]+s,\s+[\d.]+/s\s+\([\d.]+s,\s+([\d.]+)/s\)", said)
    (accuracy,) = re.findall(r"Best metric: ([\d.]+)", said)
    return float(speeds[-1]), float(accuracy)


def median(results: list[Result], name: str) -> float:
    return float(statistics.median(getattr(result, name) for result in results))


def told(results: dict[str, list[Result]], bars: Bars) -> list[str]:
    """Return a line for every bar; a missed one says so."""
    speed = {side: median(found, "speed") for side, found in results.items()}
    wall = {side: median(found, "wall") for side, found in results.items()}
    faster = max(speed[FLOAT32], speed[BFLOAT16])
    quicker = min(wall[FLOAT32], wall[BFLOAT16])
    lines = [
        ("steady speed, against the faster timm", speed[OURS] / faster, bars.steady),
        ("steady speed, against float32 timm", speed[OURS] / speed[FLOAT32], bars.steady_float32),
        ("whole command, against the quicker timm", quicker / wall[OURS], bars.command),
    ]
    return [
        f"{what}: {ratio:.2f}x"
        + (f" (bar {bar}x): {'met' if ratio >= bar else 'MISSED'}" if bar is not None else "")
        for what, ratio, bar in lines
    ]


def draw(folder: Path) -> None:
    from finegrained.synthetic.datasets import write_lookalike_folders

    write_lookalike_folders(folder, classes=10, per_class=60, image_size=320)


def main() -> int:
    """Print the table and the bars; return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--timm_train", type=Path, help="timm's train.py")
    parser.add_argument(
        "--data", type=Path, help="a folder with train/CLASS/ and test/CLASS/; default: drawn"
    )
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=128, help="px")
    parser.add_argument("--weights", type=Path, help="pretrained weights of the network, for both sides")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    if options.timm_train is None or not options.timm_train.is_file():
        print(
            "skipped: timm's train.py is not in its package. Give --timm_train FILE, from a checkout of the "
            "repository huggingface/pytorch-image-models at the installed version."
        )
        return 0
    with tempfile.TemporaryDirectory() as name:
        data = options.data or Path(name) / "drawn"
        if options.data is None:
            draw(data)
        classes = sum(folder.is_dir() for folder in (data / "train").iterdir())
        work = Work(
            data.resolve(),
            options.network,
            options.size,
            options.batch,
            options.epochs,
            options.weights and options.weights.resolve(),
            classes,
        )
        results: dict[str, list[Result]] = {OURS: [], FLOAT32: [], BFLOAT16: []}
        for number in range(options.pairs):
            order = list(results) if number % 2 else list(results)[::-1]
            for side in order:
                results[side].append(run_once(side, work, options.timm_train.resolve()))
                print(f"round {number + 1} of {options.pairs}: {side}: {results[side][-1]}", flush=True)
    table = Table("side", "images/s", "whole command, s", "CPU, s", "test accuracy, %")
    table.title = f"{options.network}, {options.size} px, batch {options.batch}, {options.epochs} epochs"
    for side, found in results.items():
        numbers = [f"{median(found, name):.1f}" for name in ("speed", "wall", "cpu")]
        accuracies = [result.accuracy for result in found]
        table.add_row(side, *numbers, f"{min(accuracies):.1f} to {max(accuracies):.1f}")
    Console().print(table)
    lines = told(results, BARS.get(options.network, Bars()))
    print("\n".join(lines))
    return int(any(line.endswith("MISSED") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
