"""A frozen backbone's features that runs share: one of them computes each set, all others read its file.

A set is what the backbone makes of some images in batches of a certain size. Its key covers everything that
decides a bit of it: weights and layers, the images' pixels and their order, what is drawn for them, mean and
standard deviation, batch sizes, number format, layout, device, threads and versions. So it does not matter
to a result whether a set was computed by its own run. Sets lie beside the decoded images and count with them
(see `finetune.images.cache.records`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.cli.console import progress, say
from finetune.errors import ResourceError
from finetune.images.batches import Batch
from finetune.images.cache.records import MAGIC, Records, fits, open_records, records_file, writing
from finetune.images.cache.source import CachedSource, ImageSource
from finetune.images.preprocess import PreprocessSpec
from finetune.models.backbone import Features
from finetune.models.bundle import weights_hash
from finetune.models.classifier import Classifier
from finetune.runs.folder import versions
from finetune.training.config import FitConfig
from finetune.training.frozen.store import FeatureStore, Layout, MappedStore, near, told
from finetune.training.optimization.distributed import World
from finetune.training.optimization.precision import Precision

COMPUTING = ("torch", "timm")  # packages whose version may change a feature
DRAWING = ("numpy", "opencv", "albumentations")  # and an augmented image
PLAIN = {"crops": "center"}  # what is drawn of an image that is not augmented

Draw = Callable[[Sequence[np.ndarray]], Iterator[Batch]]
See = Callable[[torch.Tensor], Features]


@dataclass(frozen=True)
class Sharing:
    """Where sets of features lie, and what all sets of one backbone have in common.

    Args:
        folder: of the caches.
        source: the images.
        facts: what decides the features of an image, as plain values.
        device: that reads them.
    """

    folder: Path
    source: CachedSource
    facts: Mapping[str, Any]
    device: torch.device

    def file(self, piece: Sequence[np.ndarray], drawn: Mapping[str, Any]) -> Path:
        """Return the file of the features of these batches of manifest rows, drawn in this way."""
        facts = {**self.facts, "drawn": dict(drawn), "sizes": [len(rows) for rows in piece]}
        digest = hashlib.sha256(json.dumps([MAGIC.decode(), facts], sort_keys=True).encode())
        rows = np.concatenate(piece)
        digest.update(self.source.pixel_digests(rows))
        if "augment" in drawn:  # what is drawn for an image depends on its row
            digest.update(rows.astype(np.int64).tobytes())
        return records_file(self.folder, digest.hexdigest()[:32])


def sharing_of(
    core: Classifier,
    source: ImageSource,
    spec: PreprocessSpec,
    precision: Precision,
    world: World,
    *,
    deterministic: bool,
) -> Sharing | None:
    """Return how a backbone's features are shared; None where they are not.

    That needs images that are cached, and one process: several that train together divide each batch, so
    that its features have other bits.
    """
    if world.size > 1 or not isinstance(source, CachedSource):
        return None
    backbone, now, device = core.backbone, versions(), precision.device
    on_gpu = device.type == "cuda"
    facts = {
        "weights": weights_hash(backbone.state_dict()),
        "layers": hashlib.sha256(
            f"{backbone.taps} {backbone.embedding_dim} {backbone!r}".encode()
        ).hexdigest(),
        "pictures": [spec.image_size, list(spec.mean), list(spec.std)],
        "format": [precision.dtype_name, precision.channels_last, deterministic],
        "device": [device.type, precision.device_name, torch.get_num_threads()],
        "hardware": torch.cuda.get_device_capability(device) if on_gpu else _cpu(),
        "versions": {name: now[name] for name in COMPUTING},
        "built": hashlib.sha256(torch.__config__.show().encode()).hexdigest(),
    }
    return Sharing(source.cache_file.parent, source, facts, device)


def _cpu() -> dict[str, str]:
    found = {name: str(value) for name, value in torch.cpu.get_capabilities().items()}
    return found | {"chosen": torch.backends.cpu.get_cpu_capability()}


def drawn_of(config: FitConfig, view: int) -> dict[str, Any]:
    """Return what decides the pixels of a view of training images, beside the images."""
    train = config.train
    if train.augment == "none":
        return dict(PLAIN)
    now = versions()
    used = {name: now[name] for name in DRAWING if name in now}
    return {"augment": train.augment, "seed": train.seed, "view": view, "versions": used}


def shared_store(
    sharing: Sharing,
    pieces: Sequence[Sequence[np.ndarray]],
    drawn: Mapping[str, Any],
    *,
    draw: Draw,
    see: See,
    ask: Callable[[], None],
    title: str,
    crops: int = 1,
    told_as: str = "",
) -> FeatureStore | None:
    """Return the features of the rows in these pieces, a set each, one after the other; computed if need be.

    Args:
        sharing: where they lie.
        pieces: batches of manifest rows.
        drawn: what decides the pixels of a row's images, beside the row.
        draw: returns the images of batches of rows.
        see: returns the features of images.
        ask: called after every batch, and while another process is waited for; it may raise, to stop.
        title: of the bar.
        crops: images of each row.
        told_as: what is computed or read, in words; nothing is said without it.

    Returns None, and says why, where they are too large to be shared or cannot be written.
    """
    files = [sharing.file(piece, drawn) for piece in pieces]
    sizes = [sum(map(len, piece)) for piece in pieces]
    missing = sum(size for size, file in zip(sizes, files, strict=True) if not file.is_file())
    maker = _Maker(draw, see, ask, crops, crops * sum(sizes))
    found: list[Records] = []
    try:
        with progress(missing, title) as bar:
            for file, piece in zip(files, pieces, strict=True):
                records = _shared(file, piece, maker, bar.advance)
                if records is None:
                    return None
                found.append(records)
    except (OSError, ResourceError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else str(error).partition(";")[0]
        say(f"note: features are not kept for other runs in {sharing.folder}: {reason}")
        return None
    store = MappedStore(Layout.from_table(found[0].table["layout"]), found)
    if told_as and maker.made:
        size = told(store.slots * store.layout.size)
        say(
            f"the frozen backbone's features are computed once: those of {told_as} are cached in "
            f"{sharing.folder} ({size}), for every run that asks the same"
        )
    elif told_as:
        say(f"the frozen backbone's features of {told_as} are read from {sharing.folder}")
    return near(store, sharing.device)


@dataclass
class _Maker:
    """How features are made, of so many images in all, and how many were."""

    draw: Draw
    see: See
    ask: Callable[[], None]
    crops: int
    images: int
    made: int = 0


def _shared(
    file: Path, piece: Sequence[np.ndarray], maker: _Maker, advance: Callable[[int], None]
) -> Records | None:
    """Return a set of features: from its file, which is written where it is not there."""
    found = open_records(file)
    if found is not None:
        return found
    with writing(file, waiting=_tell_waiting, ask=maker.ask) as writer:
        found = open_records(file)
        if found is not None:
            return found
        layout: Layout | None = None
        for rows, batch in zip(piece, maker.draw(piece), strict=True):
            features = maker.see(batch.images)
            if layout is None:
                layout = Layout.of(features)
                if not fits(maker.images * layout.size):
                    _tell_large(maker.images * layout.size)
                    return None
                writer.begin(maker.crops * sum(map(len, piece)), layout.size)
            writer.write(layout.pack(features).numpy())
            maker.made += len(rows)
            advance(len(rows))
            maker.ask()
        assert layout is not None, "no piece is empty"
        writer.finish({"layout": layout.to_table(), "images": sum(map(len, piece))})
    return open_records(file)


def _tell_waiting() -> None:
    say("another process computes the frozen backbone's features: waiting for it")


def _tell_large(size: int) -> None:
    say(f"note: features of {told(size)} are not kept for other runs: that is over a quarter of CRL_CACHE_GB")
