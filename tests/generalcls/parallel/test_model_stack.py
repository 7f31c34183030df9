from __future__ import annotations

import pytest
import torch

from finetune.training.optimization.precision import choose_precision
from generalcls.parallel.model_stack import ModelStack
from tests.generalcls.small_study import network


def stack(name: str, side_by_side: bool, seeds=(0, 3)) -> ModelStack:
    return ModelStack(
        [network(name, seed) for seed in seeds], choose_precision("cpu", "float32"), side_by_side=side_by_side
    )


@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_stack_gives_back_each_models_own_state(side_by_side: bool):
    found = stack("norm", side_by_side)
    for m, seed in enumerate((0, 3)):
        own = network("norm", seed).state_dict()
        state = found.model_state(m)
        assert state.keys() == own.keys()
        assert all(torch.equal(value, own[name]) for name, value in state.items())
    assert found.parameters_each == sum(p.numel() for p in network("norm", 0).parameters())


@pytest.mark.parametrize("side_by_side", [True, False])
def test_dropouts_are_found_with_their_shapes(side_by_side: bool):
    found = stack("mnist_cnn", side_by_side)
    shapes = found.dropout_shapes(torch.zeros(1, 1, 8, 8))
    assert sorted(shapes.values()) == [(0.25, (64, 2, 2)), (0.5, (128,))]
    assert stack("mlp", side_by_side).dropout_shapes(torch.zeros(1, 1, 8, 8)) == {}


@pytest.mark.parametrize("side_by_side", [True, False])
def test_a_stack_goes_on_from_another_ones_state(side_by_side: bool):
    first, second = stack("norm", side_by_side), stack("norm", side_by_side, seeds=(5, 6))
    second.load_state_dict(first.state_dict())
    pictures = torch.rand(4, 1, 8, 8)
    for (_, one, *_), (_, other, *_) in zip(
        first.embeddings(pictures), second.embeddings(pictures), strict=True
    ):
        assert torch.equal(one, other)


def test_answers_do_not_change_the_running_statistics():
    found = stack("norm", True)
    before = {name: value.clone() for name, value in found.buffers.items()}
    list(found.embeddings(torch.rand(4, 1, 8, 8)))
    assert all(torch.equal(value, before[name]) for name, value in found.buffers.items())
