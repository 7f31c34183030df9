"""Targets, weights, smoothing, ignore_index and reductions: torch's own rules, and plain refusals."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core_losses import LOSSES, build_loss, competing_ratio_loss, cross_entropy_loss
from core_losses.reduction import REDUCTIONS
from tests.core_losses.references import per_class

WEIGHT = torch.tensor([0.5, 2.0, 0.0, 1.25, 3.0], dtype=torch.float64)


def _batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of `shape` with 5 classes, class indices with every third ignored (-100), and soft targets."""
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(shape, dtype=torch.float64, generator=generator)
    dim = 0 if len(shape) == 1 else 1
    target = torch.randint(0, 5, logits.argmax(dim).shape, generator=generator)
    if target.ndim:
        target.view(-1)[::3] = -100
    soft = torch.randn(shape, dtype=torch.float64, generator=generator).softmax(dim)
    return logits, target, soft


@pytest.mark.parametrize("shape", [(5,), (7, 5), (3, 5, 4), (2, 5, 3, 2)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_equals_torch_in_every_combination_of_keywords(
    shape: tuple[int, ...], reduction: Any
) -> None:
    logits, target, soft = _batch(shape)
    for weight, smoothing in itertools.product((None, WEIGHT), (0.0, 0.1, 1.0)):
        for goal, ignore in ((target, -100), (target.clamp(min=0), 3), (soft, -100)):
            z = logits.clone().requires_grad_()
            keywords: dict[str, Any] = {
                "weight": weight,
                "reduction": reduction,
                "label_smoothing": smoothing,
                "ignore_index": ignore,
            }
            ours, theirs = cross_entropy_loss(z, goal, **keywords), F.cross_entropy(z, goal, **keywords)
            torch.testing.assert_close(ours, theirs)
            if theirs.isfinite().all():
                grads = [torch.autograd.grad(value.sum(), z)[0] for value in (ours, theirs)]
                torch.testing.assert_close(*grads)


@pytest.mark.parametrize("name", list(LOSSES))
def test_smoothed_and_soft_targets_are_weighted_sums_of_the_class_losses(name: str) -> None:
    logits, target, soft = _batch((7, 5))
    table = per_class(name, logits)
    expected = (WEIGHT * soft * table).sum(1).mean()
    torch.testing.assert_close(build_loss(name, weight=WEIGHT)(logits, soft), expected)
    valid = target != -100
    smoothed = F.one_hot(target.clamp(min=0), 5).double() * 0.8 + 0.2 / 5
    value = (smoothed * WEIGHT * table).sum(1)[valid].sum() / WEIGHT[target[valid]].sum()
    torch.testing.assert_close(build_loss(name, weight=WEIGHT, label_smoothing=0.2)(logits, target), value)


@pytest.mark.parametrize("name", list(LOSSES))
def test_one_hot_soft_targets_equal_class_indices(name: str) -> None:
    logits, target, _ = _batch((7, 5))
    target = target.clamp(min=0)
    loss = build_loss(name)
    torch.testing.assert_close(loss(logits, F.one_hot(target, 5).double()), loss(logits, target))


@pytest.mark.parametrize("name", list(LOSSES))
def test_weighted_mean_divides_by_the_summed_weights_of_counted_targets(name: str) -> None:
    logits, target, _ = _batch((7, 5))
    valid = target != -100
    table = per_class(name, logits[valid]).gather(1, target[valid].unsqueeze(1)).squeeze(1)
    weights = WEIGHT[target[valid]]
    expected = (weights * table).sum() / weights.sum()
    torch.testing.assert_close(build_loss(name, weight=WEIGHT)(logits, target), expected)


@pytest.mark.parametrize("name", list(LOSSES))
def test_ignored_examples_cost_nothing_even_where_their_logits_are_infinite(name: str) -> None:
    logits = torch.tensor([[float("-inf"), 2.0, 1.0], [0.5, 0.25, 0.0]], requires_grad=True)
    losses = build_loss(name, reduction="none")(logits, torch.tensor([-100, 1]))
    assert losses[0] == 0
    alone = build_loss(name)(logits[1:], torch.tensor([1]))
    torch.testing.assert_close(build_loss(name)(logits, torch.tensor([-100, 1])), alone)


def test_gradients_reach_soft_targets() -> None:
    logits, _, soft = _batch((7, 5))
    soft = soft.requires_grad_()
    (grad,) = torch.autograd.grad(competing_ratio_loss(logits, soft, reduction="sum"), soft)
    torch.testing.assert_close(grad, per_class("crl", logits))


def test_mean_over_ignored_examples_alone_is_nan_as_in_torch() -> None:
    logits, target = torch.zeros(2, 3), torch.tensor([-100, -100])
    assert F.cross_entropy(logits, target).isnan()
    assert competing_ratio_loss(logits, target).isnan()
    assert competing_ratio_loss(logits, target, reduction="sum") == 0


LOGITS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("logits", "target", "keywords", "kind", "message"),
    [
        (LOGITS, torch.tensor([0, 3]), {}, ValueError, r"\[0, 3\).*first being 3.*count from 1"),
        (LOGITS, torch.tensor([-1, 0]), {}, ValueError, r"first being -1"),
        (LOGITS, torch.tensor([0, 3]), {"label_smoothing": 0.1}, ValueError, r"first being 3"),
        (LOGITS, torch.tensor([0, 3]), {"weight": torch.ones(3)}, ValueError, r"first being 3"),
        (LOGITS, torch.tensor([0, 1, 2]), {}, ValueError, r"must be shaped \(2,\).*arrived as \(3,\)"),
        (LOGITS, torch.tensor([[0], [1]]), {}, ValueError, r"arrived as \(2, 1\)"),
        (LOGITS, torch.tensor([0.0, 1.0]), {}, ValueError, r"soft targets.*use target.long\(\)"),
        (LOGITS, torch.tensor([0, 1], dtype=torch.int32), {}, TypeError, r"int64.*torch.int32"),
        (LOGITS, torch.tensor([True, False]), {}, TypeError, r"int64.*torch.bool"),
        (LOGITS.long(), torch.tensor([0, 1]), {}, TypeError, r"logits must be floating point"),
        (torch.zeros(2, 1), torch.tensor([0, 0]), {}, ValueError, r"at least 2 classes.*\(2, 1\)"),
        (torch.tensor(1.0), torch.tensor(0), {}, ValueError, r"at least 2 classes"),
        (LOGITS, torch.tensor([0, 1]), {"weight": torch.ones(2)}, ValueError, r"shape \(3,\)"),
        (LOGITS, torch.tensor([0, 1]), {"reduction": "avg"}, ValueError, r"none, mean, sum.*'avg'"),
        (LOGITS, torch.tensor([0, 1]), {"label_smoothing": 1.5}, ValueError, r"\[0, 1\].*1.5"),
    ],
)
@pytest.mark.parametrize("name", ["crl", "dualce"])
def test_what_cannot_be_right_is_refused_in_plain_words(
    name: str, logits: Tensor, target: Tensor, keywords: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        build_loss(name, **keywords)(logits, target)
