from __future__ import annotations

import pytest
import torch

from core_losses import build_loss
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
    losses, logits = StackObjective.of(chosen)(slice(0, len(chosen)), embedding, weight, bias, target, 0)
    for m, arm in enumerate(chosen):
        own = embedding[m] @ weight[m].T + bias[m]
        loss = build_loss(arm.loss.name, label_smoothing=arm.loss.label_smoothing, **arm.loss.parameters())
        torch.testing.assert_close(logits[m], own)
        torch.testing.assert_close(losses[m], loss(own, target[m]))


def test_models_one_by_one_get_what_they_get_together():
    chosen = [arm for arm in arms("cel", "lsoftmax", "crl") for _ in range(2)]
    objective = StackObjective.of(chosen)
    embedding, weight, bias, target = parts(6, torch.Generator().manual_seed(2))
    losses, logits = objective(slice(0, 6), embedding, weight, bias, target, 5)
    for m in range(6):
        one = slice(m, m + 1)
        own, answers = objective(one, embedding[one], weight[one], bias[one], target, 5)
        torch.testing.assert_close(own, losses[one])
        torch.testing.assert_close(answers, logits[one])


@pytest.mark.parametrize("name", ["lsoftmax", "asoftmax", "cosface", "arcface"])
def test_a_margin_is_trained_with_and_not_answered_with(name: str):
    [arm] = arms(name)
    embedding, weight, bias, target = parts(1, torch.Generator().manual_seed(3))
    objective = StackObjective.of([arm])
    own = ArmObjective.of(arm)
    rule_options = {k: v for k, v in arm.head_options.items() if not k.startswith("blend_")}
    rule = build_margin_rule(name, **rule_options)
    _, trained = objective(slice(0, 1), embedding, weight, bias, target, 1000)
    expected = margin_logits(rule, embedding, weight, target, blend=own.blend(1000))
    torch.testing.assert_close(trained, expected)
    answered = objective.answers(slice(0, 1), embedding, weight, bias)
    torch.testing.assert_close(answered, margin_logits(rule, embedding, weight))
    moved = trained != answered
    assert moved.gather(-1, target[..., None]).any()
    assert not moved.scatter(-1, target[..., None], False).any()
    told = objective.preds(slice(0, 1), embedding, weight, bias, trained)
    assert torch.equal(told, answered.argmax(-1))


def test_the_blend_falls_from_its_start():
    own = ArmObjective.of(arms("lsoftmax")[0])
    assert own.blend(0) == 1000
    assert own.blend(10_000) == 5
    assert own.blend(10) < own.blend(0)
    assert ArmObjective.of(arms("cosface")[0]).blend(0) == 0
