"""The papers' deep networks for small images, residual ones and MobileNetV2, and any timm model.

All are timm's, with the stem or the first strides changed for 32 px. Every network can train side by side
with its like as one batched model (torch.func.vmap): nothing works in place, and dropout takes its masks from
outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from finetune.errors import UsageError
from generalcls.networks.dropout import Dropout

PREACTIVATION_BLOCKS = 18  # of each of three stages: 9 * 18 + 2 = 164 layers


def build_resnet(name: str, channels: int, image_size: int) -> tuple[nn.Module, int]:
    """Return a residual network of widths 64 to 512 with a 3x3 stem and no pooling behind it, and its width.

    timm's ResNet otherwise: the bottleneck's stride is on its 3x3 convolution, as in most released code.

    Source: He, Zhang, Ren, Sun, Deep residual learning for image recognition (2016), Table 1, whose stem the
    CRL paper's CIFAR networks replace.

    Args:
        name: timm's name: resnet34, resnet50, resnet101.
        channels: of the images.
        image_size: side in pixels.
    """
    trunk, dim = _build(name, channels, image_size, {"zero_init_last": False})
    trunk.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    trunk.maxpool = nn.Identity()
    return trunk, dim


def build_resnet164(channels: int, image_size: int) -> tuple[nn.Module, int]:
    """Return ResNet-164, three stages of 18 pre-activation bottlenecks of 16, 32 and 64 times four, and 256.

    timm's ResNetV2 with a 3x3 stem of 16 channels; its strides are on the 3x3 convolutions, where the
    authors' own code has them on the 1x1 before (equal parameters).

    Source: He, Zhang, Ren, Sun, Identity mappings in deep residual networks (2016), Table 3.

    Args:
        channels: of the images.
        image_size: side in pixels.
    """
    stages = {"layers": (PREACTIVATION_BLOCKS,) * 3, "channels": (64, 128, 256), "stem_chs": 16}
    trunk, dim = _build("resnetv2_50", channels, image_size, stages)
    trunk.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
    return trunk, dim


def build_mobilenetv2(channels: int, image_size: int) -> tuple[nn.Module, int]:
    """Return MobileNetV2 at width 1 for 32 px, and 1280: stem and second stage keep the resolution.

    timm's; the last maps are 4 px wide at 32 px. These strides are this toolkit's choice, the usual ones.

    Source: Sandler, Howard, Zhu, Zhmoginov, Chen, MobileNetV2 (2018), Table 2.

    Args:
        channels: of the images.
        image_size: side in pixels.
    """
    trunk, dim = _build("mobilenetv2_100", channels, image_size)
    trunk.conv_stem.stride = (1, 1)
    trunk.blocks[1][0].conv_dw.stride = (1, 1)
    return trunk, dim


def build_timm(name: str, channels: int, image_size: int) -> tuple[nn.Module, int]:
    """Return any timm classification model without its classifier, its weights drawn by timm's own rule.

    One blank image goes through it at once, so that a size the model cannot read is refused here.

    Args:
        name: timm's name of the model.
        channels: of the images.
        image_size: side in pixels.

    Raises UsageError for an unknown name (with near ones) or an image size the model cannot read.
    """
    trunk, dim = _build(name, channels, image_size)
    trunk.eval()
    try:
        with torch.no_grad():
            made = tuple(trunk(torch.zeros(1, channels, image_size, image_size)).shape)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(f"timm/{name} cannot read images of {image_size} px: {error}") from None
    if made != (1, dim):
        raise UsageError(
            f"timm/{name} gives no single vector per image (got {made}, not {(1, dim)}): choose another"
        )
    trunk.train()
    return trunk, dim


def _build(
    name: str, channels: int, image_size: int, options: Mapping[str, Any] | None = None
) -> tuple[Any, int]:
    """Return timm's model with no layer in place and dropout whose masks come from outside."""
    from finetune.models.backbone import build_trunk

    trunk, dim = build_trunk(name, channels, image_size, options)
    for layer in list(trunk.modules()):
        if getattr(layer, "inplace", False):
            layer.inplace = False
        for place, child in list(layer.named_children()):
            if isinstance(child, nn.Dropout):
                setattr(layer, place, Dropout(child.p))
    return trunk, dim


__all__ = [
    "PREACTIVATION_BLOCKS",
    "build_mobilenetv2",
    "build_resnet",
    "build_resnet164",
    "build_timm",
]
