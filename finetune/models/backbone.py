"""Any timm classification model as a source of features: one embedding, and feature maps by stride."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import timm
from timm.layers import DropPath, PatchEmbed
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

import finetune.models.face_networks  # noqa: F401  # makes them known to timm
from finetune.errors import ModelFileError, UsageError
from finetune.models.taps import Tap, has_hidden_layers, layers_by_tap
from finetune.models.tensor_files import read_tensors
from finetune.models.weight_layouts import Mapped, Unmapped, in_our_names
from finetune.models.weights import Published, WeightSource, locate_weights

if TYPE_CHECKING:
    from finetune.images.preprocess import PreprocessSpec


@dataclass(frozen=True)
class Features:
    """What a backbone gives a head.

    `embedding` (B, D) is the model's own pooled vector, the one its pretrained classifier reads; `maps` holds
    the asked-for feature maps (B, C, h, w) by tap, in the order they were asked for, always channels first.
    """

    embedding: Tensor
    maps: dict[Tap, Tensor] = field(default_factory=dict)


class FeatureBackbone(nn.Module):
    """A timm model without its classifier.

    A tap is a stride in pixels, or a place counted from the end. Of several layers with one stride the
    deepest is read. "last" is the deepest map that more than pooling made: ResNet's layer4, VGG's relu5_3
    before pool5 (stride 16; pool5 itself is stride 32), EfficientNet's last stage before its head's
    convolution. "last-1", "last-2" and "last-3" are the next larger maps: ResNet's layer3, VGG's relu4_3. In
    a plain ViT, whose blocks all have its patch size as stride, "last" and the stride are its last tokens as
    a grid and "last-1" is the block three quarters up; all tapped tokens pass the final norm.

    Args:
        model: the timm model, its classifier already removed.
        name: timm's name of it.
        weights: where its weights came from.
        taps: which maps `forward` returns, as strides or places from the end, in this order.
        embed: False drops the pooling layers behind the deepest tap (VGG's hold 119 million parameters) and
            leaves the embedding empty, for heads that read maps only; "pooled" does so only where timm's
            `pre_logits` holds hidden layers, as in VGG, and keeps every other embedding: the mean of
            ResNet's last map, but also what EfficientNet and MobileNet-V3 make with a convolution before
            or behind the pooling.
        image_size: side in pixels the model was built for, where the model fixes one.
        notes: sentences for the user.

    Raises UsageError for a tap the model does not have, listing those it has.
    """

    def __init__(
        self,
        model: Any,
        name: str,
        weights: WeightSource,
        *,
        taps: Sequence[Tap] = (),
        embed: bool | Literal["pooled"] = True,
        image_size: int | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        layers = layers_by_tap(model)
        unknown = [tap for tap in taps if tap not in layers]
        if unknown or not (taps or embed):
            strides = ", ".join(str(tap) for tap in layers if isinstance(tap, int))
            places = ", ".join(str(tap) for tap in layers if isinstance(tap, str))
            asked = ", ".join(map(str, taps)) or "nothing at all"
            raise UsageError(
                f"{name} has feature maps of stride {strides}, also called {places}; asked for {asked}"
            )
        if embed == "pooled":
            embed = not has_hidden_layers(model)
        self.model: Any = model
        self.name = name
        self.weights = weights
        self.notes = list(notes)
        self.taps = tuple(dict.fromkeys(taps))
        self.image_size = image_size
        self.map_dims = {tap: layers[tap].channels for tap in self.taps}
        self.map_strides = {tap: layers[tap].stride for tap in self.taps}
        self.embedding_dim = int(model.head_hidden_size) if embed else 0
        self._indices = sorted({layers[tap].index for tap in self.taps})
        self._places = {tap: self._indices.index(layers[tap].index) for tap in self.taps}
        if not embed:
            model.prune_intermediate_layers(self._indices, prune_norm=False, prune_head=True)

    def forward(self, images: Tensor) -> Features:
        """Return the features of normalised images (B, 3, S, S)."""
        if not self.taps:
            return Features(self.model.forward_head(self.model.forward_features(images), pre_logits=True))
        final, maps = self.model.forward_intermediates(
            images, indices=self._indices, norm=True, output_fmt="NCHW"
        )
        by_tap = {tap: maps[place] for tap, place in self._places.items()}
        if not self.embedding_dim:
            return Features(images.new_zeros(images.shape[0], 0), by_tap)
        return Features(self.model.forward_head(final, pre_logits=True), by_tap)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that the authors never decay (position tables, tokens)."""
        if not hasattr(self.model, "no_weight_decay"):
            return set()
        return {f"model.{name}" for name in self.model.no_weight_decay()}

    def preprocess_spec(
        self,
        image_size: int | None = None,
        resize: Literal["warp", "short"] = "warp",
        resize_ratio: float | None = None,
    ) -> PreprocessSpec:
        """Return the preprocessing that the pretrained weights expect.

        `image_size` (pixels) defaults to the pretrained one, `resize_ratio` (resized side over image_size) to
        1 / crop_pct of the pretrained configuration; mean, std and interpolation are the configuration's.

        Raises UsageError for another size than the one a fixed-size model was built for, and for a size that
        is no multiple of the patches that a transformer cuts images into.
        """
        from finetune.images.preprocess import PreprocessSpec

        config = self.model.pretrained_cfg
        size = image_size or self.image_size or int(config["input_size"][-1])
        if self.image_size and size != self.image_size:
            raise UsageError(
                f"{self.name} was built for images of {self.image_size} px and cannot read {size} px; "
                "give image_size when building it"
            )
        _check_patches(self.name, self.model, size)
        ratio = resize_ratio or 1 / config["crop_pct"]
        return PreprocessSpec(
            image_size=size,
            resize=resize,
            resize_size=round(size * ratio),
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )


def build_backbone(
    name: str,
    weights: str | Path = "pretrained",
    *,
    taps: Sequence[Tap] = (),
    embed: bool | Literal["pooled"] = True,
    image_size: int | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    unmapped: Unmapped = "refuse",
) -> FeatureBackbone:
    """Return the timm model `name` (with or without a pretrained tag) as a feature backbone.

    `weights` is "pretrained", "none", or a weights file or a folder holding one (see
    `finetune.models.weights.locate_weights`). Every tensor but the classifier's must fit. `image_size`
    (pixels) is needed only by models that fix their input size (ViT, Swin); position tables are resampled to
    it. `drop_rate` acts on the embedding, `drop_path_rate` is stochastic depth; both lie in [0, 1).
    `unmapped` says what becomes of tensors of a face network's file that no rule knows
    (`finetune.models.weight_layouts`).

    Raises UsageError for an unknown name (with near ones) or an option the model does not take, and
    ModelFileError for weights that are missing, unsafe, damaged or of another model.
    """
    config = _pretrained_config(name)
    options: dict[str, Any] = {"drop_rate": drop_rate} if drop_rate else {}
    if drop_path_rate:
        options["drop_path_rate"] = drop_path_rate
    side = (image_size or int(config.input_size[-1])) if config.fixed_input_size else None
    if side:
        options["img_size"] = side
    notes: list[str] = []
    if str(weights) == "none":
        source = WeightSource("none")
        model = _create(name, options, num_classes=0)
    else:
        source = locate_weights(weights, published_weights(name))
        file = Path(source.location)
        mapped = in_our_names(read_tensors(file), file, unmapped)
        model, classes = _create_with_weights(name, config, mapped, file, options)
        model.reset_classifier(0)
        source = replace(source, layout=mapped.layout)
        notes += mapped.notes
        if classes:
            notes.append(
                f"the {classes}-class classifier of {source.location} was left out: the head starts again"
            )
    model.pretrained_cfg = model.default_cfg = config.to_dict()
    return FeatureBackbone(model, name, source, taps=taps, embed=embed, image_size=side, notes=notes)


def _check_patches(name: str, model: nn.Module, size: int) -> None:
    """Raise UsageError where the patches of a transformer do not cover images of `size` px whole.

    timm leaves the pixels behind the last whole patch out without a word, unless the model pads.
    """
    for layer in model.modules():
        if not isinstance(layer, PatchEmbed) or getattr(layer, "dynamic_img_pad", False):
            continue
        if getattr(layer, "drops_rest", False):  # trained so
            continue
        patch = int(max(layer.patch_size))
        if size % patch:
            below, above = size // patch * patch, (size // patch + 1) * patch
            near = f"{below} or {above}" if below else str(above)
            raise UsageError(
                f"{name} cuts images into patches of {patch} px, and {size} px is no multiple of that: the "
                f"last {size % patch} px would never be seen; give an image size of {near}"
            )


def build_trunk(
    name: str, channels: int, image_size: int, options: Mapping[str, Any] | None = None
) -> tuple[Any, int]:
    """Return a timm model with new weights and no classifier, images (B, C, S, S) -> (B, D), and D.

    For studies that train from nothing; stochastic depth is off whatever the model's default.

    Args:
        name: timm's name of the model.
        channels: C of the images.
        image_size: S in pixels, read only where the model fixes its input size.
        options: what timm's constructor of the model takes besides.

    Raises UsageError for an unknown name, options that the model does not take, or a size that its patches do
    not cover.

    >>> build_trunk("resnet18", 3, 32)[1]
    512
    """
    size = {"img_size": image_size} if _pretrained_config(name).fixed_input_size else {}
    model = _create(name, size | dict(options or {}), num_classes=0, in_chans=channels)
    _check_patches(name, model, image_size)
    for layer in model.modules():
        if isinstance(layer, DropPath):
            layer.drop_prob = 0.0
    return model, int(model.head_hidden_size)


def published_weights(name: str) -> Published:
    """Return where the pretrained weights of a timm model are kept; UsageError for an unknown name."""
    config = _pretrained_config(name)
    return Published(
        name.partition(".")[0],
        config.tag or "",
        config.hf_hub_id,
        config.url or None,
        config.license or "unknown",
    )


def _pretrained_config(name: str) -> Any:
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        raise UsageError(f"no timm model is called {model!r}; {hint}")
    known = [full.partition(".")[2] for full in timm.list_pretrained(f"{model}.*")]
    if tag and tag not in known:
        raise UsageError(f"{model} has no pretrained tag {tag!r}; it has {', '.join(known) or 'none'}")
    return get_pretrained_cfg(name)


def _create(name: str, options: dict[str, Any], **more: Any) -> Any:
    try:
        return timm.create_model(name, **options, **more)
    except TypeError as error:
        raise UsageError(f"{name} does not take one of the options {', '.join(options)}: {error}") from None
    except AssertionError as error:  # what timm asserts of a model's size
        size = f" of images of {options['img_size']} px" if "img_size" in options else ""
        raise UsageError(f"{name} cannot be built{size}: {str(error) or 'its patches do not fit'}") from None


def _create_with_weights(
    name: str, config: Any, mapped: Mapped, file: Path, options: dict[str, Any]
) -> tuple[Any, int]:
    """Return the model holding every tensor of the file, and the number of classes the file's classifier has.

    timm's own conversions of older layouts run on the way. The classifier's width is read off the file; where
    it goes by another name the published width is tried, then none.
    """
    tensors = mapped.tensors
    names = config.classifier if isinstance(config.classifier, str) else (config.classifier or ("",))[0]
    classifier = tensors.get(f"{names}.weight")
    widths = [len(classifier)] if classifier is not None else [config.num_classes, 0]
    refusals = []
    for width in widths:
        overlay = {"state_dict": dict(tensors), "num_classes": width, "label_offset": 0, "custom_load": False}
        try:
            model = _create(name, options, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=width)
        except (RuntimeError, KeyError, ValueError) as error:
            refusals.append(_shorten(str(error)))
            continue
        return model, width
    told = f"; these are of --model.backbone {mapped.fits}" if mapped.fits not in ("", name) else ""
    raise ModelFileError(f"{file} does not hold the weights of {name}{told}:\n  {refusals[0]}")


def _shorten(message: str, limit: int = 400) -> str:
    text = " ".join(message.split())
    return text if len(text) <= limit else f"{text[:limit]}..."


__all__ = [
    "FeatureBackbone",
    "Features",
    "Tap",
    "WeightSource",
    "build_backbone",
    "build_trunk",
    "published_weights",
]
