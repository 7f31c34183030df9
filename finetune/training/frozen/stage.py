"""What a stage with a frozen backbone trains on and is validated by: features instead of images."""

from __future__ import annotations

from pathlib import Path

from finetune.images.batches import EvalBatches, TrainBatches
from finetune.training.config import FitConfig
from finetune.training.data import TrainingData
from finetune.training.frozen.batches import FeatureCache, cached_views
from finetune.training.frozen.evaluation import EvalFeatures
from finetune.training.frozen.sharing import sharing_of
from finetune.training.learner import Learner
from finetune.training.predict import row_batches


def frozen_features(
    learner: Learner,
    task: TrainingData,
    config: FitConfig,
    folder: Path,
    train_batches: TrainBatches,
    val_batches: EvalBatches,
) -> tuple[FeatureCache, EvalFeatures] | None:
    """Return the features to train on and those to validate by; None where the images are needed every time.

    Where the images have groups, both are computed in batches of one group and of the training's size, so
    that an image has the same features wherever it is trained or validated on.
    """
    views = cached_views(config, learner.recipe)
    if not views:
        return None
    deterministic = config.run.deterministic
    sharing = sharing_of(
        learner.core, task.source, task.spec, learner.precision, learner.world, deterministic=deterministic
    )
    target, groups = task.manifest.label, task.groups
    if groups is not None:
        val_batches = row_batches(
            learner, task, task.val, config, batch_size=config.train.batch_size, groups=groups
        )
    kept = FeatureCache(
        learner,
        train_batches,
        task.train,
        target,
        views=views,
        folder=folder,
        groups=groups,
        sharing=sharing,
    )
    return kept, EvalFeatures(learner, val_batches, target, folder, beside=kept, sharing=sharing)
