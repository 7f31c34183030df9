"""Every head with options small enough for tests, and runs of a fraction of a second on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.models.classifier import Classifier, build_classifier
from finetune.training.config import FitConfig, HeadConfig
from finetune.training.objective import Objective
from tests.finetune.quick import quick

# Name of the case -> the head and its options: small sketches, few detectors, a grid that fits 64 px.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {"dropout": 0.1}),
    "L-Softmax": ("lsoftmax", {"margin": 3}),
    "A-Softmax": ("asoftmax", {}),
    "CosFace": ("cosface", {"scale": 16.0}),
    "ArcFace": ("arcface", {"scale": 16.0}),
    "bilinear": ("bilinear", {}),
    "bilinear reduced": ("bilinear", {"reduction": 8}),
    "compact bilinear": ("compact_bilinear", {"dim": 256}),
    "kernel pooling": ("kernel_pooling", {"dim": 64, "order": 4, "gamma": 0.5}),
    "iSQRT-COV": ("isqrt_cov", {"dim": 8}),
    "DFL": ("dfl", {"detectors": 3, "init": "random", "filter_norm": "none"}),
    "DFL, two scales": ("dfl", {"detectors": 3, "init": "random", "two_scale": True, "filter_norm": "bn"}),
    "DCL": ("dcl", {"regions": 4}),
    "DCL of the first release": ("dcl", {"variant": "repo_v0", "regions": 4}),
    "DCL of the last release": ("dcl", {"variant": "repo", "regions": 4}),
}

# Heads that begin from the training images, for the tests of whole runs, which prepare them.
PREPARED: dict[str, tuple[str, dict[str, Any]]] = {
    "kernel pooling, gamma measured": ("kernel_pooling", {"dim": 64, "gamma": "auto"}),
    "DFL from images": ("dfl", {"detectors": 3, "init": "kmeans", "filter_norm": "none"}),
}
# Heads that differ from L-Softmax in their rule alone: what a whole run shows of it holds for them.
SIBLINGS = ("A-Softmax", "CosFace", "ArcFace")
EVERY = CASES | PREPARED
RUNS = {case: head for case, head in EVERY.items() if case not in SIBLINGS}

# A residual net, a net whose pool5 must not be read, one whose maps are channels last, and tokens.
BACKBONES = ("test_resnet", "vgg11", "swin_tiny_patch4_window7_224", "test_vit")
ON_LARGE = ("bilinear", "DCL")  # what every run shows of large backbones: a tap's values, and its places
CLASSES = 5


def on_backbones(*left_out: str) -> list[Any]:
    """Return every case on every backbone; most take the large ones only when there is time."""
    return [
        pytest.param(case, net, marks=[pytest.mark.exhaustive] if large and case not in ON_LARGE else [])
        for case in CASES
        for net in BACKBONES
        if net not in left_out
        for large in [net.startswith(("vgg", "swin"))]
    ]


def build(case: str, backbone: str = "test_resnet", size: int = 64, seed: int = 0) -> Classifier:
    """Return an untrained classifier with the case's head."""
    head, options = EVERY[case]
    torch.manual_seed(seed)
    core = build_classifier(backbone, head, CLASSES, weights="none", image_size=size, head_options=options)
    for module in core.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # fresh residual branches end in zero and hide mistakes
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return core


def shown(core: Classifier, images: Tensor, target: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return a training batch as the head's own transform makes it, each image as often as it wants."""
    hooks = core.head.hooks()
    images = images.repeat_interleave(hooks.views, dim=0)
    if hooks.batch_transform is None:
        return images, target
    return hooks.batch_transform(images, target, np.random.default_rng(seed))


def loss_of(core: Classifier, images: Tensor, target: Tensor) -> Tensor:
    """Return what a training step would minimise on this batch."""
    images, target = shown(core, images, target)
    return Objective(torch.nn.CrossEntropyLoss())(core(images, target), target).total


def config(case: str, backbone: str = "test_resnet", **changes: Any) -> FitConfig:
    """Return the quick training run's configuration with this case's head."""
    head, options = RUNS[case]
    changed = quick(model_backbone=backbone, model_image_size=64, **changes)
    return replace(changed, head=HeadConfig(head, options=options))


def picture_folder(root: Path) -> Path:
    """Return where the drawn images lie under a temporary folder."""
    return root / "pictures"
