"""DFL-CNN: a bank of 1x1 filters per class that look for parts, beside the whole image's classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from finegrained.heads.dfl_init import DetectorInit, PeakVectors, class_filters
from finegrained.heads.pooling import check_weights
from finetune.cli.console import say
from finetune.errors import DataError, UsageError
from finetune.models.heads.base import Branch, FeatureDims, Head, HeadOutput, Hooks, HostModel, Pictures

if TYPE_CHECKING:
    from finetune.models.backbone import Features, Tap


class PartStream(nn.Module):
    """The P-stream and its side branch: K * k part detectors on one feature map.

    R = norm(conv6(F)), z_d = max over (y, x) of R_d
    part logits = W z + b, side logits_c = (1 / k) sum_j z_{c k + j}

    The filters are class-major: filter c k + j is detector j of class c. The maximum runs over whatever
    height and width the map has. The side branch has no weights: it makes class c's detectors answer to
    images of class c.

    Args:
        channels: C of the map.
        num_classes: K.
        detectors: k per class.
        filter_norm: "none", or "bn" for batch norm and ReLU behind the filters.
    """

    def __init__(self, channels: int, num_classes: int, detectors: int, filter_norm: str) -> None:
        super().__init__()
        self.num_classes, self.detectors = num_classes, detectors
        filters = num_classes * detectors
        self.conv6 = nn.Conv2d(channels, filters, 1, bias=False)
        self.norm = nn.Identity() if filter_norm == "none" else _norm_relu(filters)
        self.cls6 = nn.Linear(filters, num_classes)
        nn.init.kaiming_normal_(self.conv6.weight, nonlinearity="relu")
        _start_near_uniform(self.cls6)

    def responses(self, feature_map: Tensor) -> Tensor:
        """Return R (B, K k, h, w), every detector's response at every place of a map (B, C, h, w)."""
        answers: Tensor = self.norm(self.conv6(feature_map))
        return answers

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """Return the part logits and the side logits, each (B, K)."""
        strongest = self.responses(feature_map).amax((2, 3))
        side = strongest.view(-1, self.num_classes, self.detectors).mean(2)
        return self.cls6(strongest), side

    @torch.no_grad()
    def start_from(self, found: PeakVectors) -> list[int]:
        """Overwrite the filters with clustered peaks; return the classes that keep their random ones."""
        classes = range(self.num_classes)
        by_class = self.conv6.weight.view(self.num_classes, self.detectors, -1, 1, 1)
        filters = class_filters(found, classes)
        for index, values in filters.items():
            by_class[index] = torch.from_numpy(values)[:, :, None, None].to(by_class)
        return [index for index in classes if index not in filters]


