"""First weights: their bounds and spreads are the rules' own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from generalcls.networks.init import draw_glorot, draw_he, keep_drawn


def test_glorot_fills_its_interval_and_leaves_no_bias() -> None:
    torch.manual_seed(0)
    convolution, dense = nn.Conv2d(8, 32, 3), nn.Linear(200, 100)
    draw_glorot(nn.Sequential(convolution, dense))
    for layer, bound in ((convolution, math.sqrt(6 / (9 * 40))), (dense, math.sqrt(6 / 300))):
        assert 0.98 * bound < layer.weight.detach().abs().max() <= bound
        assert layer.weight.detach().std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert layer.bias is not None
        assert not layer.bias.any()


@pytest.mark.parametrize("groups", [1, 64])
def test_he_counts_what_leaves_a_weight(groups: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 128, 3, groups=groups)
    draw_he(layer)
    assert layer.weight.detach().std() == pytest.approx(math.sqrt(2 * groups / (9 * 128)), rel=0.05)
    assert layer.bias is not None
    assert not layer.bias.any()


def test_he_sets_norms_and_leaves_linear_layers() -> None:
    norm, dense = nn.BatchNorm2d(3), nn.Linear(4, 5)
    nn.init.zeros_(norm.weight)
    before = dense.weight.clone()
    draw_he(nn.Sequential(norm, dense))
    assert norm.weight.tolist() == [1, 1, 1]
    assert torch.equal(dense.weight, before)


def test_drawn_weights_are_kept() -> None:
    layer = nn.Conv2d(1, 2, 3)
    before = layer.weight.clone()
    keep_drawn(layer)
    assert torch.equal(layer.weight, before)
