"""Destruction and construction learning (DCL): every image is also learned with its regions shuffled.

What goes wrong in released code, and what stands against it here:

- Its region alignment stays 7 x 7 whatever N is: every map is pooled to N x N here.
- Its test script does not run: `DclHead.infer` is the whole prediction, and what is exported.
- Its label files count from 1, its loader from 0, and one class is dead: targets are the manifest's, from 0.
- It falls with newer libraries and has fixed batch sizes: regions move as tensors, learning rates are the
  recipe's.
- A port smooths the labels of both classifiers and drops the weight decay: the adversarial branch has plain
  cross-entropy unless a loss is named for it, and the optimiser is the recipe's.
- Its losses are not named as in the paper: alpha, beta and gamma weigh here what they weigh in the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finegrained.heads.dcl_regions import (
    check_plan,
    jittered_plan,
    memory_format,
    nearest_regions,
    sequential_plan,
    shuffle_regions,
    shuffle_regions_as_released,
)
from finegrained.heads.pooling import averaged
from finetune.cli.console import say
from finetune.errors import UsageError
from finetune.images.loading.copies import to_device
from finetune.models.heads.base import Branch, FeatureDims, Head, HeadOutput, Hooks

if TYPE_CHECKING:
    from finetune.models.backbone import Features, Tap


@dataclass(frozen=True)
class Variant:
    """What the published versions of the method do differently.

    Args:
        views: 2 where the shuffled image is an augmentation of its own rather than the same crop.
        released: True for the released code's shuffle and region alignment, False for the paper's.
        class_bias: whether the classifier has a bias.
        doubled: whether the adversarial head tells 2K classes apart (y, and y + K when shuffled) or only
            shuffled images (0) from whole ones (1).
        adversarial_bias: whether the adversarial head has a bias.
        law_bias: whether the region alignment has a bias.
    """

    views: Literal[1, 2]
    released: bool
    class_bias: bool
    doubled: bool
    adversarial_bias: bool
    law_bias: bool


VARIANTS = {
    "paper": Variant(1, False, True, False, False, True),
    "repo_v0": Variant(2, True, True, True, True, False),
    "repo": Variant(1, True, False, True, False, True),
}


@dataclass(frozen=True)
class _Shuffled:
    """What is known of a batch whose every second image is shuffled.

    Args:
        law: what the region alignment should say, float32 (2B, channels, N, N).
        adversarial: what the adversarial head should say, int64 (2B,).
    """

    law: Tensor
    adversarial: Tensor


class DclHead(Head):
    """A linear classifier learning from whole and shuffled images, beside two helpers for training only.

    L = alpha L_cls + beta L_adv + gamma L_loc, summed over an image I and its shuffled copy phi(I):
    L_cls = CE(I) + CE(phi(I)), any class loss in the place of CE, is the part "main"; L_adv, "adversarial",
    says which of the two it was; L_loc, "construction", says where each region came from.
    `hooks().batch_transform` doubles the batch to I_1, phi(I_1), I_2, phi(I_2), ...
    Our objective takes every loss as the mean over these 2B images and gives the main one weight 1, so it
    minimises L / (2 alpha), averaged over the B images: the weights keep the ratio of the paper, and
    plain SGD takes the steps of L at 2 alpha times its learning rate.

    Variants, N x N regions of K classes:
        paper: regions move by `jittered_plan` within the same crop. L_adv has two classes. L_loc compares
            M = avgpool_N(relu(conv1x1(F))), two channels, with each region's own (column, row) counted from
            1; |difference| is averaged over the 2 N^2 values, and gamma = 2 N^2 x gives the paper's sum
            weighted by x. We depart from the paper where a shuffle left every region in its place: L_adv
            is told that this copy is whole, as it is, while the paper calls every copy destroyed. At N = 2
            this is a quarter of the copies (see `jittered_plan`), at N = 7 hardly one.
        repo_v0: the first released code. The shuffled image is another augmentation, moved by
            `sequential_plan`; L_adv has 2K classes; L_loc compares tanh(avgpool_N(conv1x1(F))), one channel,
            with (m - floor(N^2 / 2)) / N^2, m by mean colour (`nearest_regions`); |difference| is averaged.
            Every copy counts as shuffled, as in the code, an eighth of them at N = 2 with no region moved.
        repo: the later code: as repo_v0, but the same crop is shuffled, and there are other biases.

    The map is pooled to N x N whatever its size; one with less than N cells a side repeats its cells.
    A batch that did not pass batch_transform has its main logits only. The adversarial branch stays with
    cross-entropy unless `--loss.branches.adversarial` names another loss.

    Args:
        tap: of the map that the region alignment reads.
        map_dim: its channels.
        num_classes: K.
        embedding_dim: D, of the backbone's pooled vector; 0 where it gives none and the head takes the map's
            mean (VGG).
        variant: paper, repo_v0 or repo.
        regions: N >= 2: 7 for birds and cars, 2 for aircraft in the released settings.
        neighbourhood: k, how far regions move; in [1, N], in [2, N] for the released code's rule.
        alpha: > 0, weight of the class loss.
        beta: >= 0, weight of the adversarial loss.
        gamma: >= 0, weight of the region alignment: released settings have 1 for birds, 0.01 for cars and
            aircraft.

    Raises UsageError for options outside their ranges, infinite ones too.

    Source: Chen, Bai, Zhang, Mei, "Destruction and Construction Learning for Fine-Grained Image Recognition",
    CVPR 2019, Eqs. 1-10, and the code they released. Ours: the region alignment is pooled to N x N for every
    N (the code's stays 7 x 7). The paper's starts at the middle of its range, because behind a ReLU an output
    that starts below zero would never learn, and is averaged, as in the code that the values of gamma come
    from: its sum at gamma = 1 drove every output of the ReLU to zero within 40 steps (ten kinds of birds,
    EfficientNet-Lite0, learning rates 0.001 and for the head 0.01).
    """

    default_taps: ClassVar[tuple[Tap, ...]] = ("last",)
    uses_embedding: ClassVar[bool | Literal["pooled"]] = "pooled"

    def __init__(
        self,
        tap: Tap,
        map_dim: int,
        num_classes: int,
        *,
        embedding_dim: int = 0,
        variant: str = "paper",
        regions: int = 7,
        neighbourhood: int = 2,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
    ) -> None:
        super().__init__()
        _check_options(variant, regions, neighbourhood, alpha, beta, gamma)
        self.tap, self.variant, self.num_classes = tap, VARIANTS[variant], num_classes
        self.regions, self.neighbourhood = regions, neighbourhood
        self.adversarial_weight, self.construction_weight = beta / alpha, gamma / alpha
        made = self.variant
        width = embedding_dim or map_dim
        self.classifier = nn.Linear(width, num_classes, bias=made.class_bias)
        outputs = 2 * num_classes if made.doubled else 2
        self.adversarial = nn.Linear(width, outputs, bias=made.adversarial_bias)
        self.construction = nn.Conv2d(map_dim, 1 if made.released else 2, 1, bias=made.law_bias)
        if not made.released:
            _start_in_the_middle(self.construction, regions)
        self._shuffled: _Shuffled | None = None
        self._told_few_cells = False

    @classmethod
    def build(
        cls,
        backbone: FeatureDims,
        num_classes: int,
        *,
        variant: str = "paper",
        regions: int = 7,
        neighbourhood: int = 2,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
    ) -> Self:
        """Return the head that fits this backbone; the options are those of the class."""
        (tap,) = backbone.taps
        return cls(
            tap,
            backbone.map_dims[tap],
            num_classes,
            embedding_dim=backbone.embedding_dim,
            variant=variant,
            regions=regions,
            neighbourhood=neighbourhood,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
        )

    @classmethod
    def branch_names(cls, **options: Any) -> tuple[str, ...]:
        """Return the one branch, adversarial."""
        del options
        return ("adversarial",)

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:  # noqa: ARG002
        """Return the logits, and for a batch that batch_transform doubled the two further losses.

        What batch_transform left is used once. Raises ValueError when another batch follows it.
        """
        shuffled, self._shuffled = self._shuffled, None
        embedding, deep = self._embedding(features), features.maps[self.tap]
        logits = self.classifier(embedding)
        if shuffled is None:
            return HeadOutput(logits)
        if len(shuffled.law) != len(logits):
            raise ValueError(
                f"batch_transform made {len(shuffled.law)} images, but {len(logits)} reached the DCL head: "
                "each batch it makes must be the next one that goes through the model"
            )
        which = Branch(
            self.adversarial(embedding), shuffled.adversarial, self.adversarial_weight, domain=True
        )
        if not torch.compiler.is_compiling():
            self._tell_few_cells(min(deep.shape[-2:]))
        distance = F.l1_loss(self.locate(deep), shuffled.law)
        return HeadOutput(
            logits, {"adversarial": which}, {"construction": (distance, self.construction_weight)}
        )

    def infer(self, features: Features) -> Tensor:
        """Return the classifier's logits, to which the released code adds both halves of the 2K classes."""
        embedding = self._embedding(features)
        logits: Tensor = self.classifier(embedding)
        if not self.variant.doubled:
            return logits
        halves: Tensor = self.adversarial(embedding)
        return logits + halves[:, : self.num_classes] + halves[:, self.num_classes :]

    def map_classifier(self) -> nn.Linear | None:
        """Return the classifier; None for the released code, which adds the halves of the 2K classes."""
        return None if self.variant.doubled else self.classifier

    def hooks(self) -> Hooks:
        """Return the shuffle, and for repo_v0 the wish for two augmentations of each image."""
        return Hooks(batch_transform=self._destroy, batch_plan=self._plan, views=self.variant.views)

    def locate(self, deep: Tensor) -> Tensor:
        """Return where the region alignment believes each region to belong, float32 (B, channels, N, N).

        `deep` is the map (B, map_dim, h, w). Two channels (column, row) from 1 for the paper, else one in
        (-1, 1).
        """
        places = self.construction(deep).float()
        if self.variant.released:
            return _pool(places, self.regions).tanh()
        return _pool(places.relu(), self.regions)

    def _tell_few_cells(self, side: int) -> None:
        """Warn, once, where a map of `side` cells a side has fewer than the regions."""
        if side < self.regions and not self._told_few_cells:
            say(
                f"warning: the dcl head's maps have {side} cells a side, for {self.regions} regions: "
                "cells are repeated; the alignment of regions cannot be learned well. Take larger images "
                f"(--model.image_size), or fewer regions (--head.options.regions {max(2, side)})"
            )
            self._told_few_cells = True

    def _embedding(self, features: Features) -> Tensor:
        if features.embedding.shape[1]:
            return features.embedding
        deep: Tensor = features.maps[self.tap]
        return deep.mean((2, 3))

    def _plan(self, count: int, generator: np.random.Generator) -> Tensor:
        """Return where the regions of `count` images go, int64 (count, N, N)."""
        draw = sequential_plan if self.variant.released else jittered_plan
        return torch.from_numpy(draw(count, self.regions, self.neighbourhood, generator))

    @torch.no_grad()
    def _destroy(
        self, images: Tensor, target: Tensor, plan: Tensor | np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return whole and shuffled images in turn (2B, 3, S, S) and their target (2B,).

        `plan` is what `_plan` drew, or the generator to draw it with.
        """
        if len(images) != self.variant.views * len(target):
            raise ValueError(
                f"{len(target)} targets came with {len(images)} images; this head asked for "
                f"{self.variant.views} view(s) of each image"
            )
        whole, source = (images[0::2], images[1::2]) if self.variant.views == 2 else (images, images)
        if not isinstance(plan, Tensor):
            plan = to_device(self._plan(len(target), plan), images.device)
        shuffle = shuffle_regions_as_released if self.variant.released else shuffle_regions
        broken = shuffle(source.contiguous(memory_format=memory_format(images)), plan)
        self._shuffled = _Shuffled(self._law(whole, broken, plan), self._adversarial_target(target, plan))
        doubled = torch.stack([whole, broken], 1).flatten(0, 1)
        return doubled.contiguous(memory_format=memory_format(images)), target.repeat_interleave(2)

    def _law(self, whole: Tensor, broken: Tensor, plan: Tensor) -> Tensor:
        """Return the true places of the regions of whole and shuffled images in turn."""
        count, side = len(plan), self.regions
        own = torch.arange(side**2, device=plan.device).expand(count, -1)
        came_from = nearest_regions(broken, whole, side) if self.variant.released else plan.flatten(1)
        regions = torch.stack([own, came_from], 1).view(2 * count, 1, side, side)
        if self.variant.released:
            return (regions - side**2 // 2) / side**2
        return torch.cat([regions % side, regions // side], 1).float() + 1

    def _adversarial_target(self, target: Tensor, plan: Tensor) -> Tensor:
        """Return what whole and shuffled images are, in turn; some plans leave every region in place."""
        if self.variant.doubled:
            return torch.stack([target, target + self.num_classes], 1).flatten()
        in_place = torch.arange(self.regions**2, device=plan.device)
        still_whole = (plan.flatten(1) == in_place).all(1).to(target.dtype)
        return torch.stack([torch.ones_like(still_whole), still_whole], 1).flatten()


def _pool(maps: Tensor, regions: int) -> Tensor:
    """Return the means over N x N cells."""
    height, width = maps.shape[-2:]
    if height % regions or width % regions:
        return averaged(maps, (regions, regions))
    return F.avg_pool2d(maps, (height // regions, width // regions))


def _start_in_the_middle(construction: nn.Conv2d, regions: int) -> None:
    assert construction.bias is not None
    nn.init.normal_(construction.weight, std=0.01)
    nn.init.constant_(construction.bias, (regions + 1) / 2)


def _check_options(
    variant: str, regions: int, neighbourhood: int, alpha: float, beta: float, gamma: float
) -> None:
    if variant not in VARIANTS:
        raise UsageError(f"no variant of the dcl head is called {variant!r}; there is {', '.join(VARIANTS)}")
    check_plan(regions, neighbourhood, least=2 if VARIANTS[variant].released else 1)
    ratios = (beta / alpha, gamma / alpha) if 0 < alpha < math.inf else (math.nan, math.nan)
    if not all(0 <= ratio < math.inf for ratio in ratios):
        raise UsageError(
            "head.options.alpha must be positive, beta and gamma not negative, and all finite; "
            f"got {alpha}, {beta} and {gamma}"
        )
