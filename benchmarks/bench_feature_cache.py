"""A stage with a frozen backbone: epochs from kept features against epochs that ask the backbone every time.

    python benchmarks/bench_feature_cache.py [--backbone tf_efficientnet_lite0] [--pictures 512] [--size 224]

Both train the same small head on the last feature map, without augmentation, through `finetune.training.fit`:
what is timed is a whole epoch after the first, with training, validation and the checkpoint at its end. The
first epoch of the kept stage holds the one pass of the backbone. Weights are random. At the end the two heads
are compared, for both must have learned the same.

Bar: 20 times. A checkpoint takes its time whatever the number of images is, so few images show less.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from finetune.cli.console import quiet
from finetune.images.cache.source import open_source
from finetune.images.manifest import Manifest
from finetune.models.backbone import Features
from finetune.models.heads import registry as heads
from finetune.models.heads.base import FeatureDims, Head, HeadOutput
from finetune.runs.folder import RunFolder
from finetune.training.config import FitConfig, HeadConfig, ModelConfig, RunConfig, TrainConfig, to_dict
from finetune.training.data import TrainingData
from finetune.training.fit import fit
from finetune.training.learner import spec_of
from finetune.training.optimization.distributed import World

CLASSES = 10
BAR = 20.0


class MapHead(Head):
    """One linear layer on the maxima of the last map."""

    default_taps = ("last",)
    uses_embedding = False

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, num_classes)

    @classmethod
    def build(cls, backbone: FeatureDims, num_classes: int) -> MapHead:
        return cls(backbone.map_dims[backbone.taps[0]], num_classes)

    def forward(self, features: Features, target: torch.Tensor | None = None) -> HeadOutput:  # noqa: ARG002
        (values,) = features.maps.values()
        return HeadOutput(self.classifier(values.amax((2, 3))))


def draw_task(folder: Path, count: int, config: FitConfig) -> TrainingData:
    """Write smooth random images and return the task of telling their classes; an eighth validates."""
    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:05}.jpg"), cv2.resize(coarse, (256, 256)))
    columns = {"path": [f"{number:05}.jpg" for number in range(count)], "label": np.arange(count) % CLASSES}
    manifest = Manifest(folder, tuple(f"class {number}" for number in range(CLASSES)), columns)
    spec, rows = spec_of(config), np.arange(count)
    source = open_source(manifest, spec, cache_dir=folder.parent / "cache", workers=2)
    return TrainingData(manifest, source, spec, rows[: -count // 8], rows[-count // 8 :], "one split")


def seconds_per_epoch(task: TrainingData, config: FitConfig, folder: Path) -> tuple[list[float], nn.Module]:
    """Train and return the seconds of each epoch, and the model."""
    with RunFolder.open(folder, to_dict(config), resume="never") as run:
        fitted = fit(task, config, run, World())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return np.diff([0.0, *(row["seconds"] for row in rows)]).tolist(), fitted.model


def configured(options: argparse.Namespace, views: int) -> FitConfig:
    epochs = options.epochs
    return FitConfig(
        model=ModelConfig(backbone=options.backbone, weights="none", image_size=options.size),
        head=HeadConfig("map"),
        train=TrainConfig(epochs=epochs, frozen_epochs=epochs, frozen_views=views, augment="none"),
        run=RunConfig(workers=0),
        device=options.device,
    )


def main() -> int:
    """Print the table; return 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--size", type=int, default=224, help="side of the network's input in pixels")
    parser.add_argument("--epochs", type=int, default=3, help="of each side, at least 2")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    heads.HEADS["map"] = MapHead
    quiet()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        folder.mkdir()
        task = draw_task(folder, options.pictures, configured(options, 0))
        plain, one = seconds_per_epoch(task, configured(options, 0), Path(place) / "plain")
        kept, other = seconds_per_epoch(task, configured(options, -1), Path(place) / "kept")
    title = f"{options.backbone}, {options.pictures} images of {options.size} px"
    table = Table("frozen backbone", "first epoch, s", "epochs after it, s", title=title)
    for name, times in (("asked in every epoch", plain), ("features kept", kept)):
        table.add_row(name, f"{times[0]:.2f}", f"{np.mean(times[1:]):.3f}")
    Console().print(table)
    apart = max(
        float((a - b).detach().abs().max()) for a, b in zip(one.parameters(), other.parameters(), strict=True)
    )
    ratio = float(np.mean(plain[1:]) / np.mean(kept[1:]))
    print(f"greatest difference between the two models' weights: {apart:.1e}")
    print(f"ratio {ratio:.1f}, bar {BAR:.0f}: {'met' if ratio >= BAR else 'MISSED'}")
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