class DflHead(Head):
    """The head of DFL-CNN: three classifiers, G (the whole image), P (parts) and its side branch.

    loss = L(g) + L(p) + w L(s), with w = 0.1; prediction = g + p + w s

    G is the main classifier, a linear layer on the embedding, which the rest of the backbone makes; where the
    backbone gives none (VGG) it reads the mean of the second map. P and the side branch ("part" and "side")
    read the first map, the filters' stem; see `PartStream`. All three say the image's class, and each takes
    the class loss unless `loss.branches` names another. `two_scale` adds "part2" and "side2" on the second
    map, with the same weights.

    Unless `init` is "random", `hooks().prepare` fills the filters from the training images (see
    `finegrained.heads.dfl_init.class_filters`) before the first step. It writes the filters and nothing else:
    no weight and no batch norm of the backbone changes. They are part of the checkpoint.

    Args:
        taps: the stem's map and the last one.
        channels: of these two maps.
        embedding_dim: D, 0 for a backbone without an embedding.
        num_classes: K.
        start: how the filters begin; holds k.
        init: "kmeans" or "random" (Kaiming-normal).
        filter_norm: "none", or "bn" for batch norm and ReLU behind the filters, as one public port has it. bn
            is the head's default option: without it the responses are as large as the backbone's
            activations, and at ordinary learning rates the part stream of a network without a last ReLU
            (EfficientNet) diverges.
        side_weight: w >= 0.
        two_scale: see above.

    Raises UsageError for an invalid value, and for more than 200 million parameters.

    Source: Wang, Morariu, Davis, "Learning a Discriminative Filter Bank within a CNN for Fine-grained
    Recognition", CVPR 2018. We depart from public code where it is at odds with the paper: logits of G pass
    no ReLU, so they may be negative; the maximum has no fixed kernel; new layers alone are initialised;
    and where an image is shown in several crops their probabilities are averaged, not their hits. No public
    code is known to reach the paper's score. Classifiers start as N(0, 0.01) with zero bias.
    """

    default_taps: ClassVar[tuple[Tap, ...]] = ("last-1", "last")
    uses_embedding: ClassVar[bool | Literal["pooled"]] = "pooled"

    def __init__(
        self,
        taps: tuple[Tap, Tap],
        channels: tuple[int, int],
        embedding_dim: int,
        num_classes: int,
        *,
        start: DetectorInit,
        init: str = "kmeans",
        filter_norm: str = "none",
        side_weight: float = 0.1,
        two_scale: bool = False,
    ) -> None:
        super().__init__()
        if init not in ("kmeans", "random") or filter_norm not in ("none", "bn"):
            raise UsageError(
                f"init must be kmeans or random, got {init!r}; filter_norm none or bn, got {filter_norm!r}"
            )
        if not 0 <= side_weight < float("inf"):
            raise UsageError(f"side_weight must be finite and not negative, got {side_weight}")
        read, filters = channels[: 2 if two_scale else 1], start.detectors * num_classes
        what = f"a dfl head of {start.detectors} detectors for each of {num_classes} classes"
        weights = filters * (sum(read) + len(read) * num_classes)
        check_weights(what, weights, "choose fewer --head.options.detectors, such as 10")
        self.taps, self.start, self.init = taps, start, init
        self.detectors, self.side_weight = start.detectors, side_weight
        self.reads_embedding = embedding_dim > 0
        self.cls5 = nn.Linear(embedding_dim or channels[1], num_classes)
        _start_near_uniform(self.cls5)
        self.streams = nn.ModuleList(
            PartStream(width, num_classes, start.detectors, filter_norm) for width in read
        )

    @classmethod
    def build(
        cls,
        backbone: FeatureDims,
        num_classes: int,
        *,
        detectors: int = 10,
        init: Literal["kmeans", "random"] = "kmeans",
        peaks: int = 10,
        nms: int = 3,
        normalise: bool = True,
        init_scale: Literal["kaiming", "raw"] = "kaiming",
        init_gain: float = 1.0,
        kmeans_seed: int = 0,
        filter_norm: Literal["none", "bn"] = "bn",
        side_weight: float = 0.1,
        two_scale: bool = False,
    ) -> Self:
        """Return the head that fits this backbone; UsageError unless it gives a stem's map and a deeper."""
        stem, last = _two_maps(backbone)
        return cls(
            (stem, last),
            (backbone.map_dims[stem], backbone.map_dims[last]),
            backbone.embedding_dim,
            num_classes,
            start=DetectorInit(detectors, peaks, nms, normalise, init_scale, init_gain, kmeans_seed),
            init=init,
            filter_norm=filter_norm,
            side_weight=side_weight,
            two_scale=two_scale,
        )

    @classmethod
    def branch_names(cls, **options: Any) -> tuple[str, ...]:
        """Return part and side, and with two_scale part2 and side2."""
        scales = ("", "2") if options["two_scale"] else ("",)
        return tuple(f"{branch}{scale}" for scale in scales for branch in ("part", "side"))

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:  # noqa: ARG002
        """Return the G-stream's logits and the branches of every part stream; the target is not looked at."""
        branches = {}
        for suffix, stream, tap in self._streams():
            part, side = stream(features.maps[tap])
            branches[f"part{suffix}"] = Branch(part)
            branches[f"side{suffix}"] = Branch(side, weight=self.side_weight)
        return HeadOutput(self._whole(features), branches)

    def infer(self, features: Features) -> Tensor:
        """Return g + p + side_weight * s, over both scales where there are two."""
        output = self(features)
        logits: Tensor = output.logits
        for branch in output.branches.values():
            logits = logits + branch.weight * branch.logits
        return logits

    def hooks(self) -> Hooks:
        """Return the filters' start from data, unless it is random."""
        return Hooks(prepare=self._prepare if self.init == "kmeans" else None)

    def explain(self, features: Features) -> Mapping[str, Tensor]:
        """Return "responses" (B, K k, h, w) of every detector, class-major, and "responses2" on two scales.

        `finegrained.figures.detectors` turns those of one image and one class into boxes.
        """
        return {
            f"responses{suffix}": stream.responses(features.maps[tap])
            for suffix, stream, tap in self._streams()
        }

    def _streams(self) -> Iterator[tuple[str, PartStream, Tap]]:
        """Go through the part streams: the suffix of its branches' names, itself, and the map it reads."""
        for suffix, stream, tap in zip(("", "2"), self.streams, self.taps, strict=False):
            assert isinstance(stream, PartStream)
            yield suffix, stream, tap

    def _whole(self, features: Features) -> Tensor:
        pooled = features.embedding if self.reads_embedding else features.maps[self.taps[1]].mean((2, 3))
        logits: Tensor = self.cls5(pooled)
        return logits

    def _prepare(self, core: HostModel, pictures: Pictures) -> None:
        """Fill every stream's filters from all training images, gone through once."""
        found = {tap: PeakVectors(self.start) for _, _, tap in self._streams()}
        seen = 0
        with _evaluating(core), torch.no_grad():
            for images, target in pictures:
                seen += len(images)
                features = core.backbone(images)
                for tap, vectors in found.items():
                    vectors.add(features.maps[tap], target)
        if not seen:
            raise DataError("the dfl head finds its detectors in training images, and there is none")
        for suffix, stream, tap in self._streams():
            random = stream.start_from(found[tap])
            told = f"part{suffix}: {self.detectors} detectors a class by k-means over {seen:,} images"
            say(
                f"{told}, for {len(random)} classes at random: nothing of theirs stands out"
                if random
                else told
            )


