"""Tensor Sketch: short random vectors whose inner products stand for powers of inner products.

Order 2 has an exact short cut through the Gram matrix. Higher orders go through the Fourier transform, where
a circular convolution is a product, and are averaged over the locations before they come back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from finegrained.heads.pooling import full_precision, gram, wide
from finetune.errors import UsageError

if TYPE_CHECKING:
    from finetune.models.backbone import Tap
    from finetune.models.heads.base import FeatureDims

MAX_ORDER = 16  # the sixteenth power of activations of magnitude 200 is near the end of float32's range
SEEDS = 2**63


class TensorSketch(nn.Module):
    """Sketches of order 2 to P of every location of a feature map, averaged over the locations.

    S_t(x)[d] = sum over {c: h_t(c) = d} of s_t(c) x_c    (count sketch, t = 1..P)
    TS_p(x) = IFFT(prod_{t <= p} FFT(S_t(x)))             (circular convolution of the first p of them)
    E <TS_p(x), TS_p(y)> = (x . y)^p                      (over the draws of h and s)

    The sketches are nested: order p uses the first p pairs (h_t, s_t), so that one running product in the
    frequency domain serves all orders.

    h and s are drawn once, from a generator of their own, and are buffers: they follow the module to its
    device, lie in its state dict, and nobody else's random numbers change. A stored model therefore does not
    depend on the seed it was made with. Nothing is derived from them ahead of time, so loading a state dict
    leaves nothing stale.

    Args:
        channels: C of the map, >= 1.
        dim: D, the length of each sketch, >= 2. An export multiplies with matrices of the two factors of D
            nearest to sqrt(D), so a power of two is cheap there and a large prime number is not.
        order: P, the highest order, in [2, 16].
        seed: of h and s, in [0, 2^63).

    Raises UsageError for values outside these ranges.

    Source: Pham and Pagh, "Fast and Scalable Polynomial Kernels via Explicit Feature Maps", KDD 2013; in
    networks: Gao, Beijbom, Zhang and Darrell, "Compact Bilinear Pooling", CVPR 2016, and Cui et al., "Kernel
    Pooling for Convolutional Neural Networks", CVPR 2017. Released code keeps h and s outside the state dict,
    or resets the global random seed to find them again; here neither happens. The average over locations in
    the place of their sum does not depend on the image's size.
    """

    buckets: Tensor
    signs: Tensor

    def __init__(self, channels: int, dim: int, order: int = 2, *, seed: int = 0) -> None:
        super().__init__()
        if dim < 2 or not 2 <= order <= MAX_ORDER:
            raise UsageError(
                f"a tensor sketch needs dim >= 2 and an order in [2, {MAX_ORDER}], got {dim} and {order}"
            )
        if not 0 <= seed < SEEDS:
            raise UsageError(f"head.options.seed must lie in [0, 2^63), got {seed}")
        self.dim = dim
        self.order = order
        source = torch.Generator("cpu").manual_seed(seed)
        shape = (order, channels)
        self.register_buffer("buckets", torch.randint(dim, shape, generator=source, device="cpu"))
        coins = torch.randint(2, shape, generator=source, device="cpu")
        self.register_buffer("signs", 2.0 * coins - 1.0)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return TS_2, ..., TS_P of the map x (B, C, h, w), each (B, D), averaged over the locations.

        The result is float32 (float64 for a float64 map) under autocast too: a product of four spectra
        overflows float16 at activations of magnitude ten.
        """
        with full_precision(x):
            if self.order == 2 and (torch.onnx.is_in_onnx_export() or self._is_short_cut(x)):
                return [self.of_gram(gram(x))]
            points = wide(x).flatten(2)
            if torch.onnx.is_in_onnx_export():
                return self._by_products_of_matrices(points)
            return self._by_fft(points)

    def of_gram(self, second: Tensor) -> Tensor:
        """Return the averaged sketch of order 2 (B, D), exactly, from the Gram matrix G (B, C, C) of a map.

        TS_2[(h_1(i) + h_2(j)) mod D] += s_1(i) s_2(j) G_ij

        This holds because TS_2 is linear in each of its two count sketches.
        """
        index = (self.buckets[0, :, None] + self.buckets[1]) % self.dim
        signed = second * (self.signs[0, :, None] * self.signs[1])
        return second.new_zeros(second.shape[0], self.dim).index_add(1, index.flatten(), signed.flatten(1))

    def count_sketch(self, points: Tensor, which: int) -> Tensor:
        """Return S_t of every column of points (B, C, N) as (B, D, N), t = `which` + 1."""
        empty = points.new_zeros(points.shape[0], self.dim, points.shape[2])
        return empty.index_add(1, self.buckets[which], points * self.signs[which, :, None])

    def _is_short_cut(self, x: Tensor) -> bool:
        """Return whether the Gram matrix is cheaper: its entries against those of a count sketch.

        One image on one core, D = 8192: 512 channels at 28 x 28 took 4 ms by the Gram matrix and 42 ms by
        FFT, 2048 channels at 14 x 14 took 38 ms and 9 ms; the ways cross where the two numbers agree.
        """
        return x.shape[1] ** 2 <= x.shape[2] * x.shape[3] * self.dim

    def _by_fft(self, points: Tensor) -> list[Tensor]:
        """Return the sketches of every order with one inverse transform each, for all locations together."""
        found = []
        product = torch.fft.rfft(self.count_sketch(points, 0), dim=1)
        for which in range(1, self.order):
            product = product * torch.fft.rfft(self.count_sketch(points, which), dim=1)
            found.append(torch.fft.irfft(product.mean(2), n=self.dim, dim=1))
        return found

    def _by_products_of_matrices(self, points: Tensor) -> list[Tensor]:
        """Return the same in real numbers and without a Fourier operator, which few runtimes of ONNX have."""
        found = []
        product = fourier(self.count_sketch(points, 0).transpose(1, 2))
        for which in range(1, self.order):
            spectrum = fourier(self.count_sketch(points, which).transpose(1, 2))
            product = _times(product, spectrum)
            found.append(inverse_fourier(Spectrum(product.real.mean(1), product.imag.mean(1))))
        return found


