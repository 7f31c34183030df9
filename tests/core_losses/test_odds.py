"""The log-odds and log(1 - p): exact in both tails, in every type, through every transform of torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from core_losses.odds import log_odds, log_odds_and_descent, log_posteriors


def test_log_odds_of_three_classes_worked_by_hand() -> None:
    logits = torch.tensor([[math.log(5.0), math.log(3.0), math.log(2.0)]], dtype=torch.float64)
    expected = [math.log(0.5 / 0.5), math.log(0.3 / 0.7), math.log(0.2 / 0.8)]
    for k, value in enumerate(expected):
        assert log_odds(logits, torch.tensor([k])).item() == pytest.approx(value, abs=1e-12)


def test_two_classes_give_exactly_the_difference_of_the_logits() -> None:
    logits = torch.tensor([[3.25, -1.5], [1e4, -1e4], [-1e4, 1e4]])
    assert log_odds(logits, torch.tensor([0, 0, 0])).tolist() == [4.75, 2e4, -2e4]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_both_tails_are_exact_at_logits_of_ten_thousand(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4, -1e4], [-1e4, 1e4, 1e4]]).to(dtype).requires_grad_()
    m = log_odds(logits, torch.tensor([0, 0]))
    assert m.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    gap = 2 * logits[0, 0].item()
    assert m.tolist() == [
        pytest.approx(gap - math.log(2), rel=1e-7),
        pytest.approx(-gap - math.log(2), rel=1e-7),
    ]
    (grad,) = torch.autograd.grad(m.sum(), logits)
    assert grad.tolist() == [[1.0, -0.5, -0.5], [1.0, -0.5, -0.5]]


def test_nearly_equal_large_logits_keep_their_digits_in_float32() -> None:
    logits = torch.tensor([[10_000.0, 9_999.0, 9_998.5]])
    expected = 1.0 - math.log(1 + math.exp(-0.5))
    assert log_odds(logits, torch.tensor([0])).item() == pytest.approx(expected, rel=1e-6)
    log_p, log_not_p = log_posteriors(logits)
    assert (log_p - log_not_p)[0, 0].item() == pytest.approx(expected, rel=1e-6)


def test_log_posteriors_agree_with_the_direct_formula_where_it_is_exact() -> None:
    logits = torch.randn(40, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    log_p, log_not_p = log_posteriors(logits)
    p = logits.softmax(1)
    torch.testing.assert_close(log_p, p.log())
    torch.testing.assert_close(log_not_p, torch.log1p(-p))
    for k in range(7):
        torch.testing.assert_close((log_p - log_not_p)[:, k], log_odds(logits, torch.full((40,), k)))


def test_log_of_one_minus_p_is_finite_where_one_minus_softmax_is_zero() -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0]])
    assert torch.log(1 - logits.softmax(1))[0, 0] == -math.inf
    assert log_posteriors(logits)[1][0, 0].item() == pytest.approx(math.log(2) - 60, rel=1e-6)


def test_classes_masked_by_minus_infinity_cost_nothing_and_move_nothing() -> None:
    logits = torch.tensor([[1.0, -math.inf, 2.0], [1.0, -math.inf, -math.inf]], requires_grad=True)
    m = log_odds(logits, torch.tensor([0, 0]))
    assert m[0].item() == -1.0
    assert 1e30 < m[1].item() < math.inf
    (grad,) = torch.autograd.grad(m[0], logits)
    assert grad.tolist() == [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 6, 4), (2, 6, 3, 2)])
def test_softmax_in_place_matches_the_plain_formula_in_every_layout(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    dim = 0 if len(shape) == 1 else 1
    index = logits.argmin(dim, keepdim=True)
    for arranged in (logits, logits.transpose(0, -1).contiguous().transpose(0, -1)):
        m, descent = log_odds_and_descent(arranged, index)
        others = arranged.scatter(dim, index, -math.inf)
        torch.testing.assert_close(m, arranged.gather(dim, index) - others.logsumexp(dim, keepdim=True))
        torch.testing.assert_close(descent, others.softmax(dim).scatter(dim, index, -1.0))


def test_first_and_second_derivatives_match_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(4, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    target = torch.tensor([0, 4, 2, 2])

    def both(logits: Tensor) -> Tensor:
        log_p, log_not_p = log_posteriors(logits)
        return log_p.cos() + log_not_p.sin()

    def single(logits: Tensor) -> Tensor:
        m, descent = log_odds_and_descent(logits, target.unsqueeze(1))
        return m.sin() + (descent * torch.arange(5.0)).sum(1, keepdim=True).cos()

    for function in (both, single):
        assert torch.autograd.gradcheck(function, logits)
        assert torch.autograd.gradgradcheck(function, logits)


def test_integer_logits_are_refused() -> None:
    with pytest.raises(TypeError, match=r"floating point, but arrived as torch.int64"):
        log_odds(torch.tensor([[1, 2]]), torch.tensor([0]))
