"""What CUDA does by a mask, done here: the values of the processor's way, and no scatter left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from core_losses import LOSSES, build_loss, build_margin_rule, chosen, gradient_factor, margin_logits
from core_losses.chosen import Chosen, take
from tests.fake_gpu.called import CalledOperations

SCATTERS = ("scatter", "index_put", "index_add")
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "weighted": {"weight": torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0])},
    "each": {"reduction": "none"},
}


def both(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> tuple[Any, Any, list[str], list[str]]:
    """Return what `act` returns by places and by masks, and the scatters of either."""
    with CalledOperations() as plain:
        by_place = act()
    monkeypatch.setattr(chosen, "by_mask", lambda _: True)
    with CalledOperations() as masked:
        by_mask = act()
    return by_place, by_mask, plain.named(*SCATTERS), masked.named(*SCATTERS)


def batch(soft: bool = False) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = 5 * torch.randn(7, 5, generator=generator)
    target = torch.tensor([0, 1, 2, 3, 4, 0, -100])
    return logits, logits.softmax(1).flip(0) if soft else target


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", [*LOSSES, "dualce:alpha=0.1"])
def test_a_loss_and_its_gradient_are_the_same_bits_without_a_scatter(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, low = name.partition(":")
    loss = build_loss(name, **options, **({"alpha": 0.1} if low else {}))

    def step() -> tuple[Tensor, ...]:
        logits, target = batch()
        z = logits.requires_grad_()
        value = loss(z, target)
        (gradient,) = torch.autograd.grad(value.sum(), z)
        pushes = gradient_factor(loss, z, target)
        soft, weights = batch(soft=True)
        return value.detach(), gradient, *pushes, loss(soft, weights).detach()

    by_place, by_mask, scatters, left = both(monkeypatch, step)
    assert all(torch.equal(one, other) for one, other in zip(by_place, by_mask, strict=True))
    assert scatters
    assert not left


@pytest.mark.parametrize("rule", ["lsoftmax", "cosface"])
def test_a_margin_is_the_same_without_a_scatter_of_logits(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    embedding, weight = torch.randn(6, 8, generator=generator), torch.randn(4, 8, generator=generator)
    target = torch.tensor([0, 1, 2, 3, 0, 1])

    def step() -> tuple[Tensor, Tensor]:
        x = embedding.clone().requires_grad_()
        logits = margin_logits(build_margin_rule(rule), x, weight, target)
        return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]

    by_place, by_mask, scatters, left = both(monkeypatch, step)
    assert all(torch.equal(one, other) for one, other in zip(by_place, by_mask, strict=True))
    assert scatters
    assert not left


def test_places_are_put_added_to_and_taken_along_any_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.arange(24.0).view(2, 3, 4)
    for dim in (0, 1, 2, -1):
        index = torch.zeros_like(values.select(dim, 0).unsqueeze(dim), dtype=torch.int64) + 1

        def act(dim: int = dim, index: Tensor = index) -> list[Tensor]:
            own, new = Chosen(values, dim, index), -values.narrow(dim, 0, 1)
            made = [own.put(values, 7.0), own.put(values, new), own.put_(values.clone(), new)]
            made += [own.put_(values.clone(), 7.0), own.add_(values.clone(), new), take(values, dim, index)]
            return made

        with monkeypatch.context() as patch:
            by_place, by_mask, _, left = both(patch, act)
        assert all(torch.equal(one, other) for one, other in zip(by_place, by_mask, strict=True))
        assert not left


def test_what_is_taken_can_be_differentiated_twice_and_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "by_mask", lambda _: True)
    index = torch.tensor([[2], [0]])

    def cubes(values: Tensor) -> Tensor:
        return take(values, 1, index).pow(3).sum()

    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    assert torch.autograd.gradgradcheck(cubes, values.requires_grad_())
    each = torch.vmap(torch.func.grad(lambda row: take(row, 0, torch.tensor([1])).square().sum()))(values)
    assert each.tolist() == [[0.0, 4.0, 0.0], [0.0, 10.0, 0.0]]
