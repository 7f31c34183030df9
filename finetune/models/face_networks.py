"""ArcFace's residual and transformer networks, which timm does not have, made known to it.

They are written from their description, so that weights of the public training programs fit. Images are 112
px, RGB, normalised to [-1, 1]; the embedding has 512 values, from a linear layer over all places of the last
map.
Sources: Deng, Guo, Xue, Zafeiriou, "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR
2019 (the residual network, section 3.1); Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

SIDE, EMBEDDING = 112, 512  # pixels, values
STAGES = (2, 4, 8, 16)  # strides of the four maps


def _face_cfg(first: str) -> dict[str, Any]:
    """Return what timm should know of such a network; nothing is published under its name."""
    return {
        "input_size": (3, SIDE, SIDE),
        "fixed_input_size": True,
        "num_classes": 0,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "first_conv": first,
        "classifier": "head",
    }


class FaceBlock(nn.Module):
    """Batch norm, convolution, batch norm, PReLU, convolution, batch norm, and the way around them."""

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.prelu = nn.PReLU(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.downsample: nn.Module | None = None
        if stride > 1 or inputs != planes:
            around = nn.Conv2d(inputs, planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(around, nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's map; `x` is (B, C, h, w)."""
        inner = self.conv1(self.bn1(x))
        inner = self.bn3(self.conv2(self.prelu(self.bn2(inner))))
        return torch.add(inner, x if self.downsample is None else self.downsample(x))


