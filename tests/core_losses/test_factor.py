"""The push of a loss beside cross-entropy's: closed forms, the loss's own gradient, what is left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core_losses import LOSSES, CompetingRatioLoss, CrossEntropyLoss, NLLRLoss, build_loss, gradient_factor

TARGET = torch.tensor([0, 1, 2, 3, 1, 2])


def drawn(dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).to(dtype)


def test_factors_are_those_of_the_formulas():
    logits = drawn()
    p = logits.softmax(1).gather(1, TARGET[:, None])[:, 0]
    for loss, factor in (
        (CrossEntropyLoss(), torch.ones_like(p)),
        (CompetingRatioLoss(alpha=1.5, beta=0.5), 1 + 0.5 * p / (1.5 + 1 - p)),
        (NLLRLoss(), 1 / (1 - p)),
    ):
        push, q = gradient_factor(loss, logits, TARGET)
        torch.testing.assert_close(q, 1 - p)
        torch.testing.assert_close(push / q, factor)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_push_is_the_gradient_of_the_summed_loss(name: str, smoothing: float):
    logits = drawn().requires_grad_()
    loss = build_loss(name, reduction="sum", label_smoothing=smoothing)
    (grad,) = torch.autograd.grad(loss(logits, TARGET), logits)
    push, _ = gradient_factor(build_loss(name, label_smoothing=smoothing), logits, TARGET)
    torch.testing.assert_close(push, -grad.gather(1, TARGET[:, None])[:, 0])
    assert not push.requires_grad


def test_weights_and_reduction_are_left_out_and_the_loss_stays_as_it_was():
    weight = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    loss = CompetingRatioLoss(weight, reduction="sum")
    before = loss(drawn(), TARGET)
    push, _ = gradient_factor(loss, drawn(), TARGET)
    assert torch.equal(push, gradient_factor(CompetingRatioLoss(), drawn(), TARGET)[0])
    assert loss.weight is weight
    assert torch.equal(loss(drawn(), TARGET), before)


def test_ignored_targets_push_nothing_and_images_of_logits_keep_their_shape():
    logits = drawn().view(2, 3, 4).movedim(2, 1)
    target = TARGET.view(2, 3).clone()
    target[0, 1] = -100
    push, q = gradient_factor(CrossEntropyLoss(), logits, target)
    assert push.shape == q.shape == (2, 3)
    assert (push[0, 1], q[0, 1]) == (0, 0)
    torch.testing.assert_close(push, q)
    one, _ = gradient_factor(CrossEntropyLoss(), logits[0, :, 0], target[0, 0])
    assert one == push[0, 0]


def test_it_is_exact_where_the_network_is_sure_and_in_half_precision():
    logits = torch.tensor([[60.0, 0.0, 0.0]])
    push, q = gradient_factor(CompetingRatioLoss(), logits, torch.tensor([0]))
    assert (push / q).item() == pytest.approx(1 + 1 / 1.5, rel=1e-6)
    half, _ = gradient_factor(CompetingRatioLoss(), logits.bfloat16(), torch.tensor([0]))
    assert half.dtype == torch.float32
    assert torch.equal(half, push)


def test_it_works_where_gradients_are_off_and_refuses_soft_targets():
    with torch.no_grad():
        push, q = gradient_factor(CrossEntropyLoss(), drawn(), TARGET)
    torch.testing.assert_close(push, q)
    with pytest.raises(TypeError, match="soft targets"):
        gradient_factor(CrossEntropyLoss(), drawn(), drawn().softmax(1))
