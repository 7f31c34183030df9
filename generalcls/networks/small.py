"""The small networks: logistic regression, a perceptron, and the two Keras examples of the NLLR paper."""

from __future__ import annotations

from torch import Tensor, nn

from generalcls.networks.dropout import Dropout

MLP_WIDTH = 512  # chosen here: Table IV of the CRL paper does not report its perceptron's size


class Dense(nn.Linear):
    """A linear layer that multiplies weight by inputs: many side by side need no copy of their gradients.

    Of W x the gradient in W lies in memory as W does; of x W^T it is transposed and must be put into place.

    >>> import torch
    >>> layer, x = Dense(3, 2), torch.ones(4, 3)
    >>> torch.allclose(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    True
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__(dim_in, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, D_out) for (B, D_in)."""
        product = (self.weight @ x.mT).mT.contiguous()
        return product + self.bias.to(product.dtype)


def build_logistic(channels: int, image_size: int) -> tuple[nn.Module, int]:
    """Return the pixels in a row and their number: with a classifier on them, logistic regression.

    Args:
        channels: of the images.
        image_size: side in pixels.

    >>> build_logistic(1, 28)[1]
    784
    """
    return nn.Flatten(), channels * image_size * image_size


def build_mlp(channels: int, image_size: int) -> tuple[nn.Module, int]:
    """Return one hidden layer of 512 ReLU units on the pixels, and 512.

    The CRL paper's Table IV names "multilayer perceptron" without its sizes; 512 units, one layer and no
    dropout are this toolkit's choice.

    Args:
        channels: of the images.
        image_size: side in pixels.
    """
    pixels = channels * image_size * image_size
    return nn.Sequential(nn.Flatten(), Dense(pixels, MLP_WIDTH), nn.ReLU()), MLP_WIDTH


def build_mnist_cnn(channels: int, image_size: int) -> tuple[nn.Module, int]:
    """Return the Keras MNIST example without its classifier, and its width of 128.

    conv 32 3x3, conv 64 3x3 (both without padding), max-pool 2, dropout .25, dense 128, dropout .5; ReLU
    throughout. With ten classes and 28 px of one channel: 1,199,882 parameters.

    Source: keras-team/keras, examples/mnist_cnn.py (2018), which the NLLR paper trained.

    Args:
        channels: of the images.
        image_size: side in pixels, at least 8.
    """
    side = (image_size - 4) // 2
    trunk = nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Dropout(0.25),
        nn.Flatten(),
        Dense(64 * side * side, 128),
        nn.ReLU(),
        Dropout(0.5),
    )
    return trunk, 128


def build_cifar_cnn(channels: int, image_size: int) -> tuple[nn.Module, int]:
    """Return the Keras CIFAR-10 example without its classifier, and its width of 512.

    conv 32 3x3 padded, conv 32 3x3, max-pool 2, dropout .25; the same with 64; dense 512, dropout .5; ReLU
    throughout. With ten classes and 32 px of three channels: 1,250,858 parameters.

    Source: keras-team/keras, examples/cifar10_cnn.py (2018), which the NLLR paper and the CRL paper's Table
    II trained.

    Args:
        channels: of the images.
        image_size: side in pixels, at least 16.
    """
    side = ((image_size - 2) // 2 - 2) // 2
    trunk = nn.Sequential(
        *_two_convolutions(channels, 32),
        *_two_convolutions(32, 64),
        nn.Flatten(),
        Dense(64 * side * side, 512),
        nn.ReLU(),
        Dropout(0.5),
    )
    return trunk, 512


def _two_convolutions(channels: int, width: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        Dropout(0.25),
    ]


__all__ = ["MLP_WIDTH", "build_cifar_cnn", "build_logistic", "build_mlp", "build_mnist_cnn"]
