"""Margin rules: what stands in the place of the target's cosine while a classifier trains.

A rule is psi(theta) <= cos(theta) of the angle theta between an embedding and the weights of its class, so
that the target wins only with an angle to spare; `core_losses.margin` makes logits of it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor


class MarginRule(Protocol):
    """What a margin head does to the target's cosine.

    `unit_weights` tells whether every W_j is brought to length one, and `scale` is the length s that the
    embeddings are brought to, None where they keep their own. `title` is what tables and figures call the
    rule, and `symbols` what titles call its options.
    """

    title: ClassVar[str]
    symbols: ClassVar[Mapping[str, str]]

    @property
    def unit_weights(self) -> bool:
        """Whether |W_j| = 1 for every class."""
        ...

    @property
    def scale(self) -> float | None:
        """The length that every embedding is brought to, or None for its own."""
        ...

    def target_cosine(self, cosine: Tensor, sine: Tensor | None = None) -> Tensor:
        """Return psi(theta), element by element, from cos(theta) in [-1, 1] and, where known, sin(theta)."""
        ...


@dataclass(frozen=True)
class LSoftmaxRule:
    """The multiplied angle of the large-margin softmax (L-Softmax); see `multiplied_angle`.

    Args:
        margin: m in {1, 2, 3, 4}; 1 is the plain logit. The paper compares 2, 3 and 4.

    Source: Liu, Wen, Yu, Yang, "Large-Margin Softmax Loss for Convolutional Neural Networks", ICML 2016,
    Eqs. 4 to 6.
    """

    title: ClassVar[str] = "L-Softmax"
    symbols: ClassVar[Mapping[str, str]] = MappingProxyType({"margin": "m"})
    margin: int = 4
    unit_weights: ClassVar[bool] = False
    scale: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        _check_multiplier(self.margin)

    def target_cosine(self, cosine: Tensor, sine: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return psi(theta) from cos(theta)."""
        return multiplied_angle(cosine, self.margin)


@dataclass(frozen=True)
class ASoftmaxRule:
    """The multiplied angle with unit weights and no bias (A-Softmax, SphereFace); see `multiplied_angle`.

    Args:
        margin: m in {1, 2, 3, 4}; the paper trained with 4.

    Source: Liu, Wen, Yu, Li, Raj, Song, "SphereFace: Deep Hypersphere Embedding for Face Recognition", CVPR
    2017, Eqs. 6 and 7.
    """

    title: ClassVar[str] = "A-Softmax"
    symbols: ClassVar[Mapping[str, str]] = MappingProxyType({"margin": "m"})
    margin: int = 4
    unit_weights: ClassVar[bool] = True
    scale: ClassVar[float | None] = None

    def __post_init__(self) -> None:
        _check_multiplier(self.margin)

    def target_cosine(self, cosine: Tensor, sine: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return psi(theta) from cos(theta)."""
        return multiplied_angle(cosine, self.margin)


@dataclass(frozen=True)
class CosFaceRule:
    """A margin taken off the cosine: psi(theta) = cos(theta) - m, with |W_j| = 1 and |x| = s.

    Args:
        margin: m in [0, 2), a difference of cosines; the paper trained with 0.35.
        scale: s > 0; the paper trained with 64. The least useful value grows with the number of classes.

    Source: Wang, Wang, Zhou, Ji, Gong, Zhou, Li, Liu, "CosFace: Large Margin Cosine Loss for Deep Face
    Recognition", CVPR 2018, Eq. 4; the same rule as AM-Softmax (Wang, Cheng, Liu, Liu, 2018: s 30, m 0.35).
    """

    title: ClassVar[str] = "CosFace"
    symbols: ClassVar[Mapping[str, str]] = MappingProxyType({"margin": "m", "scale": "s"})
    margin: float = 0.35
    scale: float = 64.0
    unit_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_range("margin", self.margin, 0 <= self.margin < 2, "in [0, 2), a difference of cosines")
        _check_scale(self.scale)

    def target_cosine(self, cosine: Tensor, sine: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return cos(theta) - m."""
        return cosine - self.margin


@dataclass(frozen=True)
class ArcFaceRule:
    """A margin added to the angle: psi(theta) = cos(theta + m), with |W_j| = 1 and |x| = s.

    Beyond theta = pi - m, where cos(theta + m) would rise again, psi(theta) = cos(theta) - m sin(m), as in
    the released code. psi falls everywhere; it jumps down there, from -1 to -cos(m) - m sin(m), which is
    -1.117 at m = 0.5.

    Args:
        margin: m in [0, pi / 2], in radians; the paper trained with 0.5.
        scale: s > 0; the paper trained with 64.

    Source: Deng, Guo, Xue, Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR
    2019, Eq. 3; the continuation is that of the authors' released code (insightface).
    """

    title: ClassVar[str] = "ArcFace"
    symbols: ClassVar[Mapping[str, str]] = MappingProxyType({"margin": "m", "scale": "s"})
    margin: float = 0.5
    scale: float = 64.0
    unit_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        allowed = 0 <= self.margin <= math.pi / 2
        _check_range("margin", self.margin, allowed, "in [0, pi / 2], in radians")
        _check_scale(self.scale)

    def target_cosine(self, cosine: Tensor, sine: Tensor | None = None) -> Tensor:
        """Return psi(theta) from cos(theta) and sin(theta) >= 0.

        Without `sine` it is sqrt(1 - cos^2), which near cos = +-1 is only as exact as the cosine there, and
        has a gradient of 0 at +-1.
        """
        sine = _sine(cosine) if sine is None else sine
        turned = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), turned, beyond)


