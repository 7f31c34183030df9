"""Heads on a scale of years: masses between edges, exact in both tails, for years and for groups."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core_losses import LOSSES, build_loss
from finetune.errors import UsageError
from finetune.models.backbone import Features
from finetune.models.heads.registry import head_options
from finetune.models.heads.years import LEAST_WIDTH, ScaleHead, YearLaplaceHead, YearLogisticHead

HEADS = [YearLaplaceHead, YearLogisticHead]
EDGES = "2.5,7,13,20"


def masses(
    kind: type[ScaleHead], location: float, width: float, edges: str, dtype: Any = torch.float64
) -> Tensor:
    head = kind(1, edges.count(",") + 2, edges=edges).to(dtype)
    return head.log_masses(torch.tensor([[location]], dtype=dtype), torch.tensor([[width]], dtype=dtype))


def test_the_worked_numbers_of_the_laplace_head():
    z = masses(YearLaplaceHead, 9.3, 3.0, EDGES)
    wanted = [0.051829, 0.180451, 0.622061, 0.131535, 0.014125]
    assert z.exp()[0].tolist() == pytest.approx(wanted, abs=6e-7)


def test_cross_entropy_of_years_is_the_density_up_to_the_curve_within_a_year():
    z = masses(YearLaplaceHead, 9.3, 3.0, "9.5,10.5,11.5,12.5")
    density = abs(11 - 9.3) / 3 + math.log(2 * 3)
    assert density == pytest.approx(2.358426, abs=6e-7)
    assert -z[0, 2].item() == pytest.approx(density - math.log(6 * math.sinh(1 / 6)), abs=1e-9)


def test_the_logistic_head_is_the_cumulative_one_with_given_edges():
    z = masses(YearLogisticHead, 9.3, 3.0, EDGES)
    above = torch.sigmoid((9.3 - torch.tensor([2.5, 7, 13, 20]).double()) / 3)
    wanted = torch.cat([1 - above[:1], above[:-1] - above[1:], above[-1:]])
    torch.testing.assert_close(z.exp()[0], wanted)


@pytest.mark.parametrize("kind", HEADS)
def test_masses_are_exact_wherever_the_distribution_lies(kind: type[ScaleHead]):
    edges = ",".join(f"{k + 0.5}" for k in range(100))
    for location in (-3.0, 0.5, 49.5, 50.2, 120.0):
        for width in (LEAST_WIDTH, 5.0, 400.0):
            fine, coarse = (
                masses(kind, location, width, edges, kind_of) for kind_of in (torch.float64, torch.float32)
            )
            assert fine.logsumexp(1).item() == pytest.approx(0.0, abs=1e-11)
            torch.testing.assert_close(coarse.double(), fine, rtol=2e-5, atol=2e-5)
            x = torch.tensor([[location]], dtype=torch.float64, requires_grad=True)
            (slope,) = torch.autograd.grad(
                kind(1, 101, edges=edges).double().log_masses(x, 0 * x + width).sum(), x
            )
            assert slope.isfinite()
    assert masses(kind, 1e4, LEAST_WIDTH, EDGES, torch.float32).isfinite().all()


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_are_the_slopes(kind: type[ScaleHead]):
    torch.manual_seed(0)
    head = kind(3, 5, edges=EDGES).double()
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        head.layer.weight.mul_(100)
    assert torch.autograd.gradcheck(head.log_posteriors, x)


@pytest.mark.parametrize("kind", HEADS)
def test_the_start_spreads_over_the_classes_and_every_loss_reads_it(kind: type[ScaleHead]):
    torch.manual_seed(0)
    head, target = kind(6, 8, edges="3,7,13.5,22.5,35,45.5,56.5"), torch.arange(7)
    start = head.eval().infer(Features(torch.zeros(1, 6))).exp()
    assert start.min() > 0.02
    assert start.max() < 0.45
    z = head(Features(torch.randn(7, 6))).logits
    for loss in LOSSES:
        grads = torch.autograd.grad(build_loss(loss)(z, target), list(head.parameters()), retain_graph=True)
        assert all(grad.isfinite().all() for grad in grads), loss
    torch.testing.assert_close(build_loss("crl", beta=0.0)(z, target), F.nll_loss(z, target))
    assert head.map_classifier() is None
    assert set(head.state_dict()) == {"layer.weight", "layer.bias"}, "edges are the configuration's"
    assert head_options("year_laplace") == {"edges": "", "dropout": 0.0}


def test_the_same_two_numbers_answer_for_groups():
    """A group's mass is the sum of its years', whatever the classes the head was cut into."""
    years = masses(YearLaplaceHead, 9.3, 3.0, ",".join(f"{k + 0.5}" for k in range(20))).exp()[0]
    groups = masses(YearLaplaceHead, 9.3, 3.0, "2.5,6.5,12.5").exp()[0]
    torch.testing.assert_close(
        torch.stack([years[:3].sum(), years[3:7].sum(), years[7:13].sum()]), groups[:3]
    )


@pytest.mark.parametrize("edges", ["1,2", "3,2,1", "1,2,x", "1,2,inf", "1,1,2"])
def test_edges_that_cannot_be_are_refused(edges: str):
    with pytest.raises(UsageError, match=r"head\.options\.edges must be 3 rising numbers with commas"):
        YearLaplaceHead(2, 4, edges=edges)
