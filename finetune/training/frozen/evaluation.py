"""Features to evaluate: of validation images in every epoch, of test images once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.images.batches import EvalBatches
from finetune.training.frozen.batches import FeatureBatch, FeatureCache, look
from finetune.training.frozen.sharing import See, Sharing, shared_store
from finetune.training.frozen.store import FeatureStore, Layout, open_store
from finetune.training.learner import Learner


class EvalFeatures:
    """Batches to evaluate: looked at by the frozen backbone the first time, read back afterwards.

    Args:
        learner: its frozen backbone makes the features.
        batches: the images.
        target: the class of every manifest row.
        folder: where a file lies for what does not fit in memory, as in `FeatureCache`.
        beside: the training features, with which these share the quarter of the memory.
        sharing: where other runs find the features; None keeps them for this one.
    """

    def __init__(
        self,
        learner: Learner,
        batches: EvalBatches,
        target: np.ndarray,
        folder: Path,
        *,
        beside: FeatureCache,
        sharing: Sharing | None = None,
    ) -> None:
        self._learner, self._batches, self._folder, self._beside = learner, batches, folder, beside
        self._target, self._sharing = target, sharing
        self._store: FeatureStore | None = None
        self._kept: list[tuple[Tensor, Tensor, int]] = []
        self._complete = False

    def find(self, between: Callable[[], None]) -> None:
        """Find what other runs keep, or compute it for them too, once; `between` may raise, to stop."""
        sharing, self._sharing = self._sharing, None
        if sharing is None or self._complete:
            return
        see_images = partial(look, self._learner)
        found = find_shared(sharing, self._batches, self._target, see_images, between)
        if found is not None:
            (self._store, self._kept), self._complete = found, True

    def __iter__(self) -> Iterator[FeatureBatch]:
        return self._read() if self._complete else self._look()

    def _look(self) -> Iterator[FeatureBatch]:
        self._kept, count = [], 0
        for batch in self._batches:
            features = look(self._learner, batch.images)
            if self._store is None:
                self._store = open_store(
                    Layout.of(features),
                    self._batches.pictures,
                    self._folder,
                    processes=self._learner.world.size,
                    taken=self._beside.in_memory,
                    device=self._learner.precision.device,
                )
            slots = np.arange(count, count + len(batch.images))
            self._store.write(slots, self._store.layout.pack(features, self._store.device))
            count += len(batch.images)
            self._kept.append((batch.target.clone(), batch.index.clone(), batch.crops))
            yield FeatureBatch(features, batch.target, batch.index, batch.crops)
        self._complete = True

    def _read(self) -> Iterator[FeatureBatch]:
        if self._store is None:  # of several processes this one has no image to look at
            return iter(())
        return read_back(self._store, self._kept, self._learner.precision.device)


Kept = Sequence[tuple[Tensor, Tensor, int]]  # target, manifest rows and crops of each batch


def find_shared(
    sharing: Sharing,
    batches: EvalBatches,
    target: np.ndarray,
    see_images: See,
    between: Callable[[], None],
) -> tuple[FeatureStore, list[tuple[Tensor, Tensor, int]]] | None:
    """Return the features of batches to evaluate that runs share, computed if need be, and what each holds.

    None where there are no images, or they cannot be shared.
    """
    if not batches.pieces:
        return None
    store = shared_store(
        sharing,
        batches.pieces,
        {"crops": batches.crop_rule},
        draw=batches.drawn,
        see=see_images,
        ask=between,
        title="features",
        crops=batches.crops,
    )
    if store is None:
        return None
    kept = [
        (torch.from_numpy(target[rows].astype(np.int64)), torch.from_numpy(rows.copy()), batches.crops)
        for piece in batches.pieces
        for rows in piece
    ]
    return store, kept


def read_back(store: FeatureStore, kept: Kept, device: torch.device) -> Iterator[FeatureBatch]:
    """Yield batches of stored features in the order in which they were written."""
    ends = np.cumsum([len(target) * crops for target, _, crops in kept])
    parts = [
        np.arange(end - len(target) * crops, end) for end, (target, _, crops) in zip(ends, kept, strict=True)
    ]
    coming = store.features(parts, device)
    for (target, index, crops), features in zip(kept, coming, strict=True):
        yield FeatureBatch(features, target, index, crops)
