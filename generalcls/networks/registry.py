"""The networks of the general studies by name, each a trunk that gives one vector and a linear classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor, nn

from finetune.errors import UsageError
from generalcls.networks.init import draw_glorot, draw_he, keep_drawn
from generalcls.networks.resnet import build_mobilenetv2, build_resnet, build_resnet164, build_timm
from generalcls.networks.small import build_cifar_cnn, build_logistic, build_mlp, build_mnist_cnn
from generalcls.networks.vgg_densenet import build_densenet40, build_vgg

ANY_SIZE = (1, 4096)
TIMM = "timm/"

_Build = Callable[[int, int], tuple[nn.Module, int]]


class Network(nn.Module):
    """A trunk that turns images into one vector each, and a linear classifier on it.

    Args:
        trunk: images (B, C, H, W) -> embedding (B, D).
        dim: D.
        num_classes: K.
    """

    def __init__(self, trunk: nn.Module, dim: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.classifier = nn.Linear(dim, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the embedding (B, D) of scaled images (B, C, H, W): what classifiers and heads read."""
        embedding: Tensor = self.trunk(images)
        return embedding

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of scaled images (B, C, H, W)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


@dataclass(frozen=True)
class NetworkFacts:
    """What is known of a network before it is built.

    `build` makes the trunk from (channels, image_size) and gives its width D; `draw` gives the whole network
    its first weights; `scaling` is how its images arrive: "unit" divides bytes by 255, "standard" then takes
    each channel's mean and standard deviation over the training images off; `sizes` are the smallest and
    largest image side in pixels.
    """

    build: _Build
    about: str
    scaling: Literal["unit", "standard"]
    sizes: tuple[int, int]
    draw: Callable[[nn.Module], None]


def _small(build: _Build, about: str, sizes: tuple[int, int]) -> NetworkFacts:
    return NetworkFacts(build, about, "unit", sizes, draw_glorot)


def _deep(build: _Build, about: str, sizes: tuple[int, int] = (16, 64)) -> NetworkFacts:
    return NetworkFacts(build, about, "standard", sizes, draw_he)


NETWORKS: Mapping[str, NetworkFacts] = {
    "logistic": _small(build_logistic, "logistic regression on the pixels", ANY_SIZE),
    "mlp": _small(build_mlp, "one hidden layer of 512 ReLU units", ANY_SIZE),
    "mnist_cnn": _small(build_mnist_cnn, "the Keras MNIST example: two convolutions", (8, 64)),
    "cifar_cnn": _small(build_cifar_cnn, "the Keras CIFAR-10 example: four convolutions", (16, 64)),
    "resnet34": _deep(partial(build_resnet, "resnet34"), "ResNet-34 with a 3x3 stem"),
    "resnet50": _deep(partial(build_resnet, "resnet50"), "ResNet-50 with a 3x3 stem"),
    "resnet101": _deep(partial(build_resnet, "resnet101"), "ResNet-101 with a 3x3 stem"),
    "resnet164": _deep(build_resnet164, "pre-activation ResNet-164, widths 16, 32, 64 times four"),
    "vgg16_bn": _deep(partial(build_vgg, "vgg16_bn"), "VGG-16 with batch norm, 512 -> K", (32, 64)),
    "vgg19_bn": _deep(partial(build_vgg, "vgg19_bn"), "VGG-19 with batch norm, 512 -> K", (32, 64)),
    "densenet40": _deep(build_densenet40, "DenseNet-40, growth 12, no bottleneck, no compression"),
    "mobilenetv2": _deep(build_mobilenetv2, "MobileNetV2 with the strides of 32 px"),
}


def build_network(name: str, *, channels: int, image_size: int, num_classes: int) -> Network:
    """Return the network `name` with first weights drawn from torch's global generator.

    Args:
        name: one of `NETWORKS`, or timm/NAME.
        channels: of the images, 1 or 3.
        image_size: side of the images in pixels.
        num_classes: K, at least 2.

    Raises UsageError for an unknown name, an image size the network cannot read, or fewer than two classes.

    >>> network = build_network("logistic", channels=1, image_size=28, num_classes=10)
    >>> count_parameters(network)
    7850
    """
    if num_classes < 2:
        raise UsageError(f"a network needs at least 2 classes, got {num_classes}")
    facts = network_facts(name)
    smallest, largest = facts.sizes
    if not smallest <= image_size <= largest:
        raise UsageError(
            f"the network {name} reads images of {smallest} to {largest} px, got {image_size} px; give "
            "data.image_size where the data allow it, or choose another network (timm/NAME for large images)"
        )
    trunk, dim = facts.build(channels, image_size)
    network = Network(trunk, dim, num_classes)
    facts.draw(network)
    return network


def network_facts(name: str) -> NetworkFacts:
    """Return what is known of the network `name`; UsageError, with the list of names, for an unknown one.

    >>> network_facts("mnist_cnn").scaling
    'unit'
    """
    if name.startswith(TIMM):
        model = name.removeprefix(TIMM)
        return NetworkFacts(partial(build_timm, model), f"timm's {model}", "standard", ANY_SIZE, keep_drawn)
    if name not in NETWORKS:
        raise UsageError(f"no network is called {name!r}; there are {', '.join(NETWORKS)} and timm/NAME")
    return NETWORKS[name]


def count_parameters(network: nn.Module) -> int:
    """Return the number of trainable values of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def suitable_network(data_name: str, image_size: int | None = None) -> str:
    """Return the network that `network.name auto` stands for.

    digits: mlp. mnist: mnist_cnn. cifar10, cifar100 and svhn: cifar_cnn. imagenet: timm/resnet34, the papers'
    network. folders: cifar_cnn where it reads that size (16 to 64 px; 64 is their default), else
    timm/resnet18.

    Args:
        data_name: the name of the data set.
        image_size: side in pixels, read for folders only.

    >>> suitable_network("folders", 64), suitable_network("folders", 128)
    ('cifar_cnn', 'timm/resnet18')
    """
    by_data = {"digits": "mlp", "mnist": "mnist_cnn", "imagenet": "timm/resnet34"}
    smallest, largest = NETWORKS["cifar_cnn"].sizes
    if data_name == "folders" and image_size is not None and not smallest <= image_size <= largest:
        return "timm/resnet18"
    return by_data.get(data_name, "cifar_cnn")


__all__ = [
    "NETWORKS",
    "Network",
    "NetworkFacts",
    "build_network",
    "count_parameters",
    "network_facts",
    "suitable_network",
]
