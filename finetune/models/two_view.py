"""Two looks at an image: the whole, and the region that the network's own activations point to."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.errors import UsageError
from finetune.images.preprocess import PreprocessSpec
from finetune.models.classifier import Classifier
from finetune.models.layers import as_maps, caught_output, last_layer


class TwoView(Classifier):
    """A classifier that looks twice: log((1 - s) p(whole) + s p(region)), for any head and backbone.

    The region needs no class and no training. With A the last feature map, each place has the energy
    e = ||A||_2 over the channels; of the places above `threshold` times the mean energy, the connected group
    with the greatest sum is taken, and the smallest square around it, at least `least_side` wide, is enlarged
    to the network's size by bilinear interpolation. Where every place has the same energy the region is the
    whole image.

    It stands in the place of the classifier in evaluation, and shares its weights; each prediction costs two
    passes.

    Args:
        core: the trained model.
        spec: its preprocessing.
        share: s, the weight of the region, in (0, 1).
        threshold: above 0; the greater, the smaller the region.
        least_side: of the image's side, in (0, 1].

    Raises UsageError for a value out of its range, and in `infer` for a model whose features have no places.

    Source: the averaged score of an image and of the object found in it, after Peng, He, Zhao, "Object-Part
    Attention Model for Fine-grained Image Classification", 2018, of whose several networks this keeps one;
    the energy above its mean, and its greatest connected group, after Wei, Luo, Wu, Zhou, "Selective
    Convolutional Descriptor Aggregation for Fine-Grained Image Retrieval", 2017. The square is our own.
    """

    def __init__(
        self,
        core: Classifier,
        spec: PreprocessSpec,
        *,
        share: float = 0.5,
        threshold: float = 1.0,
        least_side: float = 0.4,
    ) -> None:
        if not (0 < share < 1 and threshold > 0 and 0 < least_side <= 1):
            given = f"share {share}, threshold {threshold}, least_side {least_side}"
            raise UsageError(f"need 0 < share < 1, threshold > 0 and 0 < least_side <= 1; got {given}")
        super().__init__(core.backbone, core.head)
        self.size, self.share = spec.image_size, share
        self.threshold, self.least_side = threshold, least_side

    def infer(self, images: Tensor) -> Tensor:
        """Return the logarithms of the mean probabilities (B, K), whose softmax is the mean itself."""
        whole, squares = self.look(images)
        region = super().infer(self.cut(images, squares))
        probs = torch.lerp(whole.float().softmax(1), region.float().softmax(1), self.share)
        return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()

    def look(self, images: Tensor) -> tuple[Tensor, np.ndarray]:
        """Return the logits of the whole images (B, K), and the regions: left, top, side (B, 3) in 0-1."""
        model = self.backbone.model
        with caught_output(model.get_submodule(last_layer(model))) as caught:
            logits = super().infer(images)
        energy = as_maps(model, caught[0]).float().norm(dim=1).cpu().numpy()
        return logits, np.stack([square_around(each, self.threshold, self.least_side) for each in energy])

    def cut(self, images: Tensor, squares: np.ndarray) -> Tensor:
        """Return the squares of images (B, 3, S, S), enlarged to the network's size."""
        left, top, side = torch.from_numpy(squares).to(images.device, torch.float32).T
        nothing = torch.zeros_like(side)
        rows = [[side, nothing, 2 * left + side - 1], [nothing, side, 2 * top + side - 1]]
        theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
        grid = F.affine_grid(theta, [len(images), 3, self.size, self.size], align_corners=False)
        found = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        last = images.is_contiguous(memory_format=torch.channels_last)
        return found.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def square_around(energy: np.ndarray, threshold: float, least_side: float) -> np.ndarray:
    """Return the square (left, top, side), in 0-1, around the strongest connected group of a map (h, w).

    >>> square_around(np.array([[0.0, 0, 0, 0], [0, 9, 9, 0], [0, 9, 9, 0], [0, 0, 0, 5]]), 1.0, 0.1).tolist()
    [0.25, 0.25, 0.75]
    """
    height, width = energy.shape
    strong = (energy > threshold * energy.mean()).astype(np.uint8)
    count, labels = cv2.connectedComponents(strong, connectivity=8)
    if count == 1:
        return np.array([0.0, 0.0, 1.0])
    sums = [float(energy[labels == label].sum()) for label in range(1, count)]
    rows, columns = np.nonzero(labels == 1 + int(np.argmax(sums)))
    top, bottom = rows.min() / height, (rows.max() + 1) / height
    left, right = columns.min() / width, (columns.max() + 1) / width
    side = min(1.0, max(bottom - top, right - left, least_side))
    corner = np.array([(left + right - side) / 2, (top + bottom - side) / 2])
    return np.array([*np.clip(corner, 0.0, 1.0 - side), side])
