"""Two backbones side by side: a head's usual features from the first, and one more map from the second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from finetune.errors import UsageError
from finetune.images.preprocess import PreprocessSpec
from finetune.models.backbone import FeatureBackbone, Features, Tap
from finetune.models.weights import WeightSource

SECOND: Tap = "second"  # the name of the second backbone's map


@dataclass(frozen=True)
class TwinWeights:
    """Where the weights of two backbones came from."""

    first: WeightSource
    second: WeightSource

    def to_dict(self) -> dict[str, Any]:
        """Return the first one's fields as a plain dict, and the second one's under "second"."""
        return {**self.first.to_dict(), "second": self.second.to_dict()}

    def describe(self) -> str:
        """Return one line for the user."""
        return f"{self.first.describe()}; second {self.second.describe()}"


class TwinBackbone(nn.Module):
    """What the first backbone gives, and the second one's map under the tap "second".

    It has the interface of a single backbone; `taps` are the first one's, `map_dims` and `map_strides` know
    both. The preprocessing is the first one's: where the second was pretrained with another mean and
    deviation, the images are turned into its own scale on the way, x_2 = (x_1 s_1 + m_1 - m_2) / s_2.

    Args:
        first: gives the embedding and the maps that the head reads.
        second: gives one map.

    Raises:
        UsageError: the second gives another number of maps than one, or the two were built for images of
            different size.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, first: FeatureBackbone, second: FeatureBackbone) -> None:
        super().__init__()
        if len(second.taps) != 1:
            raise UsageError(f"the second backbone gives one map, got taps {second.taps}")
        if first.image_size and second.image_size and first.image_size != second.image_size:
            raise UsageError(
                f"{first.name} was built for images of {first.image_size} px and {second.name} for "
                f"{second.image_size} px: give --model.image_size"
            )
        self.first, self.second = first, second
        (tap,) = second.taps
        self.taps = first.taps
        self.map_dims = {**first.map_dims, SECOND: second.map_dims[tap]}
        self.map_strides = {**first.map_strides, SECOND: second.map_strides[tap]}
        self.embedding_dim = first.embedding_dim
        self.image_size = first.image_size or second.image_size
        self.name = f"{first.name} and {second.name}"
        self.weights = TwinWeights(first.weights, second.weights)
        self.notes = [*first.notes, *second.notes]
        scale, shift = _rescaling(first.preprocess_spec(), second.preprocess_spec())
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    @property
    def model(self) -> Any:
        """The first backbone's timm model."""
        return self.first.model

    def forward(self, images: Tensor) -> Features:
        """Return the features of images (B, 3, S, S), normalised as the first backbone wants them."""
        found: Features = self.first(images)
        (second,) = self.second(images * self.scale + self.shift).maps.values()
        return Features(found.embedding, {**found.maps, SECOND: second})

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that either one's authors never decay."""
        parts = {"first": self.first, "second": self.second}
        return {f"{part}.{name}" for part, body in parts.items() for name in body.no_weight_decay()}

    def preprocess_spec(
        self,
        image_size: int | None = None,
        resize: Literal["warp", "short"] = "warp",
        resize_ratio: float | None = None,
    ) -> PreprocessSpec:
        """Return the first backbone's preprocessing."""
        return self.first.preprocess_spec(image_size or self.image_size, resize, resize_ratio)


def _rescaling(first: PreprocessSpec, second: PreprocessSpec) -> tuple[Tensor, Tensor]:
    """Return factor and summand (1, 3, 1, 1) from the first one's normalised images to the second one's."""
    means = [torch.tensor(spec.mean) for spec in (first, second)]
    stds = [torch.tensor(spec.std) for spec in (first, second)]
    scale, shift = stds[0] / stds[1], (means[0] - means[1]) / stds[1]
    return scale.view(1, 3, 1, 1), shift.view(1, 3, 1, 1)
