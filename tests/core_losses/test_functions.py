"""The `vmap` rule of the package's Functions: one mapped dimension, two, and tensors that are not mapped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from core_losses import LOSSES, build_loss
from core_losses.functions import VmapBatch

NAMES = list(LOSSES)


def test_mapped_dimension_joins_the_examples_and_comes_back() -> None:
    logits, index = torch.arange(24.0).view(2, 4, 3), torch.zeros(2, 1, dtype=torch.int64)
    batch = VmapBatch(4, (1, None, None), logits, index, None)
    merged, indices, nothing = batch.merged
    assert merged is not None
    assert indices is not None
    assert nothing is None
    assert merged.shape == (8, 3)
    assert indices.shape == (8, 1)
    (restored,) = batch.split((merged,))
    assert restored is not None
    assert torch.equal(restored, logits.movedim(1, 0))
    assert batch.outputs(restored, None) == ((restored, None), (0, None))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5), (3, 2, 5, 2)])
def test_vmap_over_batches_equals_a_loop(name: str, reduction: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(10)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    dim = 1 if len(shape) == 2 else 2
    target = torch.randint(0, 5, logits.argmax(dim).shape, generator=generator)
    loss = build_loss(name, reduction=reduction)
    together = vmap(loss)(logits, target)
    torch.testing.assert_close(
        together, torch.stack([loss(z, t) for z, t in zip(logits, target, strict=True)])
    )


@pytest.mark.parametrize("name", NAMES)
def test_per_sample_gradients_of_several_models_at_once(name: str) -> None:
    generator = torch.Generator().manual_seed(11)
    images = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (6,), generator=generator)
    weights = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    loss = build_loss(name)

    def objective(weight: Tensor, image: Tensor, goal: Tensor) -> Any:
        return loss(nn.functional.linear(image, weight), goal)

    per_sample = vmap(vmap(grad(objective), in_dims=(None, 0, 0)), in_dims=(0, None, None))
    averaged = per_sample(weights, images, target).mean(1)
    for weight, expected in zip(weights, averaged, strict=True):
        torch.testing.assert_close(grad(objective)(weight, images, target), expected)
