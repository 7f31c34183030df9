"""Networks with weights and statistics that training might leave: fresh ones hide every export error."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from apps.doctor.gpu.work.drawn import randomise_norm
from finetune.images.preprocess import PreprocessSpec
from finetune.models.classifier import Classifier, build_classifier
from finetune.models.heads.linear import LinearHead


def random_net(
    backbone: str, image_size: int, classes: int = 5, seed: int = 0, head: str = "linear", **options: Any
) -> Classifier:
    """Return a classifier whose statistics, scales, tokens and head are random but tame."""
    torch.manual_seed(seed)
    core = build_classifier(
        backbone, head, classes, weights="none", image_size=image_size, head_options=options
    )
    for module in core.modules():
        randomise_norm(module)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    for name, tensor in core.backbone.model.named_parameters():
        if name in ("cls_token", "reg_token", "pos_embed"):
            nn.init.normal_(tensor, std=0.5)
    last = [core.head.classifier] if isinstance(core.head, LinearHead) else core.head.modules()
    for module in last:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias)
    return core.eval()


def spec_of(size: int) -> PreprocessSpec:
    """Return a preprocessing whose three channels differ."""
    return PreprocessSpec(size, "warp", size, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def random_pictures(count: int, size: int, seed: int = 1) -> np.ndarray:
    """Return uint8 (count, size, size, 3): smooth blobs of colour, no two alike."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(0, 255, (count, 4, 4, 3)).repeat(-(-size // 4), 1).repeat(-(-size // 4), 2)
    noisy = coarse[:, :size, :size] + generator.normal(0, 20, (count, size, size, 3))
    return noisy.clip(0, 255).astype(np.uint8)
