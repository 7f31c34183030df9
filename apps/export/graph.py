"""The computation that an .onnx file holds: uint8 images in, logits, probabilities and class maps out.

The reference of every export check is this very graph in eager float32; a test holds it to what training's
own evaluation computes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from finetune.images.preprocess import PreprocessSpec
from finetune.metrics.calibration import Scaling
from finetune.models.backbone import Features
from finetune.models.classifier import Classifier
from finetune.models.heads.base import Head
from finetune.models.heads.linear import LinearHead

# Where the channels lie in a final feature map: its averaged axes, and the sum W.feature_map over channels.
MAP_LAYOUTS = {"NCHW": ((2, 3), "kd,ndhw->nkhw"), "NHWC": ((1, 2), "kd,nhwd->nkhw")}
MAP_TOLERANCE = 1e-4
HEAD_PART = "head_part"


class HeadPart(nn.Module):
    """A head's way from features to logits as a module of its own, by which its nodes are told apart."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Features) -> Tensor:
        """Return the logits (N, K) to predict from."""
        return self.head.infer(features)


class ExportGraph(nn.Module):
    """A classifier from prepared images, uint8 (N, S, S, 3) RGB, to (logits, probs[, cams]).

    `probs` is softmax(logits), or what a calibration makes of the logits, which stay as they are.

    `logits` and `probs` are (N, K), `cams` (N, K, h, w): the class activation maps W.feature_map, whose mean
    over h and w, plus the bias, is the logit (Zhou et al., Learning Deep Features for Discriminative
    Localization, 2016, eq. 2).

    Args:
        core: the trained classifier; it is put into evaluation mode.
        spec: its preprocessing, of which the graph does the scaling.
        layout: of the final feature map, NCHW or NHWC, where cams are wanted; see `find_map_layout`.
        scaling: of the logits before softmax; None for none.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        core: Classifier,
        spec: PreprocessSpec,
        layout: str | None = None,
        scaling: Scaling | None = None,
    ) -> None:
        super().__init__()
        self.scaling = scaling
        self.core = core.requires_grad_(False)
        self.layout = layout
        self.head_part = None if layout or isinstance(core.head, LinearHead) else HeadPart(core.head)
        # The same two float32 numbers a channel as in training: (x - 255 mean) * 1 / (255 std).
        centre = torch.tensor(spec.mean, dtype=torch.float32).mul_(255)
        scale = torch.tensor(spec.std, dtype=torch.float32).mul_(255).reciprocal_()
        self.register_buffer("centre", centre[:, None, None], persistent=False)
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return (logits, probs) or (logits, probs, cams), float32, for uint8 (N, S, S, 3)."""
        return self.answer(self.scaled(images))

    def scaled(self, images: Tensor) -> Tensor:
        """Return normalised planes, float32 (N, 3, S, S)."""
        # Planes first: the runtime scales whole planes thirty times faster than pixels of three.
        planes = images.permute(0, 3, 1, 2).to(torch.float32)
        return ((planes - self.centre) * self.scale).contiguous()

    def answer(self, planes: Tensor) -> tuple[Tensor, ...]:
        """Return what `forward` returns, from normalised planes."""
        if self.layout is None:
            part = self.head_part
            logits = self.core.infer(planes) if part is None else part(self.core.backbone(planes))
            return logits, self.calibrated(logits).softmax(1)
        classifier = cast(nn.Linear, self.core.head.map_classifier())
        feature_map, pooled = last_map(self.core, planes)
        logits = classifier(pooled)
        cams = torch.einsum(MAP_LAYOUTS[self.layout][1], classifier.weight, feature_map)
        return logits, self.calibrated(logits).softmax(1), cams

    def calibrated(self, logits: Tensor) -> Tensor:
        """Return the logits whose softmax is `probs`: logits / T, or a * log_softmax(logits) + b."""
        if self.scaling is None:
            return logits
        if self.scaling.temperature is not None:
            return logits / self.scaling.temperature
        scale, shift = (
            torch.tensor(values, dtype=torch.float32) for values in (self.scaling.scale, self.scaling.shift)
        )
        return logits.log_softmax(1) * scale + shift

    @property
    def output_names(self) -> list[str]:
        """The outputs' names, in order."""
        return ["logits", "probs", *(["cams"] if self.layout else [])]


