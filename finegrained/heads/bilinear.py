"""The bilinear head (B-CNN): the Gram matrix of one map, or of the maps of two trunks, and a linear layer.

What goes wrong in released B-CNN code, and what stands against it here:

- The whole network's stage loses what the linear stage learned, at too high a learning rate from its first
  step: the recipes warm it up, with a learning rate for the trunk below the head's.
- Learning rates and weights are chosen by test accuracy: here a part of the training images validates.
- sqrt(x + eps) without a sign, a slope that overflows half precision, an eps that drowns tiny activations:
  see `finegrained.heads.pooling`.
- Gradients are cut inside the model while the trunk is frozen: here the training stage freezes it.
- The map is said to be VGG's pool5; it is relu5_3, before the pooling, and so is the tap "last".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from torch import Tensor, nn

from finegrained.heads.pooling import (
    EVERYDAY_SCALE,
    MAX_WEIGHTS,
    RELATIVE_EPS,
    check_positive,
    check_weights,
    gram,
    improved,
    match_sizes,
)
from finetune.errors import UsageError
from finetune.models.heads.base import FeatureDims, Head, HeadOutput

if TYPE_CHECKING:
    from finetune.models.backbone import Features, Tap

SECOND: Tap = "second"  # the map of the second trunk, where there is one


class BilinearHead(Head):
    """A linear classifier on the second-order statistics of the last map, or between two trunks' last maps.

    G = X_A X_B^T / (h w), z = l2(signed_sqrt(G)), logits = scale W z + b

    With one trunk X_B = X_A; with `model.second` X_B is the second trunk's map, and the larger map is
    averaged down to the smaller grid. `reduction` puts a 1x1 convolution without bias on each trunk's map
    first. G and z are computed in float32, and no gradient is cut on the way to the trunks: what learns in
    which stage is the training recipe's affair.

    z has length one over C_A C_B entries (262,144 for VGG), so its gradients are small: the paper's first
    stage, the linear layer alone, is run at a learning rate near 1 in released code. `scale` s multiplies
    the learning rate that the weights feel by s^2: at s = 10 one of 0.01 does what 1.0 does at s = 1. The
    whole network's stage needs a small learning rate after a warm-up, or what the first stage learned is
    lost.

    Args:
        tap: of the first trunk's map.
        channels: C_A, and C_B too unless there is a second trunk.
        num_classes: K.
        second_channels: C_B of the second trunk, or None where there is none.
        reduction: channels after the 1x1 convolution; 0 for no convolution.
        eps: > 0, added under the square root, relative to the mean |G| of an image.
        scale: > 0, the length that z is given; 10 as the head's option, so that ordinary learning rates do.
        max_weights: most weights that the classifier may have, a guard against a slip; raise it to go on.

    Raises UsageError for options out of range, and for a classifier of more than `max_weights` weights.

    Source: Lin, RoyChowdhury, Maji, "Bilinear CNN Models for Fine-grained Visual Recognition", ICCV 2015. We
    depart from the paper in the softmax classifier at test time, where the paper trains one-vs-all SVMs on
    z, and from the released code in the relative eps. `reduction` and `scale` are ours.
    """

    default_taps: ClassVar[tuple[Tap, ...]] = ("last",)
    uses_embedding: ClassVar[bool | Literal["pooled"]] = False
    reads_second: ClassVar[bool] = True

    def __init__(
        self,
        tap: Tap,
        channels: int,
        num_classes: int,
        *,
        second_channels: int | None = None,
        reduction: int = 0,
        eps: float = RELATIVE_EPS,
        scale: float = 1.0,
        max_weights: int = MAX_WEIGHTS,
    ) -> None:
        super().__init__()
        _check_reduction(reduction)
        check_positive(eps=eps, scale=scale)
        left, right = reduction or channels, reduction or second_channels or channels
        _check_cost(left, right, num_classes, max_weights)
        self.tap, self.eps, self.scale = tap, eps, scale
        self.two_trunks = second_channels is not None
        self.reduce = _reduction(channels, reduction)
        self.reduce_second = _reduction(second_channels, reduction) if second_channels else None
        self.classifier = unit_classifier(left * right, num_classes)

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:  # noqa: ARG002
        """Return the logits; the target is not looked at."""
        return HeadOutput(self.classifier(self.scale * self.descriptor(features)))

    def descriptor(self, features: Features) -> Tensor:
        """Return z (B, C_A C_B) in float32, each row of length one."""
        first: Tensor = self.reduce(features.maps[self.tap])
        if self.reduce_second is None:
            return improved(gram(first), self.eps)
        second: Tensor = self.reduce_second(features.maps[SECOND])
        return improved(gram(*match_sizes(first, second)), self.eps)

    @classmethod
    def build(
        cls,
        backbone: FeatureDims,
        num_classes: int,
        *,
        reduction: int = 0,
        eps: float = RELATIVE_EPS,
        scale: float = EVERYDAY_SCALE,
        max_weights: int = MAX_WEIGHTS,
    ) -> Self:
        """Return the head that fits this backbone; see the class for the options."""
        tap = backbone.taps[0]
        return cls(
            tap,
            backbone.map_dims[tap],
            num_classes,
            second_channels=backbone.map_dims.get(SECOND),
            reduction=reduction,
            eps=eps,
            scale=scale,
            max_weights=max_weights,
        )


def unit_classifier(length: int, num_classes: int) -> nn.Linear:
    """Return a linear layer on descriptors of this length: weights from N(0, 2 / length), biases of zero.

    Source: Kaiming-normal weights and zero biases are what released B-CNN code starts from.
    """
    classifier = nn.Linear(length, num_classes)
    nn.init.kaiming_normal_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    return classifier


def _reduction(channels: int, reduction: int) -> nn.Module:
    """Return the 1x1 convolution to `reduction` channels, or nothing to do for 0."""
    if not reduction:
        return nn.Identity()
    convolution = nn.Conv2d(channels, reduction, 1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")
    return convolution


def _check_reduction(reduction: int) -> None:
    if reduction < 0:
        raise UsageError(f"head.options.reduction must be 0 (none) or a number of channels, got {reduction}")


def _check_cost(left: int, right: int, num_classes: int, max_weights: int) -> None:
    """Raise UsageError for a classifier that is larger than anybody is likely to want."""
    weights = left * right * num_classes
    check_weights(
        f"a bilinear head on maps of {left} and {right} channels with {num_classes} classes",
        weights,
        "reduce the maps first with --head.options.reduction 256, or allow it with "
        f"--head.options.max_weights {weights}",
        max_weights,
    )
