"""Compact bilinear pooling: the bilinear head's second-order statistics in a few thousand numbers.

What goes wrong in released code, and what stands against it here:

- Images go through a loop one by one: here a batch is one product of matrices and one scatter.
- Published weights of this head gave people chance accuracy in other code than they were made with: none are
  used, the backbone alone starts from published weights, and a stored head brings its random constants along.
- The random constants are no buffers and hang on a global seed: see
  `finegrained.heads.tensor_sketch.TensorSketch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor

from finegrained.heads.bilinear import unit_classifier
from finegrained.heads.pooling import EVERYDAY_SCALE, RELATIVE_EPS, check_positive, check_weights, improved
from finegrained.heads.tensor_sketch import TensorSketch, single_map
from finetune.models.heads.base import Head, HeadOutput

if TYPE_CHECKING:
    from finetune.models.backbone import Features, Tap
    from finetune.models.heads.base import FeatureDims


class CompactBilinearHead(Head):
    """A linear layer on the normalised Tensor Sketch of order 2 of one feature map.

    z = l2(signed_sqrt(mean over locations of TS_2(x))), logits = s W z + b

    E <TS_2(x), TS_2(y)> = (x . y)^2, the kernel of bilinear pooling, with D numbers in the place of C^2: 8192
    against 262,144 for VGG-16. Since z has length one, the classifier learns best at a large learning rate
    while the backbone is frozen, or with a larger `scale` (see `BilinearHead`).

    Args:
        tap: the map that is read.
        channels: C, its channels.
        num_classes: K.
        dim: D, the length of the sketch, >= 2.
        seed: of the sketch's random constants, in [0, 2^63) (see `TensorSketch`).
        eps: of the signed square root, > 0, relative to the mean magnitude.
        scale: s > 0, the length that z is given; the weights feel s^2 times the learning rate. 10 as the
            head's option, so that ordinary learning rates do.

    Raises UsageError for options outside these ranges, and for a classifier of more than 200 million
    parameters.

    Source: Gao, Beijbom, Zhang and Darrell, "Compact Bilinear Pooling", CVPR 2016, the Tensor Sketch variant.
    Released code sums over the locations (we average, which the normalisation undoes), adds an absolute eps,
    and works with transforms at every location; see `TensorSketch` for the equal route through the Gram
    matrix.
    """

    default_taps: ClassVar[tuple[Tap, ...]] = ("last",)
    uses_embedding: ClassVar[bool] = False

    def __init__(
        self,
        tap: Tap,
        channels: int,
        num_classes: int,
        *,
        dim: int = 8192,
        seed: int = 0,
        eps: float = RELATIVE_EPS,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive(eps=eps, scale=scale)
        what = f"a compact_bilinear head of dim {dim} with {num_classes} classes"
        check_weights(what, dim * num_classes, "choose a smaller --head.options.dim, such as 8192")
        self.tap = tap
        self.eps, self.scale = eps, scale
        self.sketch = TensorSketch(channels, dim, seed=seed)
        self.classifier = unit_classifier(dim, num_classes)

    @classmethod
    def build(
        cls,
        backbone: FeatureDims,
        num_classes: int,
        *,
        dim: int = 8192,
        seed: int = 0,
        eps: float = RELATIVE_EPS,
        scale: float = EVERYDAY_SCALE,
    ) -> Self:
        """Return the head that fits this backbone."""
        tap, channels = single_map(backbone, "compact_bilinear")
        return cls(tap, channels, num_classes, dim=dim, seed=seed, eps=eps, scale=scale)

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:  # noqa: ARG002
        """Return the logits; the target is not looked at."""
        return HeadOutput(self.classifier(self.scale * self.descriptor(features)))

    def descriptor(self, features: Features) -> Tensor:
        """Return z (B, D), of length one, in float32."""
        (second,) = self.sketch(features.maps[self.tap])
        return improved(second, self.eps)
