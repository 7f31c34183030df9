"""Mixup and CutMix: pairs of images become one, and so do their targets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.errors import UsageError
from finetune.images.loading.copies import to_device


def mix(
    images: Tensor,
    target: Tensor,
    num_classes: int,
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    generator: np.random.Generator,
    partner: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return mixed images and their soft targets; where both are on, each batch takes either with equal odds.

    mixup: x = lam * x_i + (1 - lam) * x_j, lam ~ Beta(mixup, mixup), one lam a batch, j a random partner.
    cutmix: a box of x_j is pasted into x_i, its area (1 - lam) of the image before it is cut at the edges;
    lam is then recomputed from the pixels that were really pasted. Target: lam * y_i + (1 - lam) * y_j.

    Args:
        images: float (B, C, H, W), normalised; not changed.
        target: int64 (B,), zero-based.
        num_classes: K.
        mixup: alpha of mixup's Beta distribution; 0 switches it off.
        cutmix: alpha of CutMix's Beta distribution; 0 switches it off.
        generator: the only source of chance, so that equal generators give equal batches on every device.
        partner: what `draw_partners` drew from this generator, on the images' device; None draws it now.

    Returns:
        Images like the given ones, and float32 soft targets (B, K) whose rows sum to one. Smoothing is the
        loss's business.

    Raises UsageError when both are off or one is negative.

    Source: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", 2018; Yun, Han, Oh,
    Chun, Choe, Yoo, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
    2019, section 3.
    """
    if min(mixup, cutmix) < 0 or mixup == cutmix == 0:
        raise UsageError(
            f"mixup and cutmix must not be negative, and one must be on; got {mixup} and {cutmix}"
        )
    if partner is None:
        partner = to_device(draw_partners(len(images), generator), images.device)
    paste = cutmix > 0 and (mixup == 0 or generator.random() < 0.5)
    alpha = cutmix if paste else mixup
    share = float(generator.beta(alpha, alpha))
    if paste:
        mixed, share = _paste(images, partner, share, generator)
    else:
        mixed = torch.lerp(images[partner], images, share)
    own = F.one_hot(target, num_classes).float()
    return mixed, torch.lerp(own[partner], own, share)


def draw_partners(count: int, generator: np.random.Generator) -> Tensor:
    """Return which image each of `count` images is mixed with, int64 (count,): the first thing drawn."""
    return torch.from_numpy(generator.permutation(count))


def _paste(
    images: Tensor, partner: Tensor, share: float, generator: np.random.Generator
) -> tuple[Tensor, float]:
    """Return the images with their partners' box, and the fraction of pixels that stayed their own."""
    height, width = images.shape[-2:]
    side = (1 - share) ** 0.5
    row, column = generator.integers(height), generator.integers(width)
    top, bottom = _span(int(row), side * height, height)
    left, right = _span(int(column), side * width, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _span(centre: int, length: float, limit: int) -> tuple[int, int]:
    """Return the pixels of an interval around a centre, cut at the edges."""
    start = centre - round(length) // 2
    return max(start, 0), min(start + round(length), limit)
