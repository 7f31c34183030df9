"""A training run of seconds, sixty drawn images and a tiny backbone, for tests that break runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from finetune.cli.console import quiet
from finetune.errors import InterruptedRunError
from finetune.images.cache.source import open_source
from finetune.images.manifest import Manifest
from finetune.models.backbone import build_backbone
from finetune.runs.config_file import FREE_KEYS
from finetune.runs.folder import RunFolder
from finetune.training.checkpoint import weights_hash
from finetune.training.config import FitConfig, ModelConfig, RunConfig, TrainConfig, to_dict
from finetune.training.data import TrainingData
from finetune.training.fit import Fitted, fit
from finetune.training.optimization.distributed import World

CONFIG = FitConfig(
    model=ModelConfig(backbone="test_resnet", weights="none", image_size=32, drop_rate=0.1),
    train=TrainConfig(
        epochs=100,
        batch_size=8,
        lr=0.05,
        augment="standard",
        ema=0.9,
        mixup=0.2,
        warmup_epochs=1,
        frozen_epochs=1,
    ),
    run=RunConfig(checkpoint_minutes=0.0005, workers=2),
    device="cpu",
)


def configured(**train: Any) -> FitConfig:
    """Return the tiny run's configuration with other training values."""
    return replace(CONFIG, train=replace(CONFIG.train, **train))


def draw_pictures(root: Path, count: int = 60, classes: int = 3) -> Manifest:
    """Write `count` noisy images whose brightest channel is their class."""
    root.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    label = np.arange(count) % classes
    for row in range(count):
        picture = generator.integers(0, 120, (40, 40, 3), dtype=np.uint8)
        picture[..., label[row]] += 60
        cv2.imwrite(str(root / f"{row}.png"), picture)
    return Manifest(
        root, tuple("rgb"[:classes]), {"path": [f"{row}.png" for row in range(count)], "label": label}
    )


def build_task(root: Path, config: FitConfig = CONFIG, *, val: int = 15) -> TrainingData:
    """Return a task over the images in `root`, the last `val` of them for validation."""
    manifest = draw_pictures(root) if not (root / "0.png").exists() else read_pictures(root)
    shape = build_backbone(config.model.backbone, "none", image_size=config.model.image_size)
    spec = shape.preprocess_spec(config.model.image_size)
    source = open_source(manifest, spec, cache_dir=root.parent / "cache", workers=1)
    rows = np.arange(len(manifest))
    return TrainingData(manifest, source, spec, rows[: len(rows) - val], rows[len(rows) - val :], "one split")


def read_pictures(root: Path) -> Manifest:
    """Return the manifest of images that `draw_pictures` wrote."""
    count = len(list(root.glob("*.png")))
    columns = {"path": [f"{row}.png" for row in range(count)], "label": np.arange(count) % 3}
    return Manifest(root, tuple("rgb"), columns)


def run(root: Path, folder: Path, config: FitConfig = CONFIG, *, world: World | None = None) -> Fitted:
    """Train, or go on training, in `folder`."""
    world = world or World()
    content = to_dict(config)
    with RunFolder.open(folder, content, resume="auto", free_keys=FREE_KEYS, writer=world.is_main) as opened:
        return fit(build_task(root, config), config, opened, world)


def run_to_hash(root: Path, folder: Path, epochs: int, workers: int = 2) -> None:
    """Train in a process of its own and leave the final weights' hash in `folder`/hash.

    A run that was asked to stop ends with its exit code.
    """
    import multiprocessing

    import torch

    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    quiet()
    config = configured(epochs=epochs)
    try:
        fitted = run(root, folder, replace(config, run=replace(config.run, workers=workers)))
    except InterruptedRunError as stopped:
        raise SystemExit(stopped.exit_code) from stopped
    (folder / "hash").write_text(weights_hash(fitted.model.state_dict()))
