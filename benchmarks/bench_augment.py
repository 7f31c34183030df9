"""How many images a core augments with each policy, and how much the policies of one warp gain.

One prepared image of 256 px (or 512) becomes one of 224 px (or 448), with another seed each time. Time is the
process's CPU time; the rounds alternate between the policies, so that a busy machine disturbs little, and a
ratio is that of the medians. The bar: `face_fast` and `strong_fast` at least 3 times `face` and `strong`.

Run: python benchmarks/bench_augment.py [--rounds 7] [--images 100]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from finetune.images.augmentation.policies import EXTRAS, POLICIES, Augment, build_augment
from finetune.images.preprocess import PreprocessSpec

SIZES = {224: 256, 448: 512}
FASTER = {"face_fast": "face", "strong_fast": "strong"}
BAR = 3.0


def milliseconds(augment: Augment, prepared: np.ndarray, images: int) -> float:
    out = np.empty((augment.spec.image_size,) * 2 + (3,), np.uint8)
    start = time.process_time()
    for seed in range(images):
        augment(prepared, seed, out)
    return 1000 * (time.process_time() - start) / images


def measure(size: int, rounds: int, images: int) -> dict[str, float]:
    """Return the median milliseconds per image of every policy at one size, px."""
    spec = PreprocessSpec(size, "warp", SIZES[size], "bicubic", (0.5,) * 3, (0.5,) * 3)
    coarse = np.random.default_rng(0).integers(0, 256, (24, 22, 3), dtype=np.uint8)
    prepared = cv2.resize(coarse, (SIZES[size],) * 2, interpolation=cv2.INTER_CUBIC)
    policies = {name: build_augment(name, spec) for name in (*POLICIES, *(f"crop+{name}" for name in EXTRAS))}
    times: dict[str, list[float]] = {name: [] for name in policies}
    for number in range(rounds + 1):
        for name, augment in policies.items():
            elapsed = milliseconds(augment, prepared, images)
            if number:  # the first round builds what is built late
                times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Print the table; return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=100, help="images of each policy and round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    medians = {size: measure(size, options.rounds, options.images) for size in SIZES}
    table = Table("policy", *(f"{size} px: images/s a core" for size in SIZES), title="augmentation")
    for name in medians[224]:
        table.add_row(name, *(f"{1000 / medians[size][name]:,.0f}" for size in SIZES))
    Console().print(table)
    ratios = {fast: medians[224][slow] / medians[224][fast] for fast, slow in FASTER.items()}
    for fast, ratio in ratios.items():
        met = "met" if ratio >= BAR else "MISSED"
        print(f"{fast}: {ratio:.1f} times {FASTER[fast]} at 224 px (bar {BAR:g}): {met}")
    return 0 if min(ratios.values()) >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