MARGIN_RULES: dict[str, type[MarginRule]] = {
    "lsoftmax": LSoftmaxRule,
    "asoftmax": ASoftmaxRule,
    "cosface": CosFaceRule,
    "arcface": ArcFaceRule,
}


def build_margin_rule(name: str, **options: Any) -> MarginRule:
    """Return the rule of a name in `MARGIN_RULES` with its own options.

    Raises:
        ValueError: for an unknown name or option (the message lists the known ones), or one out of its range.

    >>> build_margin_rule("lsoftmax", margin=2)
    LSoftmaxRule(margin=2)
    """
    if name not in MARGIN_RULES:
        close = difflib.get_close_matches(name, MARGIN_RULES, n=1)
        suggestion = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"there is no margin rule {name!r}; {suggestion}Known: {', '.join(MARGIN_RULES)}")
    rule: Any = MARGIN_RULES[name]
    known = [field.name for field in fields(rule)]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(
            f"margin rule {name!r} has no option {', '.join(unknown)}; it takes {', '.join(known)}"
        )
    built: MarginRule = rule(**options)
    return built


def multiplied_angle(cosine: Tensor, margin: int) -> Tensor:
    """Return the monotone cosine of a multiplied angle, computed without the angle.

    psi(theta) = (-1)^k cos(m theta) - 2k for theta in [k pi / m, (k + 1) pi / m], k = 0 ... m - 1

    cos(m theta) is the Chebyshev polynomial T_m(cos theta), and k counts the cos(j pi / m), j = 1 ... m - 1,
    that cos(theta) does not exceed. psi is continuous and falls from 1 to 1 - 2m; so is its first derivative
    by theta, which is 0 at every joint.

    Args:
        cosine: cos(theta), any shape, float; rounding beyond +-1 does no harm.
        margin: m in {1, 2, 3, 4}; 1 returns the cosine.

    Returns:
        psi(theta), shaped as `cosine`; differentiable everywhere.

    >>> multiplied_angle(torch.tensor([1.0, 0.0, -1.0]), 2)
    tensor([ 1., -1., -3.])
    """
    if margin == 1:
        return cosine
    folds = torch.zeros_like(cosine)
    for joint in range(1, margin):
        folds = folds + (cosine <= math.cos(joint * math.pi / margin))
    sign = 1 - 2 * torch.remainder(folds, 2)
    return sign * _chebyshev(cosine, margin) - 2 * folds


def _sine(cosine: Tensor) -> Tensor:
    squared = (1 - cosine) * (1 + cosine)
    inside = squared > 0
    return torch.where(inside, torch.where(inside, squared, 1).sqrt(), 0)


def _chebyshev(cosine: Tensor, degree: int) -> Tensor:
    """Return T_m(cos theta) = cos(m theta) for m of 2, 3 and 4."""
    squared = cosine * cosine
    if degree == 2:
        return 2 * squared - 1
    if degree == 3:
        return cosine * (4 * squared - 3)
    return 8 * squared * (squared - 1) + 1


def _check_multiplier(margin: int) -> None:
    whole = isinstance(margin, int) and not isinstance(margin, bool)
    _check_range("margin", margin, whole and margin in (1, 2, 3, 4), "a whole number from 1 to 4")


def _check_scale(scale: float) -> None:
    _check_range("scale", scale, 0 < scale < math.inf, "a finite number > 0")


def _check_range(name: str, value: float, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, but arrived as {value}")
