"""Kernel pooling: moments of order 0 to P of a feature map, weighted as in a Gaussian kernel's series.

What goes wrong in released code, and what stands against it here:

- A loop over images, random constants that are no buffers, and published weights that give chance accuracy
  elsewhere: as for `finegrained.heads.compact_bilinear`.
- A fixed g of 1e-4 on activations of length one leaves the high orders dead: g is measured here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from finegrained.heads.bilinear import unit_classifier
from finegrained.heads.pooling import (
    EVERYDAY_SCALE,
    RELATIVE_EPS,
    check_positive,
    check_weights,
    full_precision,
    improved,
    wide,
)
from finegrained.heads.tensor_sketch import TensorSketch, single_map
from finetune.errors import UsageError
from finetune.models.heads.base import Head, HeadOutput, Hooks, HostModel

if TYPE_CHECKING:
    from finetune.models.backbone import Features, Tap
    from finetune.models.heads.base import FeatureDims, Pictures

UNMEASURED = 1e-4  # what "auto" starts from until the training images were seen


class KernelPoolingHead(Head):
    """A linear layer on the normalised moments of one feature map, from order 0 to P.

    phi(x) = [a_0; a_1 x; a_2 TS_2(x); ...; a_P TS_P(x)], z = l2(signed_sqrt(mean over locations of phi)),
    logits = s W z + b

    With unit vectors exp(-g ||x - y||^2) = sum_p e^{-2g} (2g)^p / p! (x . y)^p, so that a_p starts at
    sqrt((2g)^p / p!). The factor e^{-g} that all a_p share is left out: z is the same without it, and a large
    g would turn it into zero. z is 1 + C + (P - 1) D numbers long: 12,801 for VGG-16 (C = 512) and 14,337 for
    ResNet-50 (C = 2048) at P = 4 and D = 4096.

    a_p is learned as w_p sqrt((2g)^p / p!) with w_p starting at one. The root of 2g is put on x before it is
    sketched, and the entries stay in range: as plain weights a_1 and a_4 may differ by eight powers of ten,
    and no learning rate suits both.

    g = "auto" is one over the mean inner product of two locations of an image, measured on the training
    images before the first step, which gives every order its share whatever the scale of the activations. A
    number is taken as it is; 1e-4, for one, only makes sense where activations are large: for unit vectors
    a_4 is then 8e-9 and the high orders are dead. x is never normalised.

    In training at orders above 2 an image keeps several spectra of D / 2 + 1 complex numbers for each of its
    locations: at P = 4 and D = 4096, 135 MB for a map of 512 x 28 x 28 and 39 MB for 2048 x 14 x 14.

    Args:
        tap: the map that is read.
        channels: C, its channels.
        num_classes: K.
        order: P, in [2, 16].
        dim: D, the length of each sketch, >= 2.
        gamma: g, "auto" or a number above zero.
        seed: of the sketches' random constants, in [0, 2^63) (see `TensorSketch`).
        eps: of the signed square root, > 0, relative to the mean magnitude.
        scale: s > 0, the length that z is given; the weights feel s^2 times the learning rate. 10 as the
            head's option, so that ordinary learning rates do.

    Raises UsageError for options outside these ranges, and for a classifier of more than 200 million
    parameters.

    Source: Cui, Zhou, Wang, Liu, Lin and Belongie, "Kernel Pooling for Convolutional Neural Networks", CVPR
    2017. Nested sketches and the measured g follow a public port; the parametrisation of a_p is ours.
    """

    default_taps: ClassVar[tuple[Tap, ...]] = ("last",)
    uses_embedding: ClassVar[bool] = False
    gamma: Tensor

    def __init__(
        self,
        tap: Tap,
        channels: int,
        num_classes: int,
        *,
        order: int = 4,
        dim: int = 4096,
        gamma: float | str = "auto",
        seed: int = 0,
        eps: float = RELATIVE_EPS,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive(eps=eps, scale=scale)
        length = 1 + channels + (order - 1) * dim
        what = f"a kernel_pooling head of order {order} and dim {dim} with {num_classes} classes"
        check_weights(what, length * num_classes, "choose a smaller --head.options.dim, such as 4096")
        number = _number(gamma)
        self.tap = tap
        self.eps, self.scale = eps, scale
        self.measures_gamma = number is None
        self.register_buffer("gamma", torch.tensor(number or UNMEASURED))
        self.sketch = TensorSketch(channels, dim, order, seed=seed)
        self.weights = nn.Parameter(torch.ones(order + 1))
        self.classifier = unit_classifier(length, num_classes)

    @classmethod
    def build(
        cls,
        backbone: FeatureDims,
        num_classes: int,
        *,
        order: int = 4,
        dim: int = 4096,
        gamma: float | str = "auto",
        seed: int = 0,
        eps: float = RELATIVE_EPS,
        scale: float = EVERYDAY_SCALE,
    ) -> Self:
        """Return the head that fits this backbone."""
        tap, channels = single_map(backbone, "kernel_pooling")
        return cls(
            tap, channels, num_classes, order=order, dim=dim, gamma=gamma, seed=seed, eps=eps, scale=scale
        )

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:  # noqa: ARG002
        """Return the logits; the target is not looked at."""
        return HeadOutput(self.classifier(self.scale * self.descriptor(features)))

    def descriptor(self, features: Features) -> Tensor:
        """Return z (B, 1 + C + (P - 1) D), of length one, in float32."""
        return improved(self.moments(features), self.eps)

    def moments(self, features: Features) -> Tensor:
        """Return the mean of phi over the locations (B, 1 + C + (P - 1) D), in float32."""
        x = features.maps[self.tap]
        with full_precision(x):
            scaled = wide(x) * (2 * self.gamma).sqrt()
            parts = [scaled.new_ones(scaled.shape[0], 1), scaled.mean((2, 3)), *self.sketch(scaled)]
            weighted = [
                part * (weight / math.sqrt(math.factorial(p)))
                for p, (part, weight) in enumerate(zip(parts, self.weights.unbind(), strict=True))
            ]
            return torch.cat(weighted, dim=1)

    def composition(self) -> Tensor:
        """Return a_0, ..., a_P as they are now, without the factor e^{-g} that they share."""
        powers = torch.arange(len(self.weights), device=self.weights.device)
        return self.weights * ((2 * self.gamma).log() * powers - torch.lgamma(powers + 1.0)).div(2).exp()

    def hooks(self) -> Hooks:
        """Ask to see the training images once where g is to be measured."""
        return Hooks(prepare=self.measure_gamma) if self.measures_gamma else Hooks()

    @torch.no_grad()
    def measure_gamma(self, core: HostModel, pictures: Pictures) -> None:
        """Set g to one over the mean inner product of two locations of an image, over all images.

        g = 1 / mean over images of ||mean over locations of x||^2, as every pair of locations counts, a
        location with itself too.

        Raises UsageError where that mean is zero or not finite.
        """
        total, count = 0.0, 0
        for images, _ in pictures:
            x = core.backbone(images).maps[self.tap]
            total += float(wide(x).mean((2, 3)).square().sum())
            count += len(images)
        mean = total / max(count, 1)
        if not 0 < mean < math.inf:
            raise UsageError(
                f"the mean inner product of the map {self.tap} over {count} training images is {mean:g}, "
                "which gives no gamma; set --head.options.gamma to a number such as 1e-4"
            )
        self.gamma.fill_(1 / mean)


def _number(gamma: float | str) -> float | None:
    """Return g, or None for "auto"."""
    if gamma == "auto":
        return None
    try:
        number = float(gamma)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UsageError(f"gamma is auto or a number above zero, got {gamma!r}")
    return number
