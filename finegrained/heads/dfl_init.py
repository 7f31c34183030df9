"""Part detectors from data: the strongest places of every class's training images, clustered."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn's own dependency
from torch import Tensor
from torch.nn import functional as F

from finetune.errors import UsageError
from finetune.seeding import derive_seed, numpy_generator

VECTORS_PER_CLASS = 2000  # memory: 8 MB a class at 1024 channels, while clustering gains nothing from more
RESTARTS = 3  # of k-means; the tightest clustering counts
DECIMALS = 5  # unit vectors that agree to so many decimals are one vector
NOISE = 0.01  # length of what is added to a repeated filter, relative to the filter's own


@dataclass(frozen=True)
class DetectorInit:
    """How class-specific detectors are found; `class_filters` says what each step does.

    Args:
        detectors: k, filters per class, at least 1.
        peaks: places kept of one image, at least 1.
        nms: side of the window (cells of the map) in which only the strongest place is kept, odd.
        normalise: bring every vector to length one before clustering, so that clusters differ in what a place
            shows and not in how strongly.
        scale: "kaiming" gives every filter the length gain * sqrt(2 / C); "raw" leaves the centres as they
            are.
        gain: see `scale`, above 0.
        seed: of k-means, of the noise and of the sample of a large class.

    Raises UsageError that lists every invalid value.
    """

    detectors: int = 10
    peaks: int = 10
    nms: int = 3
    normalise: bool = True
    scale: Literal["kaiming", "raw"] = "kaiming"
    gain: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        rules = [
            (self.detectors >= 1, f"detectors must be at least 1, got {self.detectors}"),
            (self.peaks >= 1, f"peaks must be at least 1, got {self.peaks}"),
            (self.nms >= 1 and self.nms % 2 == 1, f"nms must be odd and at least 1, got {self.nms}"),
            (0 < self.gain < math.inf, f"init_gain must be positive and finite, got {self.gain}"),
            (self.seed >= 0, f"kmeans_seed must not be negative, got {self.seed}"),
        ]
        broken = [told for holds, told in rules if not holds]
        if broken:
            raise UsageError(f"the detectors' start is invalid: {'; '.join(broken)}")


def peak_cells(maps: Tensor, peaks: int, nms: int) -> Tensor:
    """Return which places of each map are its strongest local maxima.

    e(y, x) = ||F[:, y, x]||_2; a place is kept when no other in the nms x nms window around it has more, the
    strongest `peaks` of an image in turn, each closing its window to the later ones. So of places with equal
    energy the first in reading order stays, and an even wall does not fill the list.

    Args:
        maps: F (B, C, h, w), any float type.
        peaks: >= 1, at most so many places of an image; there may be fewer.
        nms: odd, side of the window in cells.

    Returns:
        bool (B, h, w). Places without energy, or whose energy is not finite, are never kept.
    """
    energy = torch.linalg.vector_norm(maps.float(), dim=1)
    free = (energy == _window_maximum(energy, nms)) & (energy > 0) & energy.isfinite()
    kept = torch.zeros_like(free)
    for _ in range(peaks):
        best = torch.where(free, energy, -1.0).flatten(1).argmax(1)
        chosen = F.one_hot(best, energy[0].numel()).view_as(free).bool() & free
        kept |= chosen
        free = free & (_window_maximum(chosen.float(), nms) == 0)
    return kept


def _window_maximum(values: Tensor, side: int) -> Tensor:
    return F.max_pool2d(values[:, None], side, stride=1, padding=side // 2)[:, 0]


class PeakVectors:
    """The vectors at the strongest places, by class; of a large class a uniform sample.

    Args:
        start: `peaks`, `nms`, `normalise` and `seed` of it are read.
        limit: vectors kept of a class; which ones depends on the seed and their order alone.
    """

    def __init__(self, start: DetectorInit, limit: int = VECTORS_PER_CLASS) -> None:
        self.start, self.limit = start, limit
        self._generator = numpy_generator(start.seed, "sample")
        self._piles: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(self, maps: Tensor, target: Tensor) -> None:
        """Take the peaks of a batch: maps (B, C, h, w) and classes int64 (B,)."""
        kept = peak_cells(maps, self.start.peaks, self.start.nms)
        vectors = maps.permute(0, 2, 3, 1)[kept].float()
        if self.start.normalise:
            vectors = F.normalize(vectors, dim=1)
        classes = target.to(kept.device)[kept.nonzero()[:, 0]].cpu().numpy()
        self._extend(vectors.cpu().numpy(), classes)

    def of_class(self, index: int) -> np.ndarray | None:
        """Return a class's vectors, float32 (n, C), in the order they came; None where there is none."""
        if index not in self._piles:
            return None
        self._thin(index)
        return self._piles[index][0][0]

    def _extend(self, vectors: np.ndarray, classes: np.ndarray) -> None:
        keys = self._generator.random(len(vectors))
        for index in np.unique(classes).tolist():
            rows = classes == index
            pile = self._piles.setdefault(index, [])
            pile.append((vectors[rows], keys[rows]))
            if sum(len(part) for part, _ in pile) > 2 * self.limit:
                self._thin(index)

    def _thin(self, index: int) -> None:
        """Keep the vectors with the smallest random keys: a uniform sample, however often it is thinned."""
        parts, keys = (np.concatenate(column) for column in zip(*self._piles[index], strict=True))
        stay = np.sort(np.argsort(keys, kind="stable")[: self.limit])
        self._piles[index] = [(parts[stay], keys[stay])]


