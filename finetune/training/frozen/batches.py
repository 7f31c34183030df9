"""A frozen backbone's features, computed once for every image and cached; the head trains from them.

Of every image `views` augmented views are cached; epoch e shows view e modulo `views`, and view v is what
epoch v would show without a cache. So as long as a stage has no more epochs than views, and always without
augmentation, the head sees what it would see anyway. Features are kept as the backbone makes them: the
number format under autocast, the memory layout, every map and the embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from finetune.cli.console import progress, say
from finetune.images.batches import Batch, TrainBatches, in_pieces, normalise
from finetune.images.loading.copies import to_device
from finetune.images.preprocess import PreprocessSpec
from finetune.models.backbone import Features
from finetune.models.classifier import Classifier
from finetune.training.config import FitConfig
from finetune.training.frozen.sharing import Sharing, drawn_of, shared_store
from finetune.training.frozen.store import FeatureStore, Layout, open_store
from finetune.training.learner import Learner
from finetune.training.optimization.distributed import gather_rows
from finetune.training.optimization.precision import Precision
from finetune.training.optimization.recipe import Recipe


@dataclass(frozen=True)
class FeatureBatch:
    """Features of a batch of images: `target` int64 (B,), `index` int64 (B,) the manifest rows."""

    features: Features
    target: Tensor
    index: Tensor
    crops: int = 1

    def to(self, device: torch.device) -> FeatureBatch:
        """Return the batch with features and targets on `device`; the index stays on the CPU."""
        maps = {tap: to_device(values, device) for tap, values in self.features.maps.items()}
        features = Features(to_device(self.features.embedding, device), maps)
        return FeatureBatch(features, to_device(self.target, device), self.index, self.crops)

    def pin_memory(self) -> FeatureBatch:
        """Return the batch in page-locked memory, from which a GPU copies directly."""
        maps = {tap: values.pin_memory() for tap, values in self.features.maps.items()}
        features = Features(self.features.embedding.pin_memory(), maps)
        return FeatureBatch(features, self.target.pin_memory(), self.index.pin_memory(), self.crops)

    @property
    def pageable(self) -> bool:
        """Whether the features lie in ordinary memory, which a GPU does not read from."""
        parts = (self.features.embedding, *self.features.maps.values())
        return any(part.device.type == "cpu" and not part.is_pinned() for part in parts)


def cached_views(config: FitConfig, recipe: Recipe) -> int:
    """Return how many views of each image the frozen stage caches; 0 where the backbone runs every time.

    Says why where features were asked for and cannot be kept.
    """
    train, stage = config.train, recipe.stages[0]
    plain = train.augment == "none"
    asked = int(plain) if train.frozen_views == -1 else train.frozen_views
    if stage.train != "head" or not asked:
        return 0
    mixing = [name for name in ("mixup", "cutmix") if getattr(train, name)]
    if recipe.hooks.batch_transform is not None or mixing:
        reason = mixing[0] if mixing else f"the {config.head.name} head"
        say(f"{reason} remakes the images of every batch: the frozen backbone is asked in every epoch")
        return 0
    return 1 if plain else min(asked, stage.epochs)


def stays_frozen(config: FitConfig) -> bool:
    """Return whether the backbone is never trained and its features may be kept."""
    train = config.train
    return train.frozen_epochs == train.epochs > 0 and train.frozen_views != 0


class FeatureCache:
    """Training batches of features, in the order of `batches` and as many.

    Args:
        learner: its frozen backbone makes the features.
        batches: the images, and which of them make up each batch.
        rows: the manifest rows to train on.
        target: the class of every manifest row.
        views: views cached of each image, at least 1.
        folder: where a file lies for what does not fit in a quarter of the memory; the file has no name and
            goes with this object or its process.
        groups: of every manifest row; the backbone is never asked for rows of two groups at once.
        sharing: where other runs find the features; None keeps them for this one.
    """

    def __init__(
        self,
        learner: Learner,
        batches: TrainBatches,
        rows: np.ndarray,
        target: np.ndarray,
        *,
        views: int,
        folder: Path,
        groups: np.ndarray | None = None,
        sharing: Sharing | None = None,
    ) -> None:
        self.batch_size, self.steps_per_epoch = batches.batch_size, batches.steps_per_epoch
        self._learner, self._batches, self._folder = learner, batches, folder
        self._rows, self._target, self._views = np.sort(rows), target, views
        self._pieces, self._sharing = in_pieces(self._rows, self.batch_size, groups), sharing
        order = np.concatenate([rows for piece in self._pieces for rows in piece])
        self._place = np.argsort(np.searchsorted(self._rows, order))  # of each row among the pieces
        self._shared: dict[int, FeatureStore] = {}  # by view
        self._store: FeatureStore | None = None
        self._filled: set[int] = set()

    @property
    def in_memory(self) -> int:
        """The bytes of memory that the features take by now."""
        return 0 if self._store is None else self._store.in_memory

    def fill(self, epoch: int, between: Callable[[], None]) -> None:
        """Find the view that an epoch shows, or ask the backbone for it, unless it is here already.

        Several processes share the work and each keeps all of it. `between` is called after each batch.
        """
        view = epoch % self._views
        if view in self._filled:
            return
        if not self._find(view, between):
            self._fill(view, between)
        self._filled.add(view)

    def _find(self, view: int, between: Callable[[], None]) -> bool:
        """Take the view from what runs share; once that is not possible it is not tried again."""
        if self._sharing is None:
            return False
        store = shared_store(
            self._sharing,
            self._pieces,
            drawn_of(self._learner.config, view),
            draw=lambda parts: self._batches.drawn(view, parts),
            see=partial(look, self._learner),
            ask=between,
            title=self._title(view),
            told_as=f"{self._told_views} of each of {len(self._rows)} images" if not self._shared else "",
        )
        if store is None:
            self._sharing = None
            return False
        self._shared[view] = store
        return True

    def _title(self, view: int) -> str:
        return f"features, view {view + 1}/{self._views}"

    @property
    def _told_views(self) -> str:
        return f"{self._views} views" if self._views > 1 else "one view"

    def _fill(self, view: int, between: Callable[[], None]) -> None:
        world = self._learner.world
        parts = [rows for piece in self._pieces for rows in piece]
        with progress(len(self._rows), self._title(view)) as bar:
            own = [part[world.rank :: world.size] for part in parts]
            drawn = self._batches.drawn(view, [rows for rows in own if len(rows)])
            for part, rows in zip(parts, own, strict=True):
                self._keep(view, next(drawn) if len(rows) else None)
                bar.advance(len(part))
                between()

    def _keep(self, view: int, batch: Batch | None) -> None:
        """Write the features of a batch, and those that the other processes made meanwhile."""
        if batch is None:
            assert self._store is not None, "the first batch has an image for every process"
            index = torch.empty(0, dtype=torch.int64)
            records = self._store.layout.none().to(self._store.device)
        else:
            features, index = look(self._learner, batch.images), batch.index
            if self._store is None:
                self._store = self._open(Layout.of(features))
            records = self._store.layout.pack(features, self._store.device)
        shared = gather_rows({"index": index, "records": records}, self._learner.world)
        assert self._store is not None
        self._store.write(self._slots(view, shared["index"].numpy()), shared["records"])

    def _open(self, layout: Layout) -> FeatureStore:
        slots, processes = self._views * len(self._rows), self._learner.world.size
        device = self._learner.precision.device
        store = open_store(layout, slots, self._folder, processes=processes, device=device)
        again = f"; after {self._views} epochs the same views come again" if self._views > 1 else ""
        say(
            f"the frozen backbone's features are computed once: those of {self._told_views} of each of "
            f"{len(self._rows)} images are cached {store.where}{again}"
        )
        return store

    def _slots(self, view: int, index: np.ndarray) -> np.ndarray:
        return np.asarray(view * len(self._rows) + np.searchsorted(self._rows, index))

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[FeatureBatch]:
        """Yield this rank's batches of one epoch, from `start_step` on, after `fill`."""
        view = epoch % self._views
        store = self._shared.get(view, self._store)
        if store is None or view not in self._filled:
            raise RuntimeError(f"the features of epoch {epoch + 1} were not computed yet: call fill first")
        parts = self._batches.epoch_rows(epoch, start_step)
        if view in self._shared:
            slots = [self._place[np.searchsorted(self._rows, rows)] for rows in parts]
        else:
            slots = [self._slots(view, rows) for rows in parts]
        coming = store.features(slots, self._learner.precision.device)
        for rows, features in zip(parts, coming, strict=True):
            target = torch.from_numpy(self._target[rows].astype(np.int64))
            yield FeatureBatch(features, target, torch.from_numpy(rows.copy()))


def look(learner: Learner, images: Tensor) -> Features:
    """Return what the backbone makes of uint8 images (B, S, S, 3) in evaluation mode, on its device."""
    return see(learner.core, images, learner.spec, learner.precision)


@torch.no_grad()
def see(core: Classifier, images: Tensor, spec: PreprocessSpec, precision: Precision) -> Features:
    """Return what a classifier's backbone makes of uint8 images (B, S, S, 3), as finely as is told."""
    images = normalise(to_device(images, precision.device), spec.mean, spec.std)
    backbone = core.backbone
    was_training = backbone.training
    backbone.eval()
    try:
        with precision.autocast():
            found: Features = backbone(precision.arrange(images))
    finally:
        backbone.train(was_training)
    return found
