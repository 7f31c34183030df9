"""Steps of training that nothing is learned by: on drawn images, for whoever measures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.models.classifier import Classifier
from finetune.training.objective import Objective
from finetune.training.optimization.optim import build_optimizer, parameter_groups
from finetune.training.optimization.precision import Precision

LEARNING_RATE = 1e-4  # small enough that random weights stay finite for the few steps of a measurement


def random_batch(core: Classifier, side: int, count: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return `count` random images of `side` pixels and their targets, where the model lies.

    Of each image there are as many views, side by side, as the head asks for.
    """
    device = next(core.parameters()).device
    source = torch.Generator().manual_seed(0)
    views = core.head.hooks().views
    images = torch.randn(count * views, 3, side, side, generator=source, device="cpu")
    target = torch.randint(classes, (count,), generator=source, device="cpu")
    return images.to(device), target.to(device)


def training_step(
    core: Classifier, images: Tensor, target: Tensor, precision: Precision | None = None
) -> Callable[[], None]:
    """Return what one step of training does: the head's transform, forward, backward, SGD with momentum.

    The class loss is cross-entropy. `precision` None computes in float32.
    """
    groups = parameter_groups(core, lr=LEARNING_RATE)
    optimizer = build_optimizer("sgd", groups, lr=LEARNING_RATE)
    objective, generator = Objective(F.cross_entropy), np.random.default_rng(0)
    change = core.head.hooks().batch_transform
    scaler = precision.build_scaler() if precision else None
    core.train()

    def step() -> None:
        given, wanted = change(images, target, generator) if change else (images, target)
        if precision is None:
            output = core(given, wanted)
        else:
            with precision.autocast():
                output = core(given, wanted)
        learn_from(objective(output, wanted).total, optimizer, scaler)

    return step


def learn_from(loss: Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    """Go back from a loss, move the weights, and forget the gradients."""
    if scaler is None:
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    else:
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