class FaceResNet(nn.Module):
    """ArcFace's residual network with what timm's networks offer: features, maps by stage, an embedding.

    Args:
        layers: blocks in each of the four stages.
        num_classes: of a classifier on the embedding; 0 has none.
        in_chans: channels of the images.
        img_size: side in pixels, a multiple of 16; the embedding's linear layer depends on it.
        width: channels of the first stage.
        embedding: values of the embedding.
        drop_rate: dropout before the embedding's linear layer.
    """

    def __init__(
        self,
        layers: Sequence[int],
        num_classes: int = 0,
        in_chans: int = 3,
        img_size: int | tuple[int, int] = SIDE,
        width: int = 64,
        embedding: int = EMBEDDING,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.embedding = num_classes, embedding
        self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        planes = [width * stride // 2 for stride in STAGES]
        sizes = zip([width, *planes], planes, layers, strict=False)
        for stage, (inputs, outputs, count) in enumerate(sizes, 1):
            more = [FaceBlock(outputs, outputs, 1) for _ in range(count - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(FaceBlock(inputs, outputs, 2), *more))
        self.bn2: nn.Module = nn.BatchNorm2d(planes[-1])
        self.dropout = nn.Dropout(drop_rate)
        side = img_size if isinstance(img_size, int) else img_size[0]
        self.fc: nn.Module = nn.Linear(planes[-1] * (side // STAGES[-1]) ** 2, embedding)
        self.features: nn.Module = nn.BatchNorm1d(embedding)
        self.head: nn.Module = nn.Linear(embedding, num_classes) if num_classes else nn.Identity()
        self.num_features, self.head_hidden_size = planes[-1], embedding
        self.feature_info = [
            {"num_chs": count, "reduction": stride, "module": f"layer{stage}"}
            for stage, (count, stride) in enumerate(zip(planes, STAGES, strict=True), 1)
        ]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: Sequence[int],
        norm: bool = False,  # noqa: ARG002
        output_fmt: str = "NCHW",  # noqa: ARG002
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the last map, normalised, and the maps of these stages, (B, C, h, w) each.

        The stages' own maps are given as they are: the last norm belongs to the embedding.
        """
        x = self.prelu(self.bn1(self.conv1(x)))
        maps = []
        for stage in range(len(STAGES)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
            if stage in indices:
                maps.append(x)
        return self.bn2(x), maps

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last map, normalised, (B, C, h, w)."""
        return self.forward_intermediates(x, ())[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the embedding of the last map, (B, embedding), or with a classifier its logits."""
        found: Tensor = self.features(self.fc(self.dropout(x.flatten(1))))
        return found if pre_logits else self.head(found)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedding of normalised images (B, 3, S, S), or with a classifier its logits."""
        return self.forward_head(self.forward_features(x))

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:  # noqa: ARG002
        """Give the network another classifier; 0 takes it away."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.embedding, num_classes) if num_classes else nn.Identity()

    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return self.head

    def prune_intermediate_layers(
        self,
        indices: Sequence[int],
        prune_norm: bool = False,  # noqa: ARG002
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the stages behind the deepest of these, and the embedding's layers."""
        for stage in range(max(indices) + 1, len(STAGES)):
            setattr(self, f"layer{stage + 1}", nn.Identity())
        if prune_head:
            self.bn2 = self.fc = self.features = nn.Identity()
            self.reset_classifier(0)
        return list(indices)


class FaceVit(VisionTransformer):  # type: ignore[misc]
    """ArcFace's vision transformer: no class token; the embedding is two linear layers over all tokens.

    Patches of 9 px cover 108 of 112 px: the last four rows and columns are not seen, as in training.

    Args:
        embedding: values of the embedding.
        options: of timm's transformer.
    """

    def __init__(self, embedding: int = EMBEDDING, **options: Any) -> None:
        norm = partial(nn.LayerNorm, eps=1e-5)
        kept = {"class_token": False, "global_pool": "", "qkv_bias": False, "act_layer": nn.ReLU6}
        super().__init__(**{"norm_layer": norm, **kept, **options})
        self.patch_embed.drops_rest = True  # known and meant, see above
        width = self.embed_dim
        self.feature: nn.Module = nn.Sequential(
            nn.Linear(width * self.patch_embed.num_patches, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, embedding, bias=False),
            nn.BatchNorm1d(embedding, eps=2e-5),
        )
        self.head = nn.Linear(embedding, self.num_classes) if self.num_classes else nn.Identity()
        self.head_hidden_size = embedding

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the embedding of the tokens (B, N, D), (B, embedding), or with a classifier its logits."""
        found: Tensor = self.feature(x.flatten(1))
        return found if pre_logits else self.head(found)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:  # noqa: ARG002
        """Give the network another classifier; 0 takes it away."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def prune_intermediate_layers(
        self, indices: Any = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the blocks behind the deepest of these, and the embedding's layers."""
        kept: list[int] = super().prune_intermediate_layers(indices, prune_norm, prune_head=False)
        if prune_head:
            self.feature = nn.Identity()
            self.reset_classifier(0)
        return kept


# Blocks in each stage; width and depth.
RESIDUAL = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}
TRANSFORMERS = {"tiny": (256, 12), "small": (512, 12), "base": (512, 24), "large": (768, 24)}


def _entry(name: str, network: type[nn.Module], own: Mapping[str, Any]) -> Callable[..., Any]:
    """Return the function by which timm builds a network of this name."""

    def build(pretrained: bool = False, **options: Any) -> Any:
        return build_model_with_cfg(network, name, pretrained, **{**own, **options})

    build.__name__ = build.__qualname__ = name
    return build


def _networks() -> dict[str, tuple[type[nn.Module], str, dict[str, Any]]]:
    """Return every network by its name: its class, its first layer, and its size."""
    found: dict[str, tuple[type[nn.Module], str, dict[str, Any]]] = {}
    for depth, layers in RESIDUAL.items():
        found[f"iresnet{depth}"] = (FaceResNet, "conv1", {"layers": layers})
    for size, (width, blocks) in TRANSFORMERS.items():
        own = {"img_size": SIDE, "patch_size": 9, "embed_dim": width, "depth": blocks, "num_heads": 8}
        found[f"face_vit_{size}_patch9_112"] = (FaceVit, "patch_embed.proj", own)
    return found


# timm reads this when a name is registered.
default_cfgs = generate_default_cfgs({name: _face_cfg(first) for name, (_, first, _) in _networks().items()})
for _name, (_network, _, _own) in _networks().items():
    register_model(_entry(_name, _network, _own))
