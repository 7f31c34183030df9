from __future__ import annotations

import pytest
import torch

from core_losses import build_loss, log_odds
from core_losses.margin import build_margin_rule, margin_logits
from generalcls.parallel.objectives import ArmObjective, StackObjective
from tests.generalcls.small_study import arms


def parts(models: int, generator: torch.Generator):
    shapes = ((models, 6, 4), (models, 3, 4), (models, 3))
    embedding, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    return embedding, weight, bias, torch.randint(0, 3, (models, 6), generator=generator)


def test_each_arm_gets_its_own_loss_on_its_own_logits():
    chosen = [
        arm
        for arm in arms(
            "cel", "crl:alpha=2", "nllr", "nllr:clamp=0", "nllr:clamp=0.3", "cel:label_smoothing=0.2"
        )
        for _ in range(2)
    ]
    embedding, weight, bias, target = parts(len(chosen), torch.Generator().manual_seed(1))
    logits, learned = StackObjective.of(chosen)(slice(0, len(chosen)), embedding, weight, bias, target, 0)
    for m, arm in enumerate(chosen):
        own = embedding[m] @ weight[m].T + bias[m]
        loss = build_loss(arm.loss.name, label_smoothing=arm.loss.label_smoothing, **arm.loss.parameters())
        torch.testing.assert_close(logits[m], own)
        torch.testing.assert_close(learned.losses[m], loss(own, target[m]))


def test_models_one_by_one_get_what_they_get_together():
    chosen = [arm for arm in arms("cel", "lsoftmax", "crl") for _ in range(2)]
    objective = StackObjective.of(chosen)
    embedding, weight, bias, target = parts(6, torch.Generator().manual_seed(2))
    logits, learned = objective(slice(0, 6), embedding, weight, bias, target, 5)
    for m in range(6):
        one = slice(m, m + 1)
        answers, own = objective(one, embedding[one], weight[one], bias[one], target, 5)
        torch.testing.assert_close(answers, logits[one])
        for name, value in vars(own).items():
            torch.testing.assert_close(value, getattr(learned, name)[one])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_without_a_graph_are_autograds_bit_for_bit(dtype: torch.dtype):
    words = (
        "cel",
        "crl:alpha=0.1:beta=0.5",
        "nllr",
        "focal",
        "tce",
        "cce",
        "dualce",
        "cel:label_smoothing=0.1",
    )
    chosen, generator = arms(*words), torch.Generator().manual_seed(4)
    logits = 9 * torch.randn(len(words), 7, 5, generator=generator, dtype=dtype)
    target = torch.randint(0, 5, (len(words), 7), generator=generator)
    learned = StackObjective.of(chosen).learn(slice(0, len(words)), logits, logits, target)
    leaf = logits.clone().requires_grad_()
    losses = [ArmObjective.of(arm).losses(leaf[m : m + 1], target[m : m + 1]) for m, arm in enumerate(chosen)]
    torch.cat(losses).sum().backward()
    assert torch.equal(learned.losses, torch.cat(losses).detach())
    assert torch.equal(learned.grads, leaf.grad)
    own = leaf.grad.gather(-1, target[..., None])[..., 0]
    torch.testing.assert_close(learned.push, -7 * own)
    torch.testing.assert_close(learned.odds.flatten(), log_odds(logits.flatten(0, 1), target.flatten()))


@pytest.mark.parametrize("name", ["lsoftmax", "asoftmax", "cosface", "arcface"])
def test_a_margin_is_trained_with_and_not_answered_with(name: str):
    [arm] = arms(name)
    embedding, weight, bias, target = parts(1, torch.Generator().manual_seed(3))
    objective = StackObjective.of([arm])
    own = ArmObjective.of(arm)
    rule_options = {k: v for k, v in arm.head_options.items() if not k.startswith("blend_")}
    rule = build_margin_rule(name, **rule_options)
    trained, learned = objective(slice(0, 1), embedding, weight, bias, target, 1000)
    expected = margin_logits(rule, embedding, weight, target, blend=own.blend(1000))
    torch.testing.assert_close(trained, expected)
    answered = objective.answers(slice(0, 1), embedding, weight, bias)
    torch.testing.assert_close(answered, margin_logits(rule, embedding, weight))
    moved = trained != answered
    assert moved.gather(-1, target[..., None]).any()
    assert not moved.scatter(-1, target[..., None], False).any()
    assert torch.equal(learned.right, answered.argmax(-1) == target)
    later = torch.tensor(1000)
    on_device, _ = objective(slice(0, 1), embedding, weight, bias, target, later)  # as a compiled step has it
    torch.testing.assert_close(on_device, trained)


def test_the_blend_falls_from_its_start():
    own = ArmObjective.of(arms("lsoftmax")[0])
    assert own.blend(0) == 1000
    assert own.blend(10_000) == 5
    assert own.blend(10) < own.blend(0)
    assert ArmObjective.of(arms("cosface")[0]).blend(0) == 0
