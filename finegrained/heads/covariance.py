"""The iSQRT-COV head: the matrix square root of the channels' covariance, by Newton-Schulz iterations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from finegrained.heads.bilinear import unit_classifier
from finegrained.heads.pooling import (
    check_positive,
    check_weights,
    constant_scale,
    full_precision,
    gram,
    wide,
)
from finetune.errors import UsageError
from finetune.models.heads.base import FeatureDims, Head, HeadOutput

if TYPE_CHECKING:
    from finetune.models.backbone import Features, Tap


def covariance(x: Tensor) -> Tensor:
    """Return the covariance of a map's channels over its locations.

    Sigma = (1 / N) sum_n (x_n - mu)(x_n - mu)^T, with N = h w and mu the mean over the locations

    Args:
        x: (B, C, h, w), any float type.

    Returns:
        Sigma (B, C, C) in float32, or float64 for a float64 map; of rank N - 1 at most.

    >>> covariance(torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]]))
    tensor([[[1., 2.],
             [2., 4.]]])

    Source: Li, Xie, Wang, Gao, "Towards Faster Training of Global Covariance Pooling Networks by Iterative
    Matrix Square Root Normalization", CVPR 2018.
    """
    with full_precision(x):
        return gram(wide(x) - wide(x).mean(dim=(2, 3), keepdim=True))


def matrix_sqrt(sigma: Tensor, iterations: int = 5) -> Tensor:
    """Return an approximation of the square roots of matrices with no eigenvalue below zero.

    A = Sigma / tr(Sigma); Y_0 = A, Z_0 = I; T = (3 I - Z_k Y_k) / 2, Y_{k+1} = Y_k T, Z_{k+1} = T Z_k;
    result = sqrt(tr(Sigma)) Y_K

    The trace puts every eigenvalue of A in [0, 1], where the iteration converges. An eigenvalue that is a
    small share of the trace grows by a factor of 1.5 an iteration until it nears its root, so K = 5 leaves
    such ones below theirs. Computed in float32 (float64 stays): half precision does not carry the products.
    Sigma is divided by its trace as a constant beforehand, so that the gradient is finite for tiny traces.

    Args:
        sigma: (B, C, C), symmetric with no eigenvalue below zero; a matrix of zeros has the root zero.
        iterations: K >= 1.

    Returns:
        (B, C, C) in float32 or float64.

    >>> matrix_sqrt(torch.tensor([[[4.0, 0.0], [0.0, 9.0]]]), iterations=10)
    tensor([[[2.0000, 0.0000],
             [0.0000, 3.0000]]])

    Source: as for `covariance`. The paper writes the gradient out by hand; automatic differentiation of the
    same steps gives the same one. The guard for a trace of zero is ours.
    """
    with full_precision(sigma):
        size = constant_scale(_trace(wide(sigma)))
        root = wide(sigma) / size
        trace = _trace(root)
        scale = torch.where(trace > 0, trace, 1.0)  # a constant map: its root is zero, not 0 / 0
        root = root / scale
        identity = torch.eye(root.shape[1], dtype=root.dtype, device=root.device)
        step = 1.5 * identity - 0.5 * root
        inverse = step
        root = root @ step
        for _ in range(iterations - 1):
            step = 1.5 * identity - 0.5 * inverse @ root
            root, inverse = root @ step, step @ inverse
        return size.sqrt() * scale.sqrt() * root


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]


class CovarianceHead(Head):
    """A linear classifier on the square root of the last map's covariance (iSQRT-COV).

    X' = relu(bn(conv1x1(X))), Sigma = cov(X'), logits = W scale triu(sqrt(Sigma)) + b

    The 1x1 convolution brings the map to `dim` channels; the classifier reads the upper triangle with its
    diagonal, dim (dim + 1) / 2 entries (32,896 at 256). Covariance and root are computed in float32.

    Args:
        tap: of the map.
        channels: C of the map.
        num_classes: K.
        dim: channels after the 1x1 convolution, >= 2.
        iterations: of Newton-Schulz, >= 1.
        scale: > 0, multiplies the triangle; the weights feel its square times the learning rate. 1 is the
            published form: behind batch norm the triangle is a few units long as it is, so that ordinary
            learning rates do, and at 10 they are too high.

    Raises UsageError for options out of range, for more than 200 million parameters, and in `forward` for a
    map of a single location, whose covariance is zero for every image.

    Source: as for `covariance`; the widths and the batch norm follow released code, whose default is three
    iterations. The published accuracies start from ImageNet weights that were trained with covariance
    pooling; a backbone trained with average pooling, as here, need not reach them.
    """

    default_taps: ClassVar[tuple[Tap, ...]] = ("last",)
    uses_embedding: ClassVar[bool | Literal["pooled"]] = False
    upper: Tensor
    scale: Tensor

    def __init__(
        self,
        tap: Tap,
        channels: int,
        num_classes: int,
        *,
        dim: int = 256,
        iterations: int = 5,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if dim < 2:
            raise UsageError(f"head.options.dim must be at least 2 channels, got {dim}")
        if iterations < 1:
            raise UsageError(f"head.options.iterations must be at least 1, got {iterations}")
        what = f"an isqrt_cov head of dim {dim} on {channels} channels with {num_classes} classes"
        weights = channels * dim + dim * (dim + 1) // 2 * num_classes
        check_weights(what, weights, "choose a smaller --head.options.dim, such as 256")
        check_positive(scale=scale)
        self.tap, self.iterations = tap, iterations
        convolution = nn.Conv2d(channels, dim, 1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.reduce = nn.Sequential(convolution, nn.BatchNorm2d(dim), nn.ReLU(inplace=True))
        rows, columns = torch.triu_indices(dim, dim)
        self.register_buffer("upper", rows * dim + columns, persistent=False)
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.classifier = unit_classifier(len(self.upper), num_classes)

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:  # noqa: ARG002
        """Return the logits; the target is not looked at."""
        return HeadOutput(self.classifier(self.scale * self.descriptor(features)))

    def descriptor(self, features: Features) -> Tensor:
        """Return the upper triangles (B, dim (dim + 1) / 2) of the roots, row by row, in float32."""
        x = features.maps[self.tap]
        if x.shape[2] * x.shape[3] < 2:
            raise UsageError(
                f"the isqrt_cov head got a map of {x.shape[2]} x {x.shape[3]} location, whose covariance is "
                "zero; use larger images (--model.image_size) or a larger map (--head.taps last-1)"
            )
        root = matrix_sqrt(covariance(self.reduce(x)), self.iterations)
        return root.flatten(1)[:, self.upper]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load weights; those saved before there was a scale were trained with 1."""
        state_dict.setdefault(f"{prefix}scale", torch.ones_like(self.scale))
        super()._load_from_state_dict(state_dict, prefix, *args)

    @classmethod
    def build(
        cls,
        backbone: FeatureDims,
        num_classes: int,
        *,
        dim: int = 256,
        iterations: int = 5,
        scale: float = 1.0,
    ) -> Self:
        """Return the head that fits this backbone; see the class for the options."""
        tap = backbone.taps[0]
        return cls(tap, backbone.map_dims[tap], num_classes, dim=dim, iterations=iterations, scale=scale)
