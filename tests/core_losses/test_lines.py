"""The posterior losses as functions of m: each push is minus the derivative of its value, also far out."""

from __future__ import annotations

import pytest
import torch

from core_losses.lines import CompetingRatio, CrossEntropy, Focal, LikelihoodRatio, Taming
from core_losses.log_odds import Line

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
