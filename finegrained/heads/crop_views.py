"""Pictures shown to a network by a test protocol: centre, mirror, ten crops, or the region it looks at."""

from __future__ import annotations

import numpy as np

from finetune.images.batches import EvalBatches
from finetune.images.cache import ImageSource
from finetune.images.preprocess import PreprocessSpec
from finetune.models.classifier import Classifier
from finetune.models.two_view import TwoView
from finetune.training.loop import evaluate
from finetune.training.optimization.distributed import World
from finetune.training.optimization.precision import Precision
from finetune.training.predict import worker_count


def show_pictures(
    core: Classifier,
    source: ImageSource,
    label: np.ndarray,
    rows: np.ndarray,
    spec: PreprocessSpec,
    *,
    precision: Precision,
    world: World,
    crops: str,
    batch_size: int,
    workers: int,
) -> dict[str, np.ndarray]:
    """Return {"index", "target", "probs"} of these rows, sorted by row, each row once.

    Args:
        core: the classifier, on the precision's device.
        source: the prepared pictures by manifest row.
        label: int64, the class index of every manifest row.
        rows: which to show.
        spec: how the pictures were prepared.
        precision: device and number format.
        world: the processes that share the work.
        crops: center, flip, ten, or cam: the mean of what the network says of the centre and of the region
            that its own activations point to (`finetune.models.two_view.TwoView`).
        batch_size: pictures at once.
        workers: processes that prepare batches, -1 by the number of cores.
    """
    batches = EvalBatches(
        source,
        label,
        rows,
        spec,
        crops="center" if crops == "cam" else crops,
        batch_size=batch_size,
        workers=worker_count(workers),
        rank=world.rank,
        world_size=world.size,
    )
    return evaluate(TwoView(core, spec) if crops == "cam" else core, batches, spec, precision, world)
