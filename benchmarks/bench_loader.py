"""Our loader against timm's own, on one core: images per second from JPEG files to training batches.

Both sides crop at random, resize to 224 px by bicubic interpolation and mirror. timm's loader then delivers
float32 batches normalised on the CPU, as its training script consumes them; ours delivers uint8, which
the device normalises (bench_training.py counts that). The bars are of this pair: 1.6 times from files, 12
times from the cache. Beside it: timm's loader stopped before its normalisation (uint8 against uint8, the
strictest reading), timm's standard transform as it comes (colour jitter), and our face policy (colour and
affine jitter). Time is the process's CPU time and the rounds alternate, so that a busy machine disturbs
little; a ratio is that of the medians.

Run: python benchmarks/bench_loader.py [--images FOLDER] [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import timm.data
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from finetune.images.augmentation.policies import build_augment
from finetune.images.batches import TrainBatches
from finetune.images.cache.source import ImageSource, open_source
from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec

REPOSITORY = Path(__file__).resolve().parents[1]
FGNET = REPOSITORY.parent / "shared" / "data" / "fgnet" / "images"
SPEC = PreprocessSpec(224, "warp", 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BATCH = 64
MOST_IMAGES = 1024
BAR_FILES, BAR_CACHE = 1.6, 12.0


def write_photographs(folder: Path, count: int = 256) -> None:
    """Write smooth random JPEGs of about 250 x 250 px, as large on disk as small photographs."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (24, 22, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (220 + number % 37, 256), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(picture).save(folder / f"{number:04}.jpg", quality=85)


def read_manifest(folder: Path) -> Manifest:
    names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    names = names[:MOST_IMAGES]
    return Manifest(folder, ("all",), {"path": np.array(names), "label": np.zeros(len(names), np.int64)})


class Pictures(torch.utils.data.Dataset[object]):
    """The images as timm's loader wants them: a PIL image, transformed, and a class."""

    def __init__(self, manifest: Manifest) -> None:
        self.files = [manifest.file(row) for row in range(len(manifest))]
        self.transform: Callable[[Image.Image], object] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[object, int]:
        assert self.transform is not None
        return self.transform(Image.open(self.files[row]).convert("RGB")), 0


def timm_epoch(manifest: Manifest, *, like_ours: bool, normalised: bool = True) -> Callable[[], int]:
    same = {"color_jitter": None, "interpolation": SPEC.interpolation} if like_ours else {}
    loader = timm.data.create_loader(
        Pictures(manifest),
        input_size=(3, SPEC.image_size, SPEC.image_size),
        batch_size=BATCH,
        is_training=True,
        num_workers=0,
        device=torch.device("cpu"),
        persistent_workers=False,
        **same,
    )
    batches = loader if normalised else loader.loader  # the loader inside stops before the normalisation
    return lambda: sum(len(images) for images, _ in batches)


def our_epoch(source: ImageSource, manifest: Manifest, policy: str) -> Callable[[], int]:
    rows = np.arange(len(manifest))
    augment = build_augment(policy, SPEC)
    batches = TrainBatches(source, manifest.label, rows, augment=augment, batch_size=BATCH, seed=0)
    return lambda: sum(len(batch.index) for batch in batches.epoch(0))


def milliseconds_per_image(epoch: Callable[[], int]) -> float:
    start = time.process_time()
    count = epoch()
    return 1000 * (time.process_time() - start) / count


def measure(folder: Path, rounds: int) -> dict[str, float]:
    """Return the median milliseconds per image of every loader."""
    manifest = read_manifest(folder)
    with tempfile.TemporaryDirectory() as cache:
        files = open_source(manifest, SPEC, cache_dir=None, workers=1)
        cached = open_source(manifest, SPEC, cache_dir=Path(cache), workers=1)
        loaders = {
            "timm, same crop and mirror": timm_epoch(manifest, like_ours=True),
            "timm, same, stopped at uint8": timm_epoch(manifest, like_ours=True, normalised=False),
            "timm, as it comes": timm_epoch(manifest, like_ours=False),
            "ours, files": our_epoch(files, manifest, "standard"),
            "ours, cache": our_epoch(cached, manifest, "standard"),
            "ours, files, face": our_epoch(files, manifest, "face"),
            "ours, cache, face": our_epoch(cached, manifest, "face"),
        }
        times: dict[str, list[float]] = {name: [] for name in loaders}
        for number in range(rounds + 1):
            for name, epoch in loaders.items():
                elapsed = milliseconds_per_image(epoch)
                if number:  # the first round warms caches up
                    times[name].append(elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> int:
    """Print the table; return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=FGNET, help="a folder of images")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as generated:
        folder = options.images
        if not folder.is_dir():
            folder = Path(generated)
            write_photographs(folder)
        medians = measure(folder, options.rounds)
    timm_names = [name for name in medians if name.startswith("timm")]
    table = Table("loader", "CPU ms", "pictures/s", *(f"x {name}" for name in timm_names))
    table.title = f"one core, {folder.name}"
    for name, value in medians.items():
        ratios = [f"{medians[other] / value:.1f}" for other in timm_names]
        table.add_row(name, f"{value:.3f}", f"{1000 / value:.0f}", *ratios)
    Console().print(table)
    same = medians[timm_names[0]]
    ratios = {name: same / medians[f"ours, {name}"] for name in ("files", "cache")}
    passed = ratios["files"] >= BAR_FILES and ratios["cache"] >= BAR_CACHE
    told = f"files {ratios['files']:.1f} (bar {BAR_FILES}), cache {ratios['cache']:.1f} (bar {BAR_CACHE:g})"
    print(f"times timm's loader with the same crop and mirror: {told}: {'met' if passed else 'MISSED'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