def _two_maps(backbone: FeatureDims) -> tuple[Tap, Tap]:
    """Return the taps of the stem and of the map behind it; UsageError where they are not two, in this order.

    A stride and a name may stand for one map. Two names with one stride are two maps (a plain transformer's),
    the one further back ("last-1" before "last") being the stem's.
    """
    if len(backbone.taps) != 2:
        raise UsageError(
            f"the dfl head reads two different maps, the stem's and the last; {backbone.name} gives "
            f"{', '.join(map(str, backbone.taps)) or 'none'}: give --head.taps, such as last-1 and last"
        )
    stem, last = backbone.taps
    strides = getattr(backbone, "map_strides", {})
    before, behind = strides.get(stem, 0), strides.get(last, 0)
    named = isinstance(stem, str) and isinstance(last, str)
    further_back = named and str(stem) > str(last)  # "last-2" > "last-1" > "last"
    if not (before < behind or (before == behind and further_back)):
        raise UsageError(
            f"the dfl head reads two different maps, the finer one (its stem) first; of {backbone.name} "
            f"{stem} has a stride of {strides.get(stem)} px and {last} one of {strides.get(last)} px: "
            "give --head.taps, such as last-1 and last"
        )
    return stem, last


@contextmanager
def _evaluating(core: HostModel) -> Iterator[None]:
    """Keep the backbone in evaluation mode, its batch norms as they are; put the mode back afterwards."""
    mode = core.training
    core.eval()
    try:
        yield
    finally:
        core.train(mode)


def _norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _start_near_uniform(layer: nn.Linear) -> None:
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
