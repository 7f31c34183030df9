"""CEL, NLLR, CRL, focal and TCE: hand-worked numbers, identities between them, gradients, and the tails."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core_losses import (
    CompetingRatioLoss,
    NLLRLoss,
    competing_ratio_loss,
    cross_entropy_loss,
    focal_loss,
    negative_log_likelihood_ratio_loss,
    taming_cross_entropy_loss,
)
from core_losses.posterior import _warn_negative_values
from tests.core_losses.references import per_example

LOGITS = torch.tensor([[2.0, 1.0, 0.5, -1.0]], dtype=torch.float64)
TARGET = torch.tensor([0])


@pytest.fixture(autouse=True)
def _negative_values_are_no_news(recwarn: pytest.WarningsRecorder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _warn_negative_values()


def _random(rows: int = 30, classes: int = 6, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(rows, classes, dtype=torch.float64, generator=generator) * scale
    return logits, torch.randint(0, classes, (rows,), generator=generator)


def test_values_worked_by_hand_from_p() -> None:
    exponentials = [math.e**2, math.e, math.e**0.5, math.e**-1]  # 7.389 + 2.718 + 1.649 + 0.368 = 12.124
    p = exponentials[0] / sum(exponentials)
    assert p == pytest.approx(0.60946, abs=1e-5)
    worked = {
        cross_entropy_loss: -math.log(p),  # 0.4952
        negative_log_likelihood_ratio_loss: math.log((1 - p) / p),  # -0.4451
        competing_ratio_loss: math.log(1.5 + 1 - p) - math.log(p),  # 0.6369 + 0.4952 = 1.1320
        focal_loss: (1 - p) ** 2 * -math.log(p),  # 0.1525 * 0.4952
        taming_cross_entropy_loss: ((1 - math.log(p)) ** 0.2 - 1) / 0.2,
    }
    for function, value in worked.items():
        assert function(LOGITS, TARGET).item() == pytest.approx(value, rel=1e-12), function.__name__
    assert competing_ratio_loss(LOGITS, TARGET, alpha=1.5, beta=1.0).item() == pytest.approx(1.1320, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "function", "settings"),
    [
        ("cel", cross_entropy_loss, {}),
        ("nllr", negative_log_likelihood_ratio_loss, {}),
        ("nllr", negative_log_likelihood_ratio_loss, {"clamp": 0.0}),
        ("nllr", negative_log_likelihood_ratio_loss, {"clamp": 0.1}),
        ("crl", competing_ratio_loss, {"clamp": 0.1}),
        ("crl", competing_ratio_loss, {"alpha": 0.2, "beta": 0.7, "clamp": 0.1}),
        ("crl", competing_ratio_loss, {}),
        ("crl", competing_ratio_loss, {"alpha": 0.0, "beta": 0.25}),
        ("crl", competing_ratio_loss, {"alpha": 0.2, "beta": 0.7}),
        ("crl", competing_ratio_loss, {"alpha": 2.0, "beta": 1.25}),
        ("focal", focal_loss, {"gamma": 0.5}),
        ("focal", focal_loss, {"gamma": 3.0}),
        ("tce", taming_cross_entropy_loss, {"a": 0.3}),
        ("tce", taming_cross_entropy_loss, {"a": 1.0}),
        ("tce", taming_cross_entropy_loss, {"a": 2.0}),
    ],
)
class TestAgainstTheFormulaInP:
    def test_values(self, name: str, function: Any, settings: dict[str, float]) -> None:
        logits, target = _random()
        expected = per_example(name, logits, target, **settings)
        torch.testing.assert_close(function(logits, target, reduction="none", **settings), expected)
        torch.testing.assert_close(function(logits, target, **settings), expected.mean())

    def test_first_and_second_derivatives(self, name: str, function: Any, settings: dict[str, float]) -> None:
        logits, target = _random(rows=3, classes=4)
        logits.requires_grad_()
        assert torch.autograd.gradcheck(lambda z: function(z, target, **settings), logits)
        assert torch.autograd.gradgradcheck(lambda z: function(z, target, **settings), logits)

    def test_tails_are_finite_and_agree_with_float64(
        self, name: str, function: Any, settings: dict[str, float]
    ) -> None:
        rows = [[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [90.0, 0.0, 0.0], [0.0, 90.0, 0.0], [-1e4, -1e4, -1e4]]
        results = {}
        for dtype in (torch.float32, torch.float64):
            logits = torch.tensor(rows, dtype=dtype, requires_grad=True)
            loss = function(logits, torch.zeros(5, dtype=torch.int64), reduction="none", **settings)
            (grad,) = torch.autograd.grad(loss.sum(), logits)
            assert loss.isfinite().all()
            assert grad.isfinite().all()
            results[dtype] = (loss.detach().double(), grad.double())
        torch.testing.assert_close(results[torch.float32], results[torch.float64], rtol=2e-5, atol=1e-30)


def test_cross_entropy_keeps_the_confident_tail_that_log_softmax_rounds_away() -> None:
    logits = torch.tensor([[40.0, 0.0]])
    assert F.cross_entropy(logits, TARGET).item() == 0.0
    assert cross_entropy_loss(logits, TARGET).item() == pytest.approx(math.exp(-40), rel=1e-6)


def test_beta_zero_gamma_zero_and_a_zero_are_cross_entropy_bit_for_bit() -> None:
    logits, target = _random()
    for dtype in (torch.float32, torch.float64):
        z = logits.to(dtype).requires_grad_()
        expected = cross_entropy_loss(z, target)
        (expected_grad,) = torch.autograd.grad(expected, z)
        for value in (
            competing_ratio_loss(z, target, beta=0.0),
            competing_ratio_loss(z, target, alpha=0.0, beta=0.0),
            focal_loss(z, target, gamma=0.0),
            taming_cross_entropy_loss(z, target, a=0.0),
        ):
            assert torch.equal(value, expected)
            assert torch.equal(torch.autograd.grad(value, z)[0], expected_grad)


def test_alpha_zero_beta_one_is_nllr_bit_for_bit() -> None:
    logits, target = _random(scale=30.0)
    z = logits.float().requires_grad_()
    value, expected = (
        competing_ratio_loss(z, target, alpha=0.0),
        negative_log_likelihood_ratio_loss(z, target, clamp=0),
    )
    assert torch.equal(value, expected)
    assert torch.equal(torch.autograd.grad(value, z)[0], torch.autograd.grad(expected, z)[0])


def test_nllr_of_two_classes_is_minus_the_difference_of_the_logits() -> None:
    logits, target = _random(classes=2)
    difference = logits[torch.arange(30), target] - logits[torch.arange(30), 1 - target]
    torch.testing.assert_close(
        negative_log_likelihood_ratio_loss(logits, target, reduction="none"),
        -difference,
        rtol=1e-13,
        atol=1e-13,
    )


def test_nllr_slope_in_the_target_is_minus_one_right_or_wrong() -> None:
    logits, target = _random(scale=10.0)
    logits.requires_grad_()
    loss = negative_log_likelihood_ratio_loss(logits, target, clamp=0, reduction="sum")
    (grad,) = torch.autograd.grad(loss, logits)
    assert (grad[torch.arange(30), target] == -1.0).all()
    assert (grad.sum(1).abs() < 1e-12).all()


class TestCompetingRatioGradient:
    """Eqs. 14 and 15 as derived, and as printed."""

    alpha, beta = 1.5, 1.0

    def _gradient_and_ce_gradient(self) -> tuple[Tensor, Tensor, Tensor]:
        logits, target = _random()
        logits.requires_grad_()
        loss = competing_ratio_loss(logits, target, alpha=self.alpha, beta=self.beta, reduction="sum")
        (grad,) = torch.autograd.grad(loss, logits)
        p = logits.detach().softmax(1)
        return grad, p - F.one_hot(target, 6), p.gather(1, target.unsqueeze(1))

    def test_is_the_cross_entropy_gradient_times_the_corrected_factor(self) -> None:
        grad, ce_grad, p = self._gradient_and_ce_gradient()
        torch.testing.assert_close(grad, ce_grad * (1 + self.beta * p / (self.alpha + 1 - p)))

    def test_is_not_what_the_paper_prints(self) -> None:
        grad, ce_grad, p = self._gradient_and_ce_gradient()
        printed = ce_grad * (1 - self.beta * p / (self.alpha + 1 - p))
        assert ((grad - printed).abs().amax(1) > 1e-6).all()
        assert (grad.norm(dim=1) > ce_grad.norm(dim=1)).all()
        assert (printed.norm(dim=1) < ce_grad.norm(dim=1)).all()


def test_crl_floor_is_beta_log_alpha_and_not_zero() -> None:
    sure = torch.tensor([[100.0, 0.0, 0.0]], dtype=torch.float64)
    assert competing_ratio_loss(sure, TARGET).item() == pytest.approx(0.405465, abs=1e-6)
    assert competing_ratio_loss(sure, TARGET, alpha=3.0, beta=0.5).item() == pytest.approx(
        0.5 * math.log(3.0)
    )


def test_crl_at_alpha_one_keeps_a_vanishing_loss() -> None:
    sure = torch.tensor([[40.0, 0.0]])
    value = competing_ratio_loss(sure, TARGET, alpha=1.0, beta=1.0).item()
    assert value == pytest.approx(2 * math.exp(-40), rel=1e-5)


def test_clamped_nllr_stops_at_the_released_codes_bounds() -> None:
    logits = torch.tensor([[50.0, 0.0], [-50.0, 0.0], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = negative_log_likelihood_ratio_loss(logits, torch.tensor([0, 0, 0]), clamp=1e-7, reduction="none")
    bound = math.log((1 - 1e-7) / 1e-7)
    assert loss.tolist() == pytest.approx([-bound, bound, -1.0])
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert grad.tolist() == [[0.0, 0.0], [0.0, 0.0], [-1.0, 1.0]]


def test_nllr_is_the_published_one_unless_the_clamp_is_turned_off() -> None:
    logits = torch.tensor([[17.0, 0.0], [16.0, 0.0]])
    target = torch.tensor([0, 0])
    published = negative_log_likelihood_ratio_loss(logits, target, reduction="none")
    assert published.tolist() == pytest.approx([-16.118095550958316, -16.0])  # log((1 - 1e-7) / 1e-7)
    for off in (0, 0.0, None):
        loss = negative_log_likelihood_ratio_loss(logits, target, clamp=off, reduction="none")
        assert loss.tolist() == [-17.0, -16.0]
        assert NLLRLoss(clamp=off)(logits, target).item() == -16.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_clamp_is_applied_in_float32_where_a_half_type_has_no_1_minus_1e_7(dtype: torch.dtype) -> None:
    logits = torch.tensor([[40.0, 0.0], [8.0, 0.0], [-40.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = negative_log_likelihood_ratio_loss(logits, torch.zeros(3, dtype=torch.int64), reduction="none")
    assert loss.dtype == torch.float32
    assert loss.tolist() == pytest.approx([-16.118096, -8.0, 16.118096])
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    assert grad.tolist() == [[0.0, 0.0], [-1.0, 1.0], [0.0, 0.0]]


def test_clamped_crl_at_alpha_zero_beta_one_is_the_published_nllr() -> None:
    logits, target = _random(scale=30.0)
    z = logits.float().requires_grad_()
    value = competing_ratio_loss(z, target, alpha=0.0, clamp=1e-7)
    expected = negative_log_likelihood_ratio_loss(z, target)
    assert torch.equal(value, expected)
    assert torch.equal(torch.autograd.grad(value, z)[0], torch.autograd.grad(expected, z)[0])


@pytest.mark.parametrize("loss", [NLLRLoss(), CompetingRatioLoss(clamp=1e-7)])
def test_a_clamp_is_kept_by_vmap_compile_smoothing_and_soft_targets(loss: Any) -> None:
    logits, target = _random(rows=8, scale=20.0)
    stacked = logits.view(4, 2, 6), target.view(4, 2)
    grads = torch.func.vmap(torch.func.grad(loss))(*stacked)
    for own, z, c in zip(grads, *stacked, strict=True):
        torch.testing.assert_close(own, torch.func.grad(loss)(z, c))
    z = logits.clone().requires_grad_()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(z, target), z)[0], torch.func.grad(loss)(logits, target)
    )
    hard = F.one_hot(target, 6).double()
    torch.testing.assert_close(
        torch.func.grad(loss)(logits, hard), torch.func.grad(loss)(logits, target), rtol=1e-6, atol=1e-12
    )
    assert (torch.func.grad(loss)(logits, target) == 0).all(1).any(), "some examples are held"


def test_clamped_crl_has_no_gradient_outside_whatever_beta() -> None:
    logits = torch.tensor([[20.0, 0.0], [-20.0, 0.0], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    for beta in (0.0, 0.5, 1.0):
        settings = {"beta": beta, "reduction": "none"}
        loss = competing_ratio_loss(logits, torch.zeros(3, dtype=torch.int64), clamp=1e-7, **settings)
        (grad,) = torch.autograd.grad(loss.sum(), logits)
        assert (grad != 0).any(1).tolist() == [False, False, True]
        q = 1e-7  # the first row's 1 - p_c is held here, the second's p_c
        assert loss[0].item() == pytest.approx(beta * math.log(1.5 + q) - math.log1p(-q), rel=1e-12)
        assert loss[1].item() == pytest.approx(beta * math.log(2.5 - q) - math.log(q), rel=1e-12)
        exact = competing_ratio_loss(logits, torch.zeros(3, dtype=torch.int64), **settings)
        assert loss[2].item() == pytest.approx(exact[2].item(), rel=1e-12)


def test_hundred_thousand_classes_are_exact_in_float32() -> None:
    logits = torch.zeros(2, 100_000)
    logits[1, 7] = 30.0
    expected = per_example("crl", logits, torch.tensor([3, 7]))
    value = competing_ratio_loss(logits, torch.tensor([3, 7]), reduction="none")
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: competing_ratio_loss(LOGITS, TARGET, alpha=-0.1), "alpha must be a finite number >= 0"),
        (lambda: CompetingRatioLoss(beta=-1.0), "beta must be a finite number >= 0"),
        (lambda: focal_loss(LOGITS, TARGET, gamma=math.nan), "gamma must be a finite number >= 0"),
        (lambda: taming_cross_entropy_loss(LOGITS, TARGET, a=-1.0), "a must be a finite number >= 0"),
        (
            lambda: negative_log_likelihood_ratio_loss(LOGITS, TARGET, clamp=0.5),
            r"clamp must lie in \[0, 0.5\)",
        ),
        (lambda: CompetingRatioLoss(clamp=-1e-7), r"clamp must lie in \[0, 0.5\)"),
    ],
)
def test_impossible_settings_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_alpha_below_one_warns_once_that_values_may_be_negative() -> None:
    _warn_negative_values.cache_clear()
    with pytest.warns(UserWarning, match="can be negative when alpha < 1"):
        CompetingRatioLoss(alpha=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert CompetingRatioLoss(alpha=0.5)(torch.tensor([[20.0, 0.0]]), TARGET) < 0
        _warn_negative_values.cache_clear()
        CompetingRatioLoss(alpha=1.0)
        CompetingRatioLoss(alpha=0.0, beta=0.0)
