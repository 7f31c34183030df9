"""Margin logits against slow trigonometry: values, gradients at the edges, and every transform of torch."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core_losses.margin import LSoftmaxRule, annealed_blend, build_margin_rule, margin_logits
from core_losses.margin_rules import MarginRule
from tests.core_losses.margin_reference import RULES, logits

CASES = [
    *((name, options) for name, options in RULES.items()),
    *(("lsoftmax", {"margin": margin}) for margin in (1, 2, 3)),
    ("asoftmax", {"margin": 2}),
]
IDS = [f"{name}-{options['margin']}" for name, options in CASES]


def batch(dtype: torch.dtype = torch.float64, b: int = 60, k: int = 5, d: int = 3) -> tuple[Tensor, ...]:
    """Return embeddings, weights and targets in three dimensions, where angles of all sizes are met."""
    generator = torch.Generator().manual_seed(5)
    x = 2 * torch.randn(b, d, generator=generator, dtype=torch.float64)
    w = torch.randn(k, d, generator=generator, dtype=torch.float64)
    return x.to(dtype), w.to(dtype), torch.randint(k, (b,), generator=generator)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("blend", [0.0, 5.0, 1000.0])
def test_logits_are_those_of_the_printed_formula(name: str, options: dict[str, Any], blend: float):
    x, w, target = batch()
    rule = build_margin_rule(name, **options)
    expected = torch.from_numpy(logits(name, x, w, target, blend=blend, **options))
    torch.testing.assert_close(
        margin_logits(rule, x, w, target, blend=blend), expected, rtol=1e-12, atol=1e-12
    )
    plain = torch.from_numpy(logits(name, x, w, None, **options))
    torch.testing.assert_close(margin_logits(rule, x, w), plain, rtol=1e-12, atol=1e-12)
    tensor = margin_logits(rule, x, w, target, blend=torch.tensor(blend))
    torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_float32_keeps_its_digits(name: str, options: dict[str, Any]):
    x, w, target = batch(torch.float32)
    found = margin_logits(build_margin_rule(name, **options), x, w, target)
    expected = torch.from_numpy(logits(name, x, w, target, **options)).float()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_gradients_are_those_of_finite_differences_to_the_second_order(name: str, options: dict[str, Any]):
    x, w, target = batch(b=8, k=3)
    rule = build_margin_rule(name, **options)

    def of(x: Tensor, w: Tensor) -> Tensor:
        return margin_logits(rule, x, w, target % 3, blend=0.5)

    given = (x.requires_grad_(), w.requires_grad_())
    assert torch.autograd.gradcheck(of, given)
    assert torch.autograd.gradgradcheck(of, given)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_on_the_axis_and_where_a_vector_is_zero(
    name: str, options: dict[str, Any], dtype: torch.dtype
):
    w = torch.tensor([[0.6, -0.8, 0.0], [0.0, 0.0, 0.0], [3.0, 4.0, 12.0]], dtype=dtype)
    rows = [w[0], -w[0], 7 * w[2], -w[2] / 3, 0 * w[0], w[0], w[2] * 1e-15, w[0] * 1e-30, w[0] * 1e12]
    x, w = torch.stack(rows).requires_grad_(), w.requires_grad_()
    target = torch.tensor([0, 0, 2, 2, 2, 1, 2, 0, 0])
    rule = build_margin_rule(name, **options)
    found = margin_logits(rule, x, w, target)
    assert torch.isfinite(found).all()
    for grad in torch.autograd.grad(F.cross_entropy(found, target), (x, w)):
        assert torch.isfinite(grad).all()


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_on_the_axis_the_value_is_exact_and_the_slope_of_the_length_is_psi(margin: int):
    """With x = r W_c / |W_c| the target's logit is r |W_c|, and with the opposite r |W_c| (1 - 2 m)."""
    w = torch.tensor([[3.0, 4.0], [1.0, 0.0]], dtype=torch.float64)
    for sign, value in ((1, 1.0), (-1, 1.0 - 2 * margin)):
        x = (2 * sign * w[:1] / 5).requires_grad_()
        (own,) = margin_logits(LSoftmaxRule(margin), x, w, torch.tensor([0]))[:, 0]
        assert own.item() == pytest.approx(10 * value, rel=1e-14)
        (grad,) = torch.autograd.grad(own, x)
        torch.testing.assert_close(grad, sign * value * w[:1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("angle", [1e-5, 1e-3, math.pi - 1e-3])
def test_arcface_reads_small_angles_that_the_cosine_cannot_tell_in_float32(angle: float):
    rule = build_margin_rule("arcface", margin=0.5, scale=1.0)
    w = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[math.cos(angle), math.sin(angle)]]).requires_grad_()
    (own,) = margin_logits(rule, x, w, torch.tensor([0]))[:, 0]
    beyond = angle > math.pi - 0.5
    value = math.cos(angle) - 0.5 * math.sin(0.5) if beyond else math.cos(angle + 0.5)
    assert own.item() == pytest.approx(value, abs=2e-7)
    (grad,) = torch.autograd.grad(own, x)
    slope = -math.sin(angle) if beyond else -math.sin(angle + 0.5)  # along the circle
    along = -math.sin(angle) * grad[0, 0] + math.cos(angle) * grad[0, 1]
    assert along.item() == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize(("name", "options"), RULES.items())