class EnsembleGraph(nn.Module):
    """Several classifiers as one: probs is the mean of the members' probabilities, logits its logarithm.

    `cams` is the mean of the members' maps, where every member has them.

    Args:
        members: graphs with the same preprocessing and the same classes.
    """

    def __init__(self, members: Sequence[ExportGraph]) -> None:
        super().__init__()
        layouts = {member.layout for member in members}
        if len(layouts) > 1:
            raise ValueError(f"the members' maps differ in layout: {layouts}")
        self.members = nn.ModuleList(members)
        self.output_names = members[0].output_names
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return (logits, probs) or (logits, probs, cams), float32, for uint8 (N, S, S, 3)."""
        members = cast("Sequence[ExportGraph]", self.members)
        planes = members[0].scaled(images)
        found = [member.answer(planes) for member in members]
        # Not log(mean): a probability of zero in float32 still has a finite logarithm here.
        own = [member.calibrated(answer[0]) for member, answer in zip(members, found, strict=True)]
        logs = torch.stack([logits.log_softmax(1) for logits in own]).logsumexp(0)
        probs = torch.stack([answer[1] for answer in found]).mean(0)
        maps = [torch.stack([answer[2] for answer in found]).mean(0)] if len(found[0]) > 2 else []
        return logs - math.log(len(found)), probs, *maps


def last_map(core: Classifier, planes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the map that the backbone pools, in its own layout, and the pooled vector (N, D).

    Where the backbone gives no embedding that is the last tapped map and its mean.
    """
    backbone = core.backbone
    if backbone.embedding_dim:
        feature_map = backbone.model.forward_features(planes)
        return feature_map, backbone.model.forward_head(feature_map, pre_logits=True)
    deepest = backbone(planes).maps[backbone.taps[-1]]
    return deepest, deepest.mean((2, 3))


def find_map_layout(core: Classifier, spec: PreprocessSpec, pictures: Tensor) -> str | None:
    """Return the layout of a feature map whose class activation maps explain the logits; None without one.

    That needs a head that names the linear layer by which it predicts (`Head.map_classifier`), on the plain
    mean of the backbone's last map. It is asked of the numbers, not of names: on `pictures`, uint8 (N, S, S,
    3), the mean of the maps plus the bias, and the layer on the pooled vector, must both be the logits,
    within 1e-4 of the largest.
    """
    classifier = core.head.map_classifier()
    if classifier is None:
        return None
    with torch.no_grad():
        planes = ExportGraph(core, spec).scaled(pictures)
        logits = core.infer(planes)
        feature_map, pooled = last_map(core, planes)
        bias = 0.0 if classifier.bias is None else classifier.bias
        allowed = MAP_TOLERANCE * float(logits.abs().max())
        if pooled.shape[1] != classifier.in_features or _apart(classifier(pooled), logits) > allowed:
            return None
        for layout, (axes, product) in MAP_LAYOUTS.items():
            channels = next(axis for axis in (1, 2, 3) if axis not in axes)
            if feature_map.ndim != 4 or feature_map.shape[channels] != classifier.in_features:
                continue
            explained = torch.einsum(product, classifier.weight, feature_map).mean((2, 3)) + bias
            if _apart(explained, logits) <= allowed:
                return layout
    return None


def _apart(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


def build_graph(
    cores: Sequence[Classifier], spec: PreprocessSpec, pictures: Tensor, scaling: Scaling | None = None
) -> ExportGraph | EnsembleGraph:
    """Return the graph of one classifier, or the average of several, with class maps where all have them.

    `pictures`, uint8 (N, S, S, 3), are what `find_map_layout` asks. The `scaling` makes every member's
    probabilities, before their average.
    """
    layouts = {find_map_layout(core, spec, pictures) for core in cores}
    layout = layouts.pop() if len(layouts) == 1 else None
    graphs = [ExportGraph(core, spec, layout, scaling) for core in cores]
    return graphs[0] if len(graphs) == 1 else EnsembleGraph(graphs)
