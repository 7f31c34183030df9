"""A training's step compiled, and tried out on drawn images before the first real one."""

from __future__ import annotations

import torch

from finetune.training.learner import Learner
from finetune.training.loop import transform_batch
from finetune.training.optimization.compiling import compiled_or_eager, nothing_kept
from finetune.training.optimization.distributed import kept_apart
from finetune.training.optimization.trial_steps import random_batch


def compile_step(learner: Learner, *, features: bool, by_name: bool) -> bool:
    """Compile the learner's model, and return whether it stays so; else it goes on as it is.

    One step is done on random images, and nothing of it is kept.

    Args:
        learner: before its first step, or that of a stage.
        features: whether it learns from cached features and not from images.
        by_name: compiling was asked for: where it fails, ResourceError is raised.
    """
    core, model, precision = learner.core, learner.model, learner.precision
    count = learner.config.train.batch_size // learner.world.size
    model.train()
    model.compile()

    def to_eager() -> None:
        model._compiled_call_impl = None

    def rehearse() -> None:
        images, target = random_batch(core, learner.spec.image_size, count, learner.num_classes)
        given, wanted = transform_batch(learner, precision.arrange(images), target, 0, 0)
        with kept_apart(model, until_later=True):
            with precision.autocast():
                if features:
                    with torch.no_grad():
                        given = core.backbone(given)
                output = model(given, wanted)
            learner.objective(output, wanted).total.backward()  # type: ignore[no-untyped-call]

    with nothing_kept(core.parameters(), core.buffers()):
        return compiled_or_eager(rehearse, to_eager, by_name=by_name, world=learner.world)
