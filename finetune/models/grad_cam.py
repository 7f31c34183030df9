"""Grad-CAM of a checkpoint: where a trained model found evidence for a class, on its last feature map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from finetune.errors import UsageError
from finetune.figures.evidence import evidence_map
from finetune.images.batches import normalise
from finetune.models.backbone import Features
from finetune.models.layers import as_maps, caught_output, last_layer

if TYPE_CHECKING:
    from finetune.images.preprocess import PreprocessSpec
    from finetune.models.classifier import Classifier


def grad_cam(core: Classifier, spec: PreprocessSpec, crop: np.ndarray, class_index: int) -> np.ndarray:
    """Return the evidence for a class over the crop, from the gradient of its logit on the last feature map.

    With A^k the map's channels and Z its places: ReLU(sum_k a_k A^k), a_k = 1/Z sum_ij dy_c / dA^k_ij
    (Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, 2017,
    Eqs. 1 and 2). Where the head is linear on the map's mean it is the class activation map, up to a factor.

    Where the head reads several maps it is the last one of its taps; what reaches the embedding through that
    map counts too. Of a transformer the tokens that enter the last block stand in for the map, the class
    token left out: behind that block a class token no longer listens to them.

    Args:
        core: the trained model; its mode, weights and gradients are left as they are.
        spec: its preprocessing.
        crop: uint8 (S, S, 3) RGB, S = spec.image_size.
        class_index: of the class to be explained.

    Returns:
        float32 (S, S) in 0-1: 1 is the strongest place of this crop, 0 is no evidence or evidence against.

    Raises:
        UsageError: another crop, a class that the model does not have, or features without places.
    """
    size = spec.image_size
    if crop.dtype != np.uint8 or crop.shape != (size, size, 3):
        raise UsageError(f"the crop must be uint8 ({size}, {size}, 3), got {crop.dtype} {crop.shape}")
    device = next(core.parameters()).device
    images = normalise(torch.from_numpy(np.ascontiguousarray(crop))[None].to(device), spec.mean, spec.std)
    with _evaluating(core), torch.enable_grad():
        features, logits, model = _last_features(core, images)
        if not 0 <= class_index < logits.shape[1]:
            raise UsageError(f"class_index must lie in 0..{logits.shape[1] - 1}, got {class_index}")
        (gradient,) = torch.autograd.grad(logits[0, class_index], features)
    channels, slopes = (as_maps(model, values.detach())[0] for values in (features, gradient))
    weights = slopes.mean(dim=(1, 2), keepdim=True)
    return evidence_map((weights * channels).sum(dim=0).cpu().numpy(), size)


@contextmanager
def _evaluating(core: Classifier) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode that it was in."""
    modes = {module: module.training for module in core.modules()}
    core.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _last_features(core: Classifier, images: Tensor) -> tuple[Tensor, Tensor, Any]:
    """Return the last features as a leaf of the graph, the logits (1, K), and the model in whose layout.

    The model is None for features that are channels first already.
    """
    backbone = core.backbone
    if backbone.taps and backbone.embedding_dim:
        return *_behind_last_tap(core, images), backbone.model
    if backbone.taps:
        maps = {tap: values.detach() for tap, values in backbone(images).maps.items()}
        deepest = maps[backbone.taps[-1]].requires_grad_()
        return deepest, core.head.infer(Features(images.new_zeros(1, 0), maps)), None
    with torch.no_grad():
        features = backbone.model.forward_features(images)
    if features.ndim == 3 and hasattr(backbone.model, "blocks"):
        return *_before_last_block(core, images), backbone.model
    features = features.detach().requires_grad_()
    embedding = backbone.model.forward_head(features, pre_logits=True)
    return features, core.head.infer(Features(embedding)), backbone.model


def _behind_last_tap(core: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output of the last tap's module as a leaf: the maps and the embedding both come from it."""
    model, leaves = core.backbone.model, []

    def begin_anew(output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0].clone()  # what follows may work in place

    stride = core.backbone.map_strides[core.backbone.taps[-1]]
    with caught_output(model.get_submodule(last_layer(model, stride)), begin_anew):
        logits = core.infer(images)
    if leaves[0].ndim == 3:
        return _before_last_block(core, images)
    return leaves[0], logits


def _before_last_block(core: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    caught: list[Tensor] = []

    def catch(_module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        caught.append(arguments[0].detach().requires_grad_())
        return (caught[0], *arguments[1:])

    handle = core.backbone.model.blocks[-1].register_forward_pre_hook(catch)
    try:
        logits = core.infer(images)
    finally:
        handle.remove()
    return caught[0], logits