class Spectrum(NamedTuple):
    """Complex numbers as two real tensors of one shape."""

    real: Tensor
    imag: Tensor


def fourier(x: Tensor) -> Spectrum:
    """Return the discrete Fourier transform of real x (..., D) along its last axis, by products of matrices.

    X[d] = sum_k x[k] exp(-2 pi i k d / D)

    With D = a b, k = k1 b + k2 and d = d1 + a d2 this is a transform of length a over k1, a turn by
    exp(-2 pi i k2 d1 / D), and a transform of length b over k2: two small matrices in the place of one D x D.

    >>> fourier(torch.tensor([1.0, 2.0, 3.0, 4.0])).real.round()
    tensor([10., -2., -2., -2.])

    Source: Cooley and Tukey, "An Algorithm for the Machine Calculation of Complex Fourier Series", 1965, one
    step of it.
    """
    a, b = _factors(x.shape[-1])
    rows = _unfold(x, a, b)
    first = _roots(a, a, a, -1, x)
    return _second_half(Spectrum(first.real @ rows, first.imag @ rows), a, b, -1)


def inverse_fourier(spectrum: Spectrum) -> Tensor:
    """Return the real part x (..., D) of the inverse transform of a spectrum (..., D); see `fourier`.

    x[k] = Re (1 / D) sum_d X[d] exp(2 pi i k d / D)

    >>> inverse_fourier(fourier(torch.tensor([1.0, 2.0, 3.0, 4.0]))).round()
    tensor([1., 2., 3., 4.])
    """
    dim = spectrum.real.shape[-1]
    a, b = _factors(dim)
    rows = Spectrum(_unfold(spectrum.real, a, b), _unfold(spectrum.imag, a, b))
    first = _times(_roots(a, a, a, 1, spectrum.real), rows, torch.matmul)
    return _second_half(first, a, b, 1).real / dim


def _unfold(x: Tensor, a: int, b: int) -> Tensor:
    return x.reshape(*x.shape[:-1], a, b)


def _second_half(first: Spectrum, a: int, b: int, sign: int) -> Spectrum:
    """Return the transform (..., a b) from the one over k1, given as (..., d1, k2)."""
    turned = _times(first, _roots(a, b, a * b, sign, first.real))
    whole = _times(turned, _roots(b, b, b, sign, first.real), torch.matmul)
    return Spectrum(whole.real.transpose(-1, -2).flatten(-2), whole.imag.transpose(-1, -2).flatten(-2))


def _roots(rows: int, columns: int, period: int, sign: int, like: Tensor) -> Spectrum:
    """Return exp(sign 2 pi i j k / period) for j < rows, k < columns; j k is reduced before it is rounded."""
    j = torch.arange(rows, device=like.device)[:, None]
    k = torch.arange(columns, device=like.device)
    angle = (j * k % period).to(like.dtype) * (sign * 2 * math.pi / period)
    return Spectrum(angle.cos(), angle.sin())


def _times(
    left: Spectrum, right: Spectrum, product: Callable[[Tensor, Tensor], Tensor] = torch.mul
) -> Spectrum:
    return Spectrum(
        product(left.real, right.real) - product(left.imag, right.imag),
        product(left.real, right.imag) + product(left.imag, right.real),
    )


def _factors(dim: int) -> tuple[int, int]:
    """Return a <= b with a b = dim, as near to each other as can be."""
    a = next(a for a in range(math.isqrt(dim), 0, -1) if dim % a == 0)
    return a, dim // a


def single_map(backbone: FeatureDims, head: str) -> tuple[Tap, int]:
    """Return the one map that a head reads and its channels; UsageError where two networks are given."""
    if len(backbone.map_dims) != 1:  # model.second adds the map of a second network
        given = ", ".join(map(str, backbone.map_dims)) or "none"
        raise UsageError(
            f"the {head} head reads one feature map, got {given}; drop model.second, or use bilinear"
        )
    (only,) = backbone.map_dims.items()
    return only
