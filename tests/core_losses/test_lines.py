"""The posterior losses as functions of m: each push is minus the derivative of its value, also far out."""

from __future__ import annotations

import math

import pytest
import torch

from core_losses.lines import (
    CompetingRatio,
    CrossEntropy,
    Focal,
    LikelihoodRatio,
    Line,
    Taming,
    log_alpha_plus,
)

LINES: list[Line] = [
    CrossEntropy(),
    LikelihoodRatio(None),
    LikelihoodRatio(1e-3),
    CompetingRatio(1.5, 1.0),
    CompetingRatio(1.0, 2.0),
    CompetingRatio(0.3, 1.0),
    CompetingRatio(0.0, 1.0),
    CompetingRatio(0.0, 0.25),
    Focal(0.5),
    Focal(2.0),
    Taming(0.8),
    Taming(1.0),
    Taming(3.0),
]


@pytest.mark.parametrize("line", LINES, ids=repr)
def test_push_is_minus_the_derivative_of_the_value(line: Line) -> None:
    m = torch.linspace(-60, 60, 121, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(line.value(m).sum(), m)
    torch.testing.assert_close(line.push(m.detach()), -derivative, rtol=1e-9, atol=1e-30)


@pytest.mark.parametrize("line", LINES, ids=repr)
def test_value_and_push_are_finite_at_the_ends_of_float32(line: Line) -> None:
    m = torch.tensor([-2e4, -150.0, 150.0, 2e4])
    assert line.value(m).isfinite().all()
    assert line.push(m).isfinite().all()


@pytest.mark.parametrize("line", LINES, ids=repr)
def test_no_loss_ever_pushes_the_target_down(line: Line) -> None:
    assert (line.push(torch.linspace(-90, 90, 181)) >= 0).all()


def test_tiny_alpha_is_not_lost_in_float32() -> None:
    m = torch.tensor([120.0])
    value = CompetingRatio(1e-60, 1.0).value(m)
    assert value.item() == pytest.approx(-120.0, rel=1e-6)
    assert CompetingRatio(1e-60, 1.0).push(m).item() == pytest.approx(1.0)


@pytest.mark.parametrize("alpha", [0.0, 1e-30, 0.3, 0.5, 1.0, 1.5, 40.0])
def test_log_alpha_plus_is_exact_for_small_and_large_alpha(alpha: float) -> None:
    log_p = torch.tensor([-600.0, -30.0, -1.0, 0.0], dtype=torch.float64)
    expected = [
        math.log1p(alpha - 1 + p) if alpha >= 0.5 else (math.log(alpha + p) if alpha + p > 0 else -math.inf)
        for p in map(math.exp, log_p.tolist())
    ]
    torch.testing.assert_close(log_alpha_plus(alpha, log_p), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("alpha", [1e-8, 0.3, 1.0, 1.5, 40.0])
def test_competing_ratio_at_beta_one_is_cross_entropy_with_a_margin(alpha: float) -> None:
    m = torch.linspace(-50, 50, 101, dtype=torch.float64)
    lowered = m - math.log1p(1 / alpha)
    line = CompetingRatio(alpha, 1.0)
    torch.testing.assert_close(line.value(m), math.log(alpha) + CrossEntropy().value(lowered))
    torch.testing.assert_close(line.push(m), CrossEntropy().push(lowered))


@pytest.mark.parametrize(("alpha", "beta"), [(1.5, 1.0), (1.5, 0.25), (0.2, 1.25), (1.0, 3.0)])
def test_competing_ratio_is_the_papers_formula_in_p(alpha: float, beta: float) -> None:
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    expected = beta * torch.log(alpha + 1 - p) - torch.log(p)
    line = CompetingRatio(alpha, beta)
    torch.testing.assert_close(line.value(torch.logit(p)), expected)
    torch.testing.assert_close(line.push(torch.logit(p)), (1 - p) * (1 + beta * p / (alpha + 1 - p)))
