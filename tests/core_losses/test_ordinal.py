"""Losses for ordered classes, and soft target rows: worked numbers, limits, both tails, their refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from core_losses import (
    build_loss,
    competing_ratio_loss,
    cross_entropy_loss,
    mean_variance_loss,
    negative_log_likelihood_ratio_loss,
    ordered_log_loss,
    soft_target_rows,
)
from core_losses.ordinal import _cut_log_odds, _moments, _running_logsumexp
from tests.core_losses.references import per_class

Z = torch.tensor([[0.5, 1.0, 2.0, 0.0, -1.0]], dtype=torch.float64)
TWO, THREE = torch.tensor([2]), torch.tensor([3])


def near(value: float) -> Any:
    """A number that was computed apart from this package, to its printed digits."""
    return pytest.approx(value, abs=6e-7)


def test_the_worked_numbers_of_one_row() -> None:
    assert Z.softmax(1)[0].tolist() == near([0.125627, 0.207124, 0.563021, 0.076197, 0.028031])
    assert [moment.item() for moment in _moments(Z)] == near([1.673881, 0.7916])
    assert cross_entropy_loss(Z, TWO).item() == near(0.574438)
    assert competing_ratio_loss(Z, TWO).item() == near(1.235567)
    assert negative_log_likelihood_ratio_loss(Z, TWO).item() == near(-0.253433)
    assert competing_ratio_loss(Z, THREE).item() == near(3.459776)
    assert negative_log_likelihood_ratio_loss(Z, THREE).item() == near(2.495182)
    assert mean_variance_loss(Z, THREE).item() == near(2.789877)
    assert ordered_log_loss(Z, THREE).item() == near(2.828448)
    parts = [mean_variance_loss(Z, THREE, mean=m, variance=0.0).item() for m in (1.0, 0.0)]
    assert parts[0] - parts[1] == near(0.879296)


def test_two_classes_make_the_ordered_log_loss_binary_cross_entropy() -> None:
    z = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 20
    target = torch.arange(50) % 2
    torch.testing.assert_close(ordered_log_loss(z, target), F.cross_entropy(z, target))


def test_without_moments_it_is_cross_entropy() -> None:
    loss = mean_variance_loss(Z, THREE, mean=0.0, variance=0.0)
    assert loss.item() == cross_entropy_loss(Z, THREE).item()


@pytest.mark.parametrize("name", ["olog", "mean_variance"])
def test_logits_of_ten_thousand_keep_values_and_gradients(name: str) -> None:
    source = torch.Generator().manual_seed(1)
    for scale, least in ((1.0, 0.0), (100.0, 0.0), (1e4, 0.0), (1.0, -1e4)):
        raw = (torch.rand(30, 8, generator=source) * 2 - 1) * scale
        raw[:, :-1] += least  # close to each other, and far below the last class
        target = torch.arange(30) % 8
        found = []
        for z in (raw.clone().requires_grad_(), raw.double().requires_grad_()):
            value = build_loss(name, reduction="none")(z, target)
            (grad,) = torch.autograd.grad(value.sum(), z)
            found.append((value.double(), grad.double()))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-5, atol=1e-6)
    if name == "olog":  # the slow sums of the posterior, where none of them is rounded away
        z = raw.double() / 1e3
        slow = per_class(name, z).gather(1, target[:, None]).mean()
        torch.testing.assert_close(build_loss(name)(z, target), slow)


def test_an_impossible_class_and_an_ignored_image_leave_gradients_finite() -> None:
    z = torch.tensor([[-math.inf, 1.0, 0.0], [-math.inf, 2.0, 1.0]], requires_grad=True)
    lost = torch.tensor([[0.0, 1.0, 0.0], [math.nan, 2.0, 1.0]])
    for name in ("olog", "mean_variance"):
        assert build_loss(name)(lost, torch.tensor([1, -100])).isfinite()
        (grad,) = torch.autograd.grad(build_loss(name)(z, torch.tensor([1, -100])), z)
        assert grad.isfinite().all()
        assert (grad[1] == 0).all()
    assert _cut_log_odds(z.detach())[0, 0] < -1e5


def test_the_running_sum_is_torchs_own() -> None:
    z = torch.randn(3, 11, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 50
    torch.testing.assert_close(_running_logsumexp(z, 1), z.logcumsumexp(1))


def test_class_weights_act_on_the_class_of_the_target() -> None:
    z = Z.repeat(2, 1)
    weight = torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0], dtype=torch.float64)
    single = [ordered_log_loss(Z, target).item() for target in (TWO, THREE)]
    found = ordered_log_loss(z, torch.tensor([2, 3]), weight=weight).item()
    assert found == pytest.approx((3 * single[0] + single[1]) / 4)


SORD = [
    [0.636409, 0.234122, 0.086129, 0.031685, 0.011656],
    [0.067451, 0.18335, 0.498398, 0.18335, 0.067451],
]
GAUSSIAN = [
    [0.57035, 0.345935, 0.077188, 0.006336, 0.000191],
    [0.054489, 0.244201, 0.40262, 0.244201, 0.054489],
]


@pytest.mark.parametrize(
    ("kind", "width", "first", "middle"),
    [
        ("sord", None, *SORD),
        ("gaussian", 1.0, *GAUSSIAN),
        ("triangular", None, [0.9, 0.1, 0, 0, 0], [0, 0.05, 0.9, 0.05, 0]),
    ],
)
def test_rows_of_five_classes(
    kind: Any, width: float | None, first: list[float], middle: list[float]
) -> None:
    rows = soft_target_rows(kind, range(5), width)
    assert rows[0].tolist() == near(first)
    assert rows[2].tolist() == near(middle)
    assert rows[4].tolist() == near(first[::-1])
    assert rows.sum(1).tolist() == near([1.0] * 5)
    assert (rows >= 0).all()


def test_losses_on_a_softened_row() -> None:
    sord, gaussian = (soft_target_rows(kind, range(5))[None, 2].double() for kind in ("sord", "gaussian"))
    assert cross_entropy_loss(Z, sord).item() == near(1.428017)
    assert cross_entropy_loss(Z, gaussian).item() == near(1.552241)
    assert F.kl_div(Z.log_softmax(1), gaussian, reduction="sum").item() == near(0.180323)
    assert competing_ratio_loss(Z, sord).item() == near(2.191366)


def test_rows_pull_the_ends_inwards() -> None:
    """Decoding by the expected class is biased at both ends: its best answer for class 0 is half a class."""
    for kind, bias in (("gaussian", 0.520), ("sord", 0.548)):
        rows = soft_target_rows(kind, range(5)).double()  # type: ignore[arg-type]
        expected = rows @ torch.arange(5.0).double()
        assert expected[0].item() == pytest.approx(bias, abs=6e-4)
        assert expected[2].item() == near(2.0)
        assert expected[4].item() == pytest.approx(4 - bias, abs=6e-4)


@pytest.mark.parametrize(
    ("truth", "answer"), [(0.6, 0.631), (0.7, 0.75), (0.8, 0.8508), (0.9, 0.9332), (0.99, 0.9939)]
)
def test_the_competing_ratio_loss_answers_sharper_than_its_soft_target(truth: float, answer: float) -> None:
    p = torch.linspace(0.5, 0.9999, 50_000, dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()], 1)
    goal = torch.tensor([[truth, 1 - truth]], dtype=torch.float64).expand(len(p), 2)
    losses = competing_ratio_loss(logits, goal, reduction="none")
    assert p[losses.argmin()].item() == pytest.approx(answer, abs=6e-4)
    assert p[cross_entropy_loss(logits, goal, reduction="none").argmin()].item() == pytest.approx(
        truth, abs=1e-4
    )


def test_distances_in_years_spread_by_the_places() -> None:
    rows = soft_target_rows("sord", [1.0, 5.0, 10.0], width=4.0).double()
    assert rows[1].log().diff().tolist() == pytest.approx([1.0, -1.25], abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "places", "width", "message"),
    [
        ("beta", [0, 1], None, "targets must be one of sord, gaussian, triangular, got 'beta'"),
        ("sord", [0, 1], 0.0, "target_width of sord targets must be a finite number > 0, got 0"),
        ("triangular", [0, 1], 1.0, r"target_width of triangular targets must lie in \(0, 1\), got 1"),
        ("gaussian", [0, 0], None, r"places of classes must be at least two and rise, got \[0, 0\]"),
        ("gaussian", [3], None, "at least two and rise"),
    ],
)
def test_what_cannot_be_rows_is_refused(
    kind: Any, places: list[float], width: float | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        soft_target_rows(kind, places, width)


def test_negative_moments_are_refused() -> None:
    with pytest.raises(ValueError, match="mean must be a finite number >= 0"):
        build_loss("mean_variance", mean=-1.0)
    with pytest.raises(ValueError, match="variance must be a finite number >= 0"):
        mean_variance_loss(Z, TWO, variance=-1.0)
