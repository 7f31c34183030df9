"""State dicts of face networks that other programs wrote: which they are, and their names in ours.

A CLIP image tower (OpenAI's layout, which FaRL's files have) and ArcFace's residual and transformer networks
(InsightFace's layout) are known by the names of their tensors. Names are mapped one by one; what is left over
is listed and refused, unless it is to be dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from finetune.errors import ModelFileError, listing

Unmapped = Literal["refuse", "drop"]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """A way to name the tensors of a network.

    Args:
        name: in words.
        marks: patterns of names, each of which a file of this layout has.
        names: (pattern, name in our network) of every tensor that is read, tried in order.
        aside: patterns of names that belong to something else than the network, such as a text tower.
        fits: tensors -> the backbone that they are of; "" where no backbone is known.
    """

    name: str
    marks: tuple[str, ...]
    names: tuple[tuple[str, str], ...]
    aside: tuple[str, ...]
    fits: Callable[[Tensors], str]


@dataclass(frozen=True)
class Mapped:
    """A file's tensors by the names of our network, and what must be said of them.

    Args:
        tensors: to load.
        layout: the layout's name; "" for the names of timm.
        fits: the backbone that the tensors are of, as far as that is known.
        notes: sentences for the user.
    """

    tensors: dict[str, Tensor]
    layout: str = ""
    fits: str = ""
    notes: tuple[str, ...] = ()


def in_our_names(tensors: Tensors, file: object, unmapped: Unmapped = "refuse") -> Mapped:
    """Return a file's tensors by the names of the network that reads them.

    A file of no known layout comes back as it is: timm knows further ones.

    Args:
        tensors: of the file, by name.
        file: named in errors.
        unmapped: what is done with names that no rule knows.

    Raises ModelFileError, listing them, for unknown names in a file of a known layout where they are refused.
    """
    layout = layout_of(tensors)
    if layout is None:
        return Mapped(dict(tensors))
    mapped: dict[str, Tensor] = {}
    aside, unknown = [], []
    for name, value in tensors.items():
        ours = _renamed(name, layout)
        if ours is not None:
            mapped[ours] = _shaped(ours, value)
        elif any(re.match(pattern, name) for pattern in layout.aside):
            aside.append(name)
        else:
            unknown.append(name)
    if unknown and unmapped == "refuse":
        raise ModelFileError(
            f"{file} is of the layout {layout.name}, and {len(unknown)} of its {len(tensors)} tensors have "
            f"names that no rule knows:\n{listing(unknown, 20)}\n"
            "Say --model.unmapped drop to load it without them, where they are no part of the image network"
        )
    notes = [f"{file} is of the layout {layout.name}: {len(mapped)} tensors are read"]
    if aside:
        notes.append(f"{len(aside)} tensors beside the image network were left out, such as {aside[0]}")
    if unknown:
        notes.append(f"{len(unknown)} tensors of unknown names were dropped:\n{listing(unknown, 20)}")
    return Mapped(mapped, layout.name, layout.fits(tensors), tuple(notes))


def layout_of(tensors: Tensors) -> Layout | None:
    """Return the layout of these names; None for another one, timm's own included."""
    for layout in LAYOUTS:
        if all(any(re.match(mark, name) for name in tensors) for mark in layout.marks):
            return layout
    return None


def _renamed(name: str, layout: Layout) -> str | None:
    for pattern, ours in layout.names:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, ours, name)
    return None


def _shaped(name: str, value: Tensor) -> Tensor:
    """Return a token (D,) or a position table (N, D) with the axes that timm gives them."""
    if name == "cls_token":
        return value.reshape(1, 1, -1)
    return value.unsqueeze(0) if name == "pos_embed" and value.dim() == 2 else value


def _count(tensors: Tensors, pattern: str) -> int:
    """Return how many blocks there are whose number the pattern's group gives."""
    return 1 + max((int(found[1]) for name in tensors if (found := re.match(pattern, name))), default=-1)


def _clip_name(tensors: Tensors) -> str:
    """Return timm's image tower of this width, patch and depth, with the activation of CLIP."""
    patches = tensors["visual.conv1.weight"]
    depth = _count(tensors, r"visual\.transformer\.resblocks\.(\d+)\.")
    size = {768: "base", 1024: "large", 1280: "huge"}.get(patches.shape[0])
    usual = {"base": 12, "large": 24, "huge": 32}
    known = size is not None and usual[size] == depth
    return f"vit_{size}_patch{patches.shape[-1]}_clip_quickgelu_224" if known else ""


