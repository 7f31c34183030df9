"""The closed form of CCE and DualCE against the composed formula, and the shortcuts it takes on the way."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from core_losses import competitor_sum as module
from core_losses.competitor_sum import (
    BLOCK,
    WORTH_FOLDING,
    Cost,
    Denial,
    Dual,
    competitor_sum,
    composed_competitor_sum,
)

COSTS: list[Cost] = [Denial(), Dual(1.0, 1.0), Dual(0.5, 0.7), Dual(1.5, 2.0)]


def _batch(
    shape: tuple[int, ...], scale: float = 3.0, dtype: Any = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    logits = (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    dim = 0 if len(shape) == 1 else 1
    index = torch.randint(0, shape[dim], logits.argmax(dim, keepdim=True).shape, generator=generator)
    factors = torch.rand(index.shape, generator=generator).to(dtype)
    return logits, index, factors


def _value_and_gradient(function: Any, cost: Cost, logits: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    z = logits.clone().requires_grad_()
    value = function(cost, z, *rest, total=False)
    return value.detach(), torch.autograd.grad(value.sum(), z)[0]


@pytest.mark.parametrize("cost", COSTS, ids=repr)
@pytest.mark.parametrize("shape", [(5,), (9, 2), (8, 6), (4, 6, 3), (2, 5, 3, 2), (40, 1001), (30, 10_007)])
def test_closed_form_equals_the_composed_formula(cost: Cost, shape: tuple[int, ...]) -> None:
    batch = _batch(shape)
    expected = _value_and_gradient(composed_competitor_sum, cost, *batch)
    torch.testing.assert_close(
        _value_and_gradient(competitor_sum, cost, *batch), expected, rtol=1e-11, atol=1e-13
    )
    total = competitor_sum(cost, *batch, total=True)
    torch.testing.assert_close(total, expected[0].sum())


def test_shapes_above_reach_the_folds_and_more_than_one_block() -> None:
    assert WORTH_FOLDING < 40 * 1001
    assert BLOCK < 30 * 10_007


@pytest.mark.parametrize("cost", COSTS, ids=repr)
@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_float32_agrees_with_float64_however_sure_or_wrong(cost: Cost, scale: float) -> None:
    logits, index, factors = _batch((60, 8), scale, torch.float32)
    index[::2] = logits[::2].argmax(1, keepdim=True)
    exact = _value_and_gradient(composed_competitor_sum, cost, logits.double(), index, factors.double())
    value, grad = _value_and_gradient(competitor_sum, cost, logits, index, factors)
    torch.testing.assert_close(value.double(), exact[0], rtol=3e-6, atol=1e-6)
    torch.testing.assert_close(grad.double(), exact[1], rtol=3e-6, atol=1e-6)


def test_vanishing_losses_keep_their_digits() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0]])
    index, factors = torch.tensor([[0]]), torch.ones(1, 1)
    for cost in (Denial(), Dual(1.0, 1.0)):
        value, grad = _value_and_gradient(competitor_sum, cost, logits, index, factors)
        assert value.item() == pytest.approx(4 * math.exp(-40), rel=1e-5)
        assert grad[0, 1].item() == pytest.approx(2 * math.exp(-40), rel=1e-5)


@pytest.mark.parametrize("cost", COSTS, ids=repr)
def test_equal_logits_masked_classes_and_an_empty_batch(cost: Cost) -> None:
    rows = [[0.0, 0.0, 0.0], [2.0, 2.0, -math.inf], [-math.inf, 1.0, -math.inf], [3.0, 3.0, 1.0]]
    batch = (
        torch.tensor(rows, dtype=torch.float64),
        torch.tensor([[0], [1], [1], [2]]),
        torch.ones(4, 1).double(),
    )
    value, grad = _value_and_gradient(competitor_sum, cost, *batch)
    finite = torch.tensor(rows, dtype=torch.float64).clamp(min=-1e4)
    expected = _value_and_gradient(composed_competitor_sum, cost, finite, *batch[1:])
    torch.testing.assert_close((value, grad), expected)
    empty = torch.empty(0, 3), torch.empty(0, 1, dtype=torch.int64), torch.empty(0, 1)
    assert competitor_sum(cost, *empty, total=True) == 0


def test_a_factor_of_zero_costs_nothing_even_where_the_loss_is_infinite() -> None:
    logits = torch.tensor([[-math.inf, 0.0], [1.0, 0.0]])
    losses = competitor_sum(
        Denial(), logits, torch.zeros(2, 1, dtype=torch.int64), torch.tensor([[0.0], [1.0]]), False
    )
    assert losses[0] == 0
    assert losses[1] > 0


def test_non_contiguous_logits_give_the_same() -> None:
    logits, index, factors = _batch((6, 7))
    turned = logits.t().contiguous().t()
    expected = _value_and_gradient(competitor_sum, Denial(), logits, index, factors)
    torch.testing.assert_close(
        _value_and_gradient(competitor_sum, Denial(), turned, index, factors), expected
    )


@pytest.mark.parametrize("shape", [(50, 1000), (40, 1003), (7, 10_001), (3, 2000, 9)])
def test_likeliest_class_is_found_through_the_folds(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(8))
    assert logits.numel() > WORTH_FOLDING
    torch.testing.assert_close(module._likeliest(logits), logits.argmax(1, keepdim=True))
    for k in (0, shape[1] // 2, shape[1] - 1):
        logits[:, k] = 100.0
        assert (module._likeliest(logits) == k).all()
        logits[:, k] = -100.0


@pytest.mark.parametrize("classes", [1000, 1001, 1002, 1003])
def test_folded_logarithms_sum_to_the_same(classes: int) -> None:
    p = torch.randn(50, classes, generator=torch.Generator().manual_seed(9)).mul(4).softmax(1).clamp(max=0.5)
    assert p.numel() > WORTH_FOLDING
    expected = torch.log1p(p.double()).sum(1, keepdim=True)
    torch.testing.assert_close(module._sum_log1p_(p).double(), expected, rtol=1e-6, atol=0)


def test_first_backward_pass_does_not_go_by_the_composed_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("the slow way")

    monkeypatch.setattr(module, "composed_competitor_sum", refuse)
    logits, index, factors = _batch((4, 3))
    logits.requires_grad_()
    loss = competitor_sum(Denial(), logits, index, factors, True)
    torch.autograd.grad(loss, logits, retain_graph=True)
    with pytest.raises(AssertionError, match="the slow way"):
        torch.autograd.grad(loss, logits, create_graph=True)
