"""Which feature maps a timm model has, by stride in pixels and by place from the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from finetune.models.layers import find_module

# A stride in pixels, or a place counted from the end: "last", "last-1", "last-2", "last-3".
Tap = int | str
QUARTERS = 4  # a plain transformer's "last-1" is the block three quarters up, and so on


@dataclass(frozen=True)
class TapLayer:
    """A layer that a tap reads: its index among timm's feature maps, its channels and its stride (px)."""

    index: int
    channels: int
    stride: int


def layers_by_tap(model: Any) -> dict[Tap, TapLayer]:
    """Return every tap of a model, strides first: of several layers with one stride the deepest counts."""
    infos = model.feature_info if isinstance(model.feature_info, list) else model.feature_info.get_dicts()
    layers = [
        TapLayer(index, int(info["num_chs"]), int(info["reduction"])) for index, info in enumerate(infos)
    ]
    by_stride: dict[Tap, TapLayer] = {layer.stride: layer for layer in layers}
    made = [layer for layer in by_stride.values() if not _only_pools(model, infos[layer.index])]
    if len(by_stride) == 1:  # a plain transformer: no pyramid, so depth takes its place
        quarters = [len(layers) * part // QUARTERS for part in range(1, QUARTERS + 1)]
        made = [layers[end - 1] for end in quarters if end]
    names = ["last", *(f"last-{back}" for back in range(1, QUARTERS))]
    return by_stride | dict(zip(names, reversed(made), strict=False))


def _only_pools(model: Any, info: dict[str, Any]) -> bool:
    return isinstance(find_module(model, info["module"]), nn.MaxPool2d | nn.AvgPool2d)


def has_hidden_layers(model: Any) -> bool:
    """Return whether layers with weights stand between the pooled last map and the classifier (VGG's)."""
    hidden = getattr(model, "pre_logits", None)
    return isinstance(hidden, nn.Module) and any(True for _ in hidden.parameters())