def _resnet_name(tensors: Tensors) -> str:
    blocks = [_count(tensors, rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
    depths = {"2,2,2,2": 18, "3,4,6,3": 34, "3,4,14,3": 50, "3,13,30,3": 100, "6,26,60,6": 200}
    depth = depths.get(",".join(map(str, blocks)))
    return f"iresnet{depth}" if depth else ""


def _face_vit_name(tensors: Tensors) -> str:
    depth = _count(tensors, r"blocks\.(\d+)\.")
    width = tensors["patch_embed.proj.weight"].shape[0]
    sizes = {(256, 12): "tiny", (512, 12): "small", (512, 24): "base", (768, 24): "large"}
    size = sizes.get((width, depth))
    return f"face_vit_{size}_patch9_112" if size else ""


_BLOCK = r"visual\.transformer\.resblocks\.(\d+)\."
_LEAF = r"(weight|bias)"
CLIP = Layout(
    "CLIP's image tower (FaRL's files are of it)",
    (r"visual\.class_embedding$", r"visual\.transformer\.resblocks\."),
    (
        (r"visual\.conv1\.weight", "patch_embed.proj.weight"),
        (r"visual\.class_embedding", "cls_token"),
        (r"visual\.positional_embedding", "pos_embed"),
        (rf"visual\.ln_pre\.{_LEAF}", r"norm_pre.\1"),
        (rf"visual\.ln_post\.{_LEAF}", r"norm.\1"),
        (rf"{_BLOCK}ln_([12])\.{_LEAF}", r"blocks.\1.norm\2.\3"),
        (rf"{_BLOCK}attn\.in_proj_{_LEAF}", r"blocks.\1.attn.qkv.\2"),
        (rf"{_BLOCK}attn\.out_proj\.{_LEAF}", r"blocks.\1.attn.proj.\2"),
        (rf"{_BLOCK}mlp\.c_fc\.{_LEAF}", r"blocks.\1.mlp.fc1.\2"),
        (rf"{_BLOCK}mlp\.c_proj\.{_LEAF}", r"blocks.\1.mlp.fc2.\2"),
    ),
    (
        r"visual\.proj$",  # into the space that images and texts share
        r"visual\.(mask_token$|ln_lm\.|lm_head\.|lm_transformer\.)",  # FaRL's guessing of masked patches
        r"(transformer\.|token_embedding\.|ln_final\.|positional_embedding$|text_projection$|logit_scale$)",
        r"(input_resolution|context_length|vocab_size)$",
    ),
    _clip_name,
)

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
FACE_RESNET = Layout(
    "ArcFace's residual network (InsightFace)",
    (r"layer1\.0\.prelu\.weight$", r"features\.running_mean$", r"fc\.weight$"),
    (
        (r"(conv1\.weight|prelu\.weight|fc\.weight|fc\.bias)", r"\1"),
        (rf"(bn[12]|features)\.{_NORM}", r"\1.\2"),
        (rf"(layer[1-4]\.\d+\.bn[123])\.{_NORM}", r"\1.\2"),
        (r"(layer[1-4]\.\d+\.(?:conv[12]|prelu)\.weight)", r"\1"),
        (r"(layer[1-4]\.\d+\.downsample\.0\.weight)", r"\1"),
        (rf"(layer[1-4]\.\d+\.downsample\.1)\.{_NORM}", r"\1.\2"),
    ),
    (),
    _resnet_name,
)
FACE_VIT = Layout(
    "ArcFace's vision transformer (InsightFace)",
    (r"feature\.0\.weight$", r"feature\.3\.running_mean$", r"blocks\.0\.attn\.qkv\.weight$", r"pos_embed$"),
    (
        (r"pos_embed", "pos_embed"),
        (rf"(patch_embed\.proj|norm|blocks\.\d+\.(?:norm[12]|attn\.proj|mlp\.fc[12]))\.{_LEAF}", r"\1.\2"),
        (r"(blocks\.\d+\.attn\.qkv\.weight)", r"\1"),
        (r"(feature\.[02]\.weight)", r"\1"),
        (rf"(feature\.[13])\.{_NORM}", r"\1.\2"),
    ),
    (r"mask_token$",),  # stands for hidden patches, in training alone
    _face_vit_name,
)
LAYOUTS = (CLIP, FACE_RESNET, FACE_VIT)
