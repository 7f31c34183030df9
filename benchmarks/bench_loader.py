"""Our loader against timm's own, on one core: images per second from JPEG files to training batches.

Both sides crop at random, resize to 224 px by bicubic interpolation and mirror. timm's loader then delivers
float32 batches normalised on the CPU, as its training script consumes them; ours delivers uint8, which
the device normalises (bench_training.py counts that). The bars are of this pair: 1.6 times from files, 12
times from the cache. Beside it: timm's loader stopped before its normalisation (uint8 against uint8, the
strictest reading), timm's standard transform as it comes (colour jitter), and our face policy (colour and
affine jitter). Time is the process's CPU time and the rounds alternate, so that a busy machine disturbs
little; a ratio is that of the medians.

A second table (Linux) tells what it costs to bring cached pictures through one loading process, crops of the
network's size: CPU time of the process that trains and of the one that loads, with slots of shared memory
that are made once, and with fresh shared memory for every batch, as before.

Run: python benchmarks/bench_loader.py [--images FOLDER] [--rounds 7] [--only loaders|processes]
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
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

from finetune.cli.allocator import keep_freed_memory
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
SIDES = {224: 256, 448: 512}  # crops, and the prepared images that they are taken from, px
EPOCHS, LARGE_BATCH = 6, 128  # of a round through a process


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


class ThroughProcess:
    """Batches of cached pictures through one loading process, and what both sides' processors spend."""

    def __init__(self, source: ImageSource, manifest: Manifest, spec: PreprocessSpec, *, slots: bool) -> None:
        rows, augment = np.arange(len(manifest)), build_augment("crop", spec)
        self.batches = TrainBatches(
            source, manifest.label, rows, augment=augment, batch_size=LARGE_BATCH, seed=0, workers=1
        )
        if not slots:
            self.batches._loader.open_ring = lambda *_, **__: None  # type: ignore[method-assign]
        before = set(multiprocessing.active_children())
        self.epochs(1)  # starts the process, fills its caches
        (self.process,) = set(multiprocessing.active_children()) - before

    def epochs(self, count: int) -> int:
        """Go through so many epochs; return the number of pictures."""
        return sum(len(batch.index) for epoch in range(count) for batch in self.batches.epoch(epoch))

    def milliseconds(self) -> tuple[float, float]:
        """Return the CPU milliseconds per picture of this process and of the one that loads."""
        here, there = time.process_time(), self._spent()
        count = self.epochs(EPOCHS)
        here, there = time.process_time() - here, self._spent() - there
        return 1000 * here / count, 1000 * there / count

    def _spent(self) -> float:
        """Return the seconds that the loading process ran, all its threads."""
        threads = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def measure_processes(folder: Path, rounds: int) -> dict[tuple[int, bool], list[tuple[float, float]]]:
    """Return for each crop's side, with and without slots, the rounds' (main, worker) milliseconds."""
    keep_freed_memory()  # as every run does
    manifest = read_manifest(folder)
    found: dict[tuple[int, bool], list[tuple[float, float]]] = {}
    for side, prepared in SIDES.items():
        spec = dataclasses.replace(SPEC, image_size=side, resize_size=prepared)
        with tempfile.TemporaryDirectory() as cache:
            source = open_source(manifest, spec, cache_dir=Path(cache), workers=1)
            ways = {slots: ThroughProcess(source, manifest, spec, slots=slots) for slots in (False, True)}
            for _ in range(rounds):
                for slots, way in ways.items():
                    found.setdefault((side, slots), []).append(way.milliseconds())
    return found


def print_processes(found: dict[tuple[int, bool], list[tuple[float, float]]]) -> None:
    """Print the medians and the ratios of the second table."""
    table = Table("crop", "through one process", "main, CPU ms", "process, CPU ms", "x main", "x process")
    table.title = f"cached pictures, policy crop, batches of {LARGE_BATCH}"
    for side in SIDES:
        fresh, slots = (np.median(found[side, way], axis=0) for way in (False, True))
        for name, value in (("fresh memory for every batch", fresh), ("slots made once", slots)):
            ratios = (f"{ratio:.1f}" for ratio in fresh / value)
            table.add_row(f"{side} px", name, *(f"{number:.4f}" for number in value), *ratios)
    Console(width=100).print(table)


def main() -> int:
    """Print the tables; return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=FGNET, help="a folder of images")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=("loaders", "processes"), help="one of the two tables")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as generated:
        folder = options.images
        if not folder.is_dir():
            folder = Path(generated)
            write_photographs(folder)
        passed = options.only == "processes" or print_loaders(measure(folder, options.rounds), folder.name)
        if options.only != "loaders":
            print_processes(measure_processes(folder, options.rounds))
    return 0 if passed else 1


def print_loaders(medians: dict[str, float], name: str) -> bool:
    """Print the first table; return whether both bars are met."""
    timm_names = [name for name in medians if name.startswith("timm")]
    table = Table("loader", "CPU ms", "pictures/s", *(f"x {name}" for name in timm_names))
    table.title = f"one core, {name}"
    for loader, value in medians.items():
        ratios = [f"{medians[other] / value:.1f}" for other in timm_names]
        table.add_row(loader, f"{value:.3f}", f"{1000 / value:.0f}", *ratios)
    Console().print(table)
    same = medians[timm_names[0]]
    against = {name: same / medians[f"ours, {name}"] for name in ("files", "cache")}
    passed = against["files"] >= BAR_FILES and against["cache"] >= BAR_CACHE
    told = f"files {against['files']:.1f} (bar {BAR_FILES}), cache {against['cache']:.1f} (bar {BAR_CACHE:g})"
    print(f"times timm's loader with the same crop and mirror: {told}: {'met' if passed else 'MISSED'}")
    return passed


if __name__ == "__main__":
    sys.exit(main())
