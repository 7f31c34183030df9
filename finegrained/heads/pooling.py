"""Second-order pooling: the Gram matrix of a feature map, and the normalisation that all such heads share.

The checks of options that heads have in common stand here too.

Everything here is computed in float32 (float64 stays float64) whatever autocast says: sums over hundreds of
locations and square roots near zero lose too much, or overflow, in half precision. The roots and lengths are
taken of numbers brought near one first, so that neither tiny nor huge activations leave float32's range.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.errors import UsageError
from finetune.models.heads.precision import full_precision as full_precision  # every head's arithmetic
from finetune.models.heads.precision import wide as wide

# Of the mean magnitude; what released B-CNN code adds to activations of magnitude one.
RELATIVE_EPS = 1e-5
# A descriptor of length one wants a learning rate near 1 (released code's); one of this length a hundredth.
EVERYDAY_SCALE = 10.0
# Weights that a head may have before it is taken for a slip: 0.8 GB, 2.4 GB more while it learns.
MAX_WEIGHTS = 200_000_000


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
    return x if tuple(x.shape[2:]) == size else averaged(x, size)


def averaged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the means of maps (B, C, h, w) over a grid of cells that may overlap, (B, C, h', w').

    Cell i of n covers the places floor(i h / n) up to ceil((i + 1) h / n), as in adaptive average pooling.
    A processor pools; a GPU, where the gradient of that is added up in no fixed order, multiplies by two
    averaging matrices, which differs in the last digit.
    """
    return averaged_by_products(x, size) if x.device.type == "cuda" else F.adaptive_avg_pool2d(x, size)


def averaged_by_products(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return what `averaged` does as P X Q^T; rows of P or Q are 1 / n in the n places of a cell, else 0."""
    with full_precision(x):
        maps = wide(x)
        rows = _averaging(size[0], maps.shape[2], maps)
        columns = _averaging(size[1], maps.shape[3], maps)
        return (rows @ maps @ columns.T).to(x.dtype)


def _averaging(cells: int, length: int, like: Tensor) -> Tensor:
    """Return the matrix (cells, length) that averages `length` places; made where it is used."""
    cell = torch.arange(cells, device=like.device)[:, None]
    place = torch.arange(length, device=like.device)
    first, end = cell * length // cells, ((cell + 1) * length + cells - 1) // cells
    inside = (place >= first) & (place < end)
    return inside.to(like.dtype) / (end - first)


def signed_sqrt(x: Tensor, eps: float = RELATIVE_EPS) -> Tensor:
    """Return the square root that keeps the sign, with a bounded slope.

    y = x / sqrt(|x| + eps m), with m the mean of |x| over everything but the batch

    It is sign(x) sqrt(|x|) for every |x| far above eps m. The sign matters where a map has negative entries
    (ConvNeXt, Swin, ViT); sqrt(x) alone would do after a ReLU only. eps is relative to m: a constant would be
    most of the vector's length where activations are tiny, and nothing where they are large. So
    y(s x) = sqrt(s) y(x) for every s > 0, and |dy/dx| is at most 1 / sqrt(eps m), not counting the share of m
    itself, through which the gradient passes too.

    It is computed on x over its largest magnitude, and scaled back by the root of that, so that eps m is no
    zero where x is tiny. By the law above that is the same y and the same gradient.

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
        rest = tuple(range(1, x.ndim))
        largest = constant_scale(wide(x).abs().amax(dim=rest, keepdim=True))
        near_one = wide(x) / largest
        magnitude = near_one.abs()
        squared = magnitude + eps * magnitude.mean(dim=rest, keepdim=True)
        return largest.sqrt() * near_one / torch.where(squared > 0, squared, 1.0).sqrt()


def l2_normalise(x: Tensor) -> Tensor:
    """Return the rows of x (B, N) at length one: x / ||x||_2; a row of zeros stays, with a finite gradient.

    The result is float32 or float64. The squares are those of x over its largest magnitude: the length of a
    row of 1e30 or 1e-30 is a number of float32, its squares are not.

    >>> l2_normalise(torch.tensor([[3.0, -4.0], [0.0, 0.0]]))
    tensor([[ 0.6000, -0.8000],
            [ 0.0000,  0.0000]])
    """
    with full_precision(x):
        near_one = wide(x) / constant_scale(wide(x).abs().amax(dim=1, keepdim=True))
        length = torch.linalg.vector_norm(near_one, dim=1, keepdim=True)
        return near_one / torch.where(length > 0, length, 1.0)


def constant_scale(size: Tensor) -> Tensor:
    """Return what to divide by so that numbers of this size come near one; 1 for a size of zero.

    For functions whose value does not depend on the divisor (f(x / c) c^n = f(x) for every c > 0): it is a
    constant to the gradient, which is exact all the same, and no smaller than the smallest normal number, of
    which a gradient can still be divided.
    """
    least = torch.finfo(size.dtype).tiny
    return torch.where(size > 0, torch.where(size > least, size, least), 1.0).detach()


def improved(x: Tensor, eps: float = RELATIVE_EPS) -> Tensor:
    """Return the descriptor (B, N) that a classifier reads: x flattened, signed square root, length one.

    z = y / ||y||_2, y = x / sqrt(|x| + eps m); see `signed_sqrt` for eps and m.

    >>> improved(torch.tensor([[[9.0], [16.0]]]), eps=1e-12)  # 3 / 5 and 4 / 5
    tensor([[0.6000, 0.8000]])

    Source: as for `gram`.
    """
    return l2_normalise(signed_sqrt(x.flatten(1), eps))


def check_positive(**options: float) -> None:
    """Raise UsageError for a head's option that is not a finite number above zero, by its name."""
    for name, value in options.items():
        if not 0 < value < math.inf:
            raise UsageError(f"head.options.{name} must be a number above 0, got {value}")


def check_weights(holder: str, weights: int, remedy: str, most: int = MAX_WEIGHTS) -> None:
    """Raise UsageError for a head of more parameters than anybody is likely to want.

    Args:
        holder: what would hold them, for the message.
        weights: how many.
        remedy: how to have fewer, for the message.
        most: allowed.
    """
    if weights > most:
        raise UsageError(
            f"{holder} holds {weights / 1e6:,.0f} million parameters ({weights * 4 / 1e9:,.1f} GB before "
            f"gradients); {remedy}"
        )
