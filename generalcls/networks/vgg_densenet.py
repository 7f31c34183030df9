"""VGG and DenseNet in their forms for small images, written out: timm has neither form."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VGG_STAGES = {
    "vgg16_bn": ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    "vgg19_bn": ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)),
}
GROWTH = 12  # DenseNet's k
DENSE_LAYERS = 12  # of each of three blocks: 3 * 12 + 4 = 40 layers
DENSE_STEM = 16


def build_vgg(name: str, channels: int, image_size: int) -> tuple[nn.Module, int]:  # noqa: ARG001
    """Return VGG's convolutions with batch norm and ReLU, max-pool after each stage, the mean, and 512.

    The three wide layers of the ImageNet form are left out: the classifier reads 512 values. At 32 px the
    last map is a single pixel. Convolutions have biases, as in torchvision's vgg16_bn.

    Source: Simonyan and Zisserman, Very deep convolutional networks (2015), Table 1, columns D and E.

    Args:
        name: vgg16_bn or vgg19_bn.
        channels: of the images.
        image_size: side in pixels, at least 32; every size has the same weights, larger maps are averaged.
    """
    layers: list[nn.Module] = []
    width = channels
    for stage, depth in VGG_STAGES[name]:
        for _ in range(depth):
            layers += [nn.Conv2d(width, stage, 3, padding=1), nn.BatchNorm2d(stage), nn.ReLU()]
            width = stage
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), width


def build_densenet40(channels: int, image_size: int) -> tuple[nn.Module, int]:  # noqa: ARG001
    """Return DenseNet-40 with growth 12, no bottlenecks and no compression, and its width of 448.

    A 3x3 stem of 16 channels; three blocks of twelve layers (norm, ReLU, 3x3); 1x1 convolutions and average
    pooling between them. No dropout: the authors use it only where the images are not augmented.

    Source: Huang, Liu, van der Maaten, Weinberger, Densely connected convolutional networks (2017), section 3
    and the row "DenseNet (k = 12), depth 40" of Table 2.

    Args:
        channels: of the images.
        image_size: side in pixels.
    """
    layers: list[nn.Module] = [nn.Conv2d(channels, DENSE_STEM, 3, padding=1, bias=False)]
    width = DENSE_STEM
    for block in range(3):
        if block:
            layers += [*_convolve(width, width, 1), nn.AvgPool2d(2)]
        for _ in range(DENSE_LAYERS):
            layers.append(DenseLayer(width, GROWTH))
            width += GROWTH
    return nn.Sequential(
        *layers, nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ), width


class DenseLayer(nn.Module):
    """Norm, ReLU and a 3x3 convolution whose maps join its input's: (B, W, h, w) -> (B, W + k, h, w).

    Args:
        width: W, maps that come in.
        growth: k, maps that join them.
    """

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.grow = nn.Sequential(*_convolve(width, growth, 3))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps and the new ones behind them."""
        return torch.cat([maps, self.grow(maps)], dim=-3)


def _convolve(width: int, made: int, kernel: int) -> list[nn.Module]:
    convolution = nn.Conv2d(width, made, kernel, padding=kernel // 2, bias=False)
    return [nn.BatchNorm2d(width), nn.ReLU(), convolution]


__all__ = ["GROWTH", "VGG_STAGES", "DenseLayer", "build_densenet40", "build_vgg"]
