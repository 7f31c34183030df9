"""CCE and DualCE: the formula in p, hand-worked numbers, both tails, and their limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from core_losses import cross_entropy_loss, dual_cross_entropy_loss, extended_binary_cross_entropy_loss
from tests.core_losses.references import per_class, per_example

CASES: list[Any] = [
    ("cce", extended_binary_cross_entropy_loss, {}),
    ("dualce", dual_cross_entropy_loss, {}),
    ("dualce", dual_cross_entropy_loss, {"alpha": 0.2, "beta": 0.5}),
    ("dualce", dual_cross_entropy_loss, {"alpha": 0.0, "beta": 0.5}),
    ("dualce", dual_cross_entropy_loss, {"alpha": 2.0, "beta": 3.0}),
]


def _random(rows: int = 20, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(rows, classes, dtype=torch.float64, generator=generator) * 3
    return logits, torch.randint(0, classes, (rows,), generator=generator)


def test_values_of_three_classes_worked_by_hand() -> None:
    logits = torch.tensor(
        [[math.log(5.0), math.log(3.0), math.log(2.0)]], dtype=torch.float64
    )  # p = .5 .3 .2
    target = torch.tensor([0])
    cce = extended_binary_cross_entropy_loss(logits, target)
    assert cce.item() == pytest.approx(-math.log(0.5) - math.log(0.7) - math.log(0.8))
    dual = dual_cross_entropy_loss(logits, target, alpha=1.0, beta=2.0)
    assert dual.item() == pytest.approx(-math.log(0.5) + 2 * (math.log(1.3) + math.log(1.2)))


@pytest.mark.parametrize(("name", "function", "settings"), CASES)
def test_values_follow_the_formula_in_p(name: str, function: Any, settings: dict[str, float]) -> None:
    logits, target = _random()
    expected = per_example(name, logits, target, **settings)
    torch.testing.assert_close(function(logits, target, reduction="none", **settings), expected)
    soft = logits.softmax(1)
    expected = (soft * per_class(name, logits, **settings)).sum(1).mean()
    torch.testing.assert_close(function(logits, soft, **settings), expected)


@pytest.mark.parametrize(("name", "function", "settings"), CASES)
def test_first_and_second_derivatives(name: str, function: Any, settings: dict[str, float]) -> None:
    logits, target = _random(rows=3)
    logits.requires_grad_()
    for goal in (target, logits.detach().softmax(1)):
        assert torch.autograd.gradcheck(lambda z, goal=goal: function(z, goal, **settings), logits)
        assert torch.autograd.gradgradcheck(lambda z, goal=goal: function(z, goal, **settings), logits)


@pytest.mark.parametrize(("name", "function", "settings"), CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tails_are_finite_and_agree_with_float64(
    name: str, function: Any, settings: dict[str, float], dtype: torch.dtype
) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [90.0, 0.0, 1.0], [0.0, 90.0, 1.0]]).to(dtype)
    results = []
    for z in (logits.clone().requires_grad_(), logits.double().requires_grad_()):
        loss = function(z, torch.zeros(4, dtype=torch.int64), reduction="none", **settings)
        (grad,) = torch.autograd.grad(loss.sum(), z)
        assert loss.isfinite().all()
        assert grad.isfinite().all()
        results.append((loss.detach().double(), grad.double()))
    torch.testing.assert_close(
        results[0], results[1], rtol=1e-2 if dtype != torch.float32 else 2e-5, atol=1e-7
    )


def test_cce_charges_a_sure_mistake_twice_the_gap_of_the_logits() -> None:
    logits = torch.tensor([[-200.0, 200.0]], requires_grad=True)
    loss = extended_binary_cross_entropy_loss(logits, torch.tensor([0]))
    assert loss.item() == pytest.approx(800.0)  # -log p_0 = 400 and -log(1 - p_1) = 400; naively infinite
    (grad,) = torch.autograd.grad(loss, logits)
    assert grad.tolist() == [[-2.0, 2.0]]


def test_cce_keeps_a_vanishing_loss_in_the_confident_tail() -> None:
    logits = torch.tensor([[40.0, 0.0]])
    value = extended_binary_cross_entropy_loss(logits, torch.tensor([0])).item()
    assert value == pytest.approx(2 * math.exp(-40), rel=1e-5)


def test_dualce_without_its_second_term_is_cross_entropy_bit_for_bit() -> None:
    logits, target = _random()
    assert torch.equal(dual_cross_entropy_loss(logits, target, beta=0.0), cross_entropy_loss(logits, target))


def test_negative_settings_are_refused() -> None:
    logits, target = _random()
    with pytest.raises(ValueError, match="beta must be a finite number >= 0"):
        dual_cross_entropy_loss(logits, target, beta=-1.0)