def class_filters(found: PeakVectors, classes: Iterable[int]) -> dict[int, np.ndarray]:
    """Return the k filters of every class, float32 (k, C), from its strongest places; no bias goes with them.

    The peak vectors of all training images of a class are clustered, and the k centres are its filters, of
    length sqrt(2 / C) * gain unless `scale` is "raw". A filter of that length answers a place F that looks
    just like it with z = gain * sqrt(2 / C) * ||F||, which is the spread of z under Kaiming's random filters.

    A class with fewer than k different vectors gets these, repeated in turn with a little noise. A class
    without any is left out of the result.

    Args:
        found: the vectors of all classes.
        classes: the classes wanted, ascending; each class's filters depend on its own vectors alone.

    Source: Wang, Morariu, Davis, "Learning a Discriminative Filter Bank within a CNN for Fine-grained
    Recognition", CVPR 2018, on non-random initialisation. The paper leaves open the window, the number of
    peaks, the vectors' length and the filters' scale: all are options here. A public port that claims this
    start averages norms to a scalar and writes them into a copy of the weights, which changes nothing.
    """
    start = found.start
    filters = {}
    with threadpool_limits(1):  # several threads add up in any order: the last bits would vary
        for index in classes:
            vectors = found.of_class(index)
            if vectors is not None:
                centres = cluster_centres(vectors, start.detectors, derive_seed(start.seed, "class", index))
                filters[index] = _scaled(centres, start).astype(np.float32)
    return filters


def cluster_centres(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return `count` k-means centres, float64 (count, C), of vectors (n, C), n >= 1, none of length zero.

    With fewer than `count` different vectors these are the centres, repeated in turn; each repetition is
    moved by noise of a hundredth of its length, so that the filters can part ways.
    """
    wide = vectors.astype(np.float64)  # float32 cannot tell close vectors apart by |a|^2 - 2ab + |b|^2
    longest = np.linalg.norm(wide, axis=1).max()
    _, first = np.unique(np.round(wide / longest, DECIMALS), axis=0, return_index=True)
    if len(first) >= count:
        random_state = seed % 2**32  # as wide as numpy's legacy seeds
        means = KMeans(count, n_init=RESTARTS, random_state=random_state, algorithm="lloyd").fit(wide)
        return np.asarray(means.cluster_centers_)
    distinct = wide[np.sort(first)]
    centres = distinct[np.arange(count) % len(distinct)]
    noise = numpy_generator(seed, "noise").standard_normal(centres.shape)
    noise *= NOISE * np.linalg.norm(centres, axis=1, keepdims=True) / np.sqrt(centres.shape[1])
    noise[: len(distinct)] = 0
    return np.asarray(centres + noise)


def _scaled(centres: np.ndarray, start: DetectorInit) -> np.ndarray:
    if start.scale == "raw":
        return centres
    lengths = np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return np.asarray(centres / lengths * start.gain * np.sqrt(2 / centres.shape[1]))
