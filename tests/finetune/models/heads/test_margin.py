"""The margin heads: a margin in training only, lambda that counts batches, and what they cannot take."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from core_losses.margin import build_margin_rule, margin_logits
from finetune.errors import UsageError
from finetune.models.backbone import Features
from finetune.models.heads.margin import MarginHead
from finetune.models.heads.registry import HEADS, build_head, check_head_options, head_options
from finetune.training.config import HeadConfig
from finetune.training.data import TrainingData
from tests.finetune.quick import metrics, quick, train

NAMES = [name for name, kind in HEADS.items() if issubclass(kind, MarginHead)]
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 1, 2, 1])


@dataclass
class Dims:
    name: str = "tiny"
    embedding_dim: int = 6
    taps: tuple[int | str, ...] = ()
    map_dims: dict[int | str, int] = field(default_factory=dict)


def head_of(name: str, **options: Any) -> Any:
    torch.manual_seed(1)
    return build_head(name, Dims(), 3, **options)


def test_the_margin_heads_are_those_of_the_rules_with_their_options():
    annealing = {"blend_start": 1000.0, "blend_rate": 0.12, "blend_power": 1.0, "blend_lowest": 5.0}
    assert {name: head_options(name) for name in NAMES} == {
        "lsoftmax": {"margin": 4, **annealing},
        "asoftmax": {"margin": 4, **annealing},
        "cosface": {"margin": 0.35, "scale": 64.0},
        "arcface": {"margin": 0.5, "scale": 64.0},
    }
    for name in NAMES:
        own = {key: value for key, value in head_options(name).items() if not key.startswith("blend")}
        assert head_of(name).rule == build_margin_rule(name, **own)


@pytest.mark.parametrize("name", NAMES)
def test_the_margin_acts_with_a_target_in_training_only(name: str):
    head = head_of(name)
    plain = margin_logits(head.rule, X, head.classifier.weight)
    options = {"blend_start": 0.0, "blend_lowest": 0.0} if name.endswith("softmax") else {}
    bare = head_of(name, **options)
    output = bare.train()(Features(X), TARGET)
    lowered = F.one_hot(TARGET, 3).bool()
    assert (output.logits < plain)[lowered].all()
    assert torch.equal(output.logits[~lowered], plain[~lowered])
    assert output.plain is not None
    assert torch.equal(output.plain, plain)
    assert not output.plain.requires_grad
    for quiet in (bare(Features(X)), bare.eval()(Features(X), TARGET)):
        assert torch.equal(quiet.logits, plain)
        assert (quiet.plain, quiet.logged) == (None, {})
    assert torch.equal(bare.infer(Features(X)), plain)
    assert bare.step == 1, "only what it trained on is counted"


@pytest.mark.parametrize("name", ["lsoftmax", "asoftmax"])
def test_lambda_is_logged_falls_with_every_batch_and_lives_in_the_state(name: str):
    settings = {"blend_start": 10.0, "blend_rate": 1.0, "blend_power": 1.0, "blend_lowest": 3.0}
    head = head_of(name, **settings).train()
    outputs = [head(Features(X), TARGET) for _ in range(4)]
    assert [output.logged["blend"].item() for output in outputs] == pytest.approx([10.0, 5.0, 10 / 3, 3.0])
    expected = margin_logits(head.rule, X, head.classifier.weight, TARGET, blend=5.0)
    torch.testing.assert_close(outputs[1].logits, expected)
    assert head.state_dict()["step"] == 4
    twin = head_of(name, **settings)
    twin.load_state_dict(head.state_dict())
    assert twin.train()(Features(X), TARGET).logged["blend"] == 3.0


@pytest.mark.parametrize("name", NAMES)
def test_weights_start_with_lengths_about_one_and_the_layer_of_the_maps_is_what_predicts(name: str):
    torch.manual_seed(0)
    head = HEADS[name].build(replace(Dims(), embedding_dim=512), 10)
    assert isinstance(head, MarginHead)
    assert head.classifier.weight.norm(dim=1).detach().numpy() == pytest.approx(1.0, abs=0.1)
    layer = head.map_classifier()
    if name in ("cosface", "arcface"):
        assert layer is None
        return
    x = torch.randn(3, 512)
    assert layer is not None
    torch.testing.assert_close(layer(x), head.infer(Features(x)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("lsoftmax", {"margin": 5}, "the lsoftmax head's margin must be a whole number"),
        (
            "asoftmax",
            {"blend_start": -1.0},
            "blend_start must be a finite number >= 0, got -1",
        ),
        ("arcface", {"margin": 2.0}, "the arcface head's margin must be in"),
        ("cosface", {"scale": 0.0}, "the cosface head's scale must be a finite number > 0"),
    ],
)
def test_what_cannot_be_a_margin_head_is_refused(name: str, options: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        head_of(name, **options)
    with pytest.raises(UsageError, match="option margin must be"):
        check_head_options(name, {"margin": "wide"})


def test_soft_targets_are_refused_by_the_head_and_before_the_run(task: TrainingData, tmp_path: Path):
    with pytest.raises(UsageError, match="soft targets, as mixup and cutmix make them"):
        head_of("arcface").train()(Features(X), torch.rand(4, 3))
    config = replace(quick(train_mixup=0.2), head=HeadConfig("arcface", options=head_options("arcface")))
    with pytest.raises(UsageError, match=r"train.mixup cannot be used with the arcface head"):
        train(task, tmp_path, config)


def test_a_run_writes_lambda_down_and_no_gradient_factor(task: TrainingData, tmp_path: Path):
    options = {**head_options("lsoftmax"), "blend_start": 10.0, "blend_rate": 1.0, "blend_lowest": 0.5}
    train(task, tmp_path, replace(quick(), head=HeadConfig("lsoftmax", options=options)))
    rows = metrics(tmp_path)
    sums = [sum(max(0.5, 10 / (1 + step)) for step in range(5 * n, 5 * n + 5)) / 5 for n in range(2)]
    assert [row["train_blend"] for row in rows] == pytest.approx(sums)
    assert not any("gradient" in key for key in rows[0])
