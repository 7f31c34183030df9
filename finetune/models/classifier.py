"""A backbone and a head together: the model that is trained, saved and exported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from finetune.errors import UsageError
from finetune.models.heads.base import Head, HeadOutput
from finetune.models.heads.registry import build_head, head_class

if TYPE_CHECKING:
    from finetune.models.backbone import FeatureBackbone, Features, Tap
    from finetune.models.twin_backbone import TwinBackbone
    from finetune.models.weight_layouts import Unmapped


class Classifier(nn.Module):
    """Normalised images (B, 3, S, S) to what the head makes of the backbone's features."""

    def __init__(self, backbone: FeatureBackbone | TwinBackbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.backbone_frozen = False

    def forward(self, images: Tensor | Features, target: Tensor | None = None) -> HeadOutput:
        """Return the head's output for training; `target` (B,) serves heads whose logits depend on it.

        Features that a frozen backbone made before may stand for the images.
        """
        features = self.backbone(images) if isinstance(images, Tensor) else images
        output: HeadOutput = self.head(features, target)
        return output

    def infer(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) to predict from."""
        return self.head.infer(self.backbone(images))

    def freeze_backbone(self, frozen: bool) -> None:
        """Stop or start the backbone's learning; frozen, it also stays in evaluation mode after `train()`."""
        self.backbone_frozen = frozen
        self.backbone.requires_grad_(not frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Classifier:
        """Set training mode for everything but a frozen backbone."""
        super().train(mode)
        if self.backbone_frozen:
            self.backbone.eval()
        return self


def build_classifier(
    backbone: str,
    head: str,
    num_classes: int,
    *,
    weights: str | Path = "pretrained",
    image_size: int | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    taps: Sequence[Tap] | None = None,
    head_options: dict[str, Any] | None = None,
    second: str = "",
    second_weights: str | Path = "pretrained",
    unmapped: Unmapped = "refuse",
) -> Classifier:
    """Return a classifier of `num_classes` from a backbone and a head by name.

    `weights`, `image_size` and the drop rates go to `finetune.models.backbone.build_backbone`, `head_options`
    to the head. `taps` are the feature maps that the head reads in place of its `default_taps`, as many as
    these. `second` names a further backbone, with weights of its own, for a head that reads its last map
    under the tap "second" (see `finetune.models.twin_backbone`). `unmapped` is as for `build_backbone`.

    Raises what `build_backbone` and `build_head` raise, and UsageError for another number of taps or for a
    head that does not read a second backbone.
    """
    from finetune.models.backbone import build_backbone
    from finetune.models.twin_backbone import TwinBackbone

    wanted = head_class(head)
    read = wanted.default_taps if taps is None else tuple(taps)
    if len(read) != len(wanted.default_taps):
        asked = ", ".join(map(str, read)) or "none"
        raise UsageError(
            f"the {head} head reads {len(wanted.default_taps)} feature maps (by default "
            f"{', '.join(map(str, wanted.default_taps)) or 'none'}); head.taps names {asked}"
        )
    body = build_backbone(
        backbone,
        weights,
        taps=read,
        embed=wanted.uses_embedding,
        image_size=image_size,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        unmapped=unmapped,
    )
    if not second:
        return Classifier(body, build_head(head, body, num_classes, **(head_options or {})))
    _check_reads_second(head, wanted)
    size = image_size or body.image_size
    other = build_backbone(
        second,
        second_weights,
        taps=("last",),
        embed=False,
        image_size=size,
        drop_path_rate=drop_path_rate,
        unmapped=unmapped,
    )
    twin = TwinBackbone(body, other)
    return Classifier(twin, build_head(head, twin, num_classes, **(head_options or {})))


def _check_reads_second(name: str, wanted: type[Head]) -> None:
    if not wanted.reads_second:
        raise UsageError(f"the {name} head reads one backbone, model.second names another: leave it out")


def unwrap(model: nn.Module) -> Any:
    """Return the model inside the wrappers of DistributedDataParallel and torch.compile."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(model, torch._dynamo.OptimizedModule):
            model = model._orig_mod
        else:
            return model


def num_parameters(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Return the number of parameters, or of those that learn."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether any layer normalises over the batch, and so cannot learn from one image at a time."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())