def test_without_a_margin_every_rule_is_its_plain_classifier(name: str, options: dict[str, Any]):
    x, w, target = batch()
    none = build_margin_rule(name, **{**options, "margin": 1 if name.endswith("softmax") else 0.0})
    torch.testing.assert_close(margin_logits(none, x, w, target), margin_logits(none, x, w))
    rule = build_margin_rule(name, **options)
    lowered = margin_logits(rule, x, w) - margin_logits(rule, x, w, target)
    one_hot = F.one_hot(target, 5).bool()
    assert (lowered[one_hot] > 0).all()
    assert (lowered[~one_hot] == 0).all()


@pytest.mark.parametrize(("name", "options"), RULES.items())
def test_models_side_by_side_are_models_one_by_one_with_vmap_or_with_a_leading_dimension(
    name: str, options: dict[str, Any]
):
    rule = build_margin_rule(name, **options)
    parts = [batch(b=6)[:2] for _ in range(3)]
    x = torch.stack([part[0] + n for n, part in enumerate(parts)])
    w = torch.stack([part[1] * (n + 1) + n for n, part in enumerate(parts)])
    target = torch.arange(18).view(3, 6) % 5

    def of(x: Tensor, w: Tensor, target: Tensor) -> Tensor:
        return margin_logits(rule, x, w, target, blend=2.0)

    def loss(w: Tensor, x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(of(x, w, target), target)

    alone = torch.stack([of(x[n], w[n], target[n]) for n in range(3)])
    grads = torch.stack([torch.func.grad(loss)(w[n], x[n], target[n]) for n in range(3)])
    torch.testing.assert_close(of(x, w, target), alone)
    torch.testing.assert_close(torch.vmap(of)(x, w, target), alone)
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(w, x, target), grads)
    shared = torch.vmap(of, in_dims=(None, 0, None))(x[0], w, target[0])
    torch.testing.assert_close(of(x[0], w, target[0]), shared)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(*case, marks=[] if case[0] in ("lsoftmax", "arcface") else [pytest.mark.exhaustive])
        for case in RULES.items()
    ],
)
def test_a_compiled_graph_is_whole_and_says_the_same(name: str, options: dict[str, Any]):
    x, w, target = batch(torch.float32, b=6)
    rule = build_margin_rule(name, **options)

    def of(x: Tensor, w: Tensor, target: Tensor, step: Tensor) -> Tensor:
        blend = annealed_blend(step, start=10.0, rate=0.1, power=1.0, lowest=1.0)
        with torch.autocast("cpu", torch.bfloat16):
            return margin_logits(rule, x, w, target, blend=blend)

    step = torch.tensor(7)
    torch._dynamo.reset()
    whole = torch.compile(of, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(x, w, target, step), of(x, w, target, step))
    w.requires_grad_()
    grads = [torch.autograd.grad(f(x, w, target, step).sum(), w)[0] for f in (whole, of)]
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "options"), RULES.items())
def test_half_types_are_computed_in_float32_under_autocast_too(
    name: str, options: dict[str, Any], dtype: torch.dtype
):
    x, w, target = batch(torch.float32)
    rule = build_margin_rule(name, **options)
    expected = margin_logits(rule, x.to(dtype).float(), w, target, blend=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = margin_logits(rule, x.to(dtype), w, target, blend=1.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    both = margin_logits(rule, x.to(dtype), w.to(dtype))
    assert torch.equal(both, margin_logits(rule, x.to(dtype).float(), w.to(dtype).float()))


def test_shapes_alone_can_be_asked_for():
    x, w, target = (part.to("meta") for part in batch())
    assert margin_logits(LSoftmaxRule(), x, w, target).shape == (60, 5)


def test_a_blend_may_differ_from_example_to_example():
    x, w, target = batch(b=2)
    rule = LSoftmaxRule(2)
    found = margin_logits(rule, x, w, target, blend=torch.tensor([0.0, 3.0]))
    assert torch.equal(found[:1], margin_logits(rule, x[:1], w, target[:1]))
    torch.testing.assert_close(found[1:], margin_logits(rule, x[1:], w, target[1:], blend=3.0))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": torch.zeros(60, 5)}, "class indices, int64, .* torch.float32 of shape .*mixup"),
        ({"target": torch.zeros(60, dtype=torch.int32)}, "torch.int32"),
        ({"embedding": torch.zeros(60, 3, dtype=torch.int64)}, "embedding must be floating point"),
        ({"weight": torch.zeros(5, 3, dtype=torch.int64)}, "weight must be floating point"),
    ],
)
def test_what_is_no_embedding_weight_or_class_is_refused(changed: dict[str, Tensor], message: str):
    x, w, target = batch()
    rule: MarginRule = LSoftmaxRule()
    with pytest.raises(TypeError, match=message):
        margin_logits(rule, **{"embedding": x, "weight": w, "target": target, **changed})


def test_lambda_falls_to_its_lowest_for_numbers_and_tensors_alike():
    settings = {"start": 1000.0, "rate": 0.12, "power": 1.0, "lowest": 5.0}
    by_hand = {0: 1000.0, 1: 1000 / 1.12, 100: 1000 / 13, 1658: 1000 / 199.96, 1659: 5.0, 10**7: 5.0}
    for step, value in by_hand.items():
        number = annealed_blend(step, **settings)
        tensor = annealed_blend(torch.tensor(step), **settings)
        assert number == pytest.approx(value)
        assert isinstance(tensor, Tensor)
        assert tensor.item() == pytest.approx(value)
    assert annealed_blend(10**6, start=1000.0, rate=2e-5, power=45.0, lowest=0.0) < 1e-50
