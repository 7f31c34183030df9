"""Second-order pooling: the Gram matrix of a feature map, and the normalisation that all such heads share.

Everything here is computed in float32 (float64 stays float64) whatever autocast says: sums over hundreds of
locations and square roots near zero lose too much, or overflow, in half precision.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Of the mean magnitude; what released B-CNN code adds to activations of magnitude one.
RELATIVE_EPS = 1e-5
# A descriptor of length one wants a learning rate near 1 (released code's); one of this length a hundredth.
EVERYDAY_SCALE = 10.0


def wide(x: Tensor) -> Tensor:
    """Return x in float32, or as it is when it is float32 or float64 already.

    >>> wide(torch.zeros(2, dtype=torch.bfloat16)).dtype, wide(torch.zeros(2, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which autocast leaves the operations on x's device alone; see also `wide`.

    Devices that know no autocast (meta, on which shapes are computed without numbers) need none.
    """
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def gram(first: Tensor, second: Tensor | None = None) -> Tensor:
    """Return the outer products of two feature maps, averaged over the locations.

    G = X_A X_B^T / (h w), with the maps flattened to X_A (C1, h w) and X_B (C2, h w)

    Args:
        first: X_A (B, C1, h, w), any float type and any sign.
        second: X_B (B, C2, h, w), of the same h and w (see `match_sizes`); None means X_A itself, and G is
            then symmetric with no eigenvalue below zero.

    Returns:
        G (B, C1, C2) in float32, or float64 for float64 maps.

    >>> gram(torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]]))  # two channels, two locations
    tensor([[[5., 3.],
             [3., 2.]]])

    Source: Lin, RoyChowdhury, Maji, "Bilinear CNN Models for Fine-grained Visual Recognition", ICCV 2015; the
    paper sums over the locations, released code divides by their number, which the normalisation undoes.
    """
    with full_precision(first):
        left = wide(first).flatten(2)
        right = left if second is None else wide(second).flatten(2)
        return left @ right.transpose(1, 2) / left.shape[2]


def match_sizes(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two maps (B, C1, h1, w1) and (B, C2, h2, w2) on one grid: the larger is averaged down.

    The grid is min(h1, h2) x min(w1, w2); maps that agree come back as they are.
    """
    size = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    return _averaged_down(first, size), _averaged_down(second, size)


def _averaged_down(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size)


def signed_sqrt(x: Tensor, eps: float = RELATIVE_EPS) -> Tensor:
    """Return the square root that keeps the sign, with a bounded slope.

    y = x / sqrt(|x| + eps m), with m the mean of |x| over everything but the batch

    It is sign(x) sqrt(|x|) for every |x| far above eps m. The sign matters where a map has negative entries
    (ConvNeXt, Swin, ViT); sqrt(x) alone would do after a ReLU only. eps is relative to m: a constant would be
    most of the vector's length where activations are tiny, and nothing where they are large. So
    y(s x) = sqrt(s) y(x) for every s > 0, and |dy/dx| is at most 1 / sqrt(eps m), not counting the share of m
    itself, through which the gradient passes too.

    Args:
        x: (B, ...), any float type.
        eps: > 0, relative to the mean magnitude of each row.

    Returns:
        y, shaped as x, in float32 or float64.

    >>> signed_sqrt(torch.tensor([[4.0, -9.0, 0.0]]), eps=1e-12)
    tensor([[ 2., -3.,  0.]])

    Source: as for `gram`. Released code computes sign(x) sqrt(|x| + eps) with an absolute eps; that jumps by
    2 sqrt(eps) at x = 0, so that the rounding noise of an entry near zero shows in the descriptor: two runs,
    or torch and an exported file, then differ by a thousand times the rounding. This one is continuous.
    """
    with full_precision(x):
        magnitude = wide(x).abs()
        mean = magnitude.mean(dim=tuple(range(1, x.ndim)), keepdim=True)
        return wide(x) / torch.where(mean > 0, magnitude + eps * mean, 1.0).sqrt()


def l2_normalise(x: Tensor) -> Tensor:
    """Return the rows of x (B, N) at length one: x / ||x||_2; a row of zeros stays, with a finite gradient.

    The result is float32 or float64.

    >>> l2_normalise(torch.tensor([[3.0, -4.0], [0.0, 0.0]]))
    tensor([[ 0.6000, -0.8000],
            [ 0.0000,  0.0000]])
    """
    with full_precision(x):
        length = torch.linalg.vector_norm(wide(x), dim=1, keepdim=True)
        return wide(x) / torch.where(length > 0, length, 1.0)


def improved(x: Tensor, eps: float = RELATIVE_EPS) -> Tensor:
    """Return the descriptor (B, N) that a classifier reads: x flattened, signed square root, length one.

    z = y / ||y||_2, y = x / sqrt(|x| + eps m); see `signed_sqrt` for eps and m.

    >>> improved(torch.tensor([[[9.0], [16.0]]]), eps=1e-12)  # 3 / 5 and 4 / 5
    tensor([[0.6000, 0.8000]])

    Source: as for `gram`.
    """
    return l2_normalise(signed_sqrt(x.flatten(1), eps))
