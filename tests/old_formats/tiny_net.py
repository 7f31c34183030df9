"""A ResNet of under 4,000 parameters, known to timm by name: the backbone of the runs in this folder.

Importing this module registers it. The smallest model of timm's own has 25 times as many.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet

NAME = "crl_test_tiny_resnet"

default_cfgs = generate_default_cfgs(
    {
        f"{NAME}.none": {
            "url": "",
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "pool_size": (1, 1),
            "crop_pct": 0.9,
            "interpolation": "bilinear",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "conv1.0",
            "classifier": "fc",
        }
    }
)


@register_model
def crl_test_tiny_resnet(pretrained: bool = False, **options: Any) -> ResNet:
    """Return the network: four stages of one block, 4 to 8 channels."""
    shape = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (4, 4, 8, 8)}
    stem = {"stem_type": "deep", "stem_width": 4}
    model: ResNet = build_model_with_cfg(ResNet, NAME, pretrained, **shape, **stem, **options)
    return model
