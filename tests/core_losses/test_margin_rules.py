"""The margin rules against the angle itself: values, order, joints, and what cannot be a rule."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from core_losses.margin_rules import (
    MARGIN_RULES,
    ArcFaceRule,
    ASoftmaxRule,
    CosFaceRule,
    LSoftmaxRule,
    build_margin_rule,
    multiplied_angle,
)
from tests.core_losses.margin_reference import psi

ANGLES = torch.linspace(0, math.pi, 4001, dtype=torch.float64)
EVERY = [
    *(LSoftmaxRule(margin) for margin in (1, 2, 3, 4)),
    ASoftmaxRule(3),
    CosFaceRule(0.2),
    ArcFaceRule(0.5),
    ArcFaceRule(math.pi / 2),
]


@pytest.mark.parametrize("rule", EVERY, ids=repr)
def test_a_rule_is_the_printed_formula_of_the_angle(rule):
    name = next(name for name, kind in MARGIN_RULES.items() if isinstance(rule, kind))
    expected = [psi(name, theta, rule.margin) for theta in ANGLES.tolist()]
    found = rule.target_cosine(ANGLES.cos(), ANGLES.sin())
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    alone = rule.target_cosine(ANGLES.cos())
    torch.testing.assert_close(alone, found, rtol=0, atol=3e-8)  # sqrt(1 - cos^2) where the sine is not known


@pytest.mark.parametrize("rule", EVERY, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rule_never_rises_with_the_angle_and_never_beats_the_cosine(rule, dtype):
    angles = ANGLES.to(dtype)
    values = rule.target_cosine(angles.cos(), angles.sin().clamp(min=0))
    assert (values.diff() <= 20 * torch.finfo(dtype).eps).all()
    assert (values <= angles.cos() + 10 * torch.finfo(dtype).eps).all()


@pytest.mark.parametrize("margin", [2, 3, 4])
def test_the_multiplied_angle_and_its_slope_are_continuous_where_the_pieces_join(margin):
    for joint in range(1, margin):
        at = math.cos(joint * math.pi / margin)
        around = torch.tensor([at - 1e-9, at, at + 1e-9], dtype=torch.float64, requires_grad=True)
        values = multiplied_angle(around, margin)
        (slopes,) = torch.autograd.grad(values.sum(), around)
        assert values.tolist() == pytest.approx([1 - 2 * joint] * 3, abs=1e-12)
        assert slopes.tolist() == pytest.approx([0.0] * 3, abs=1e-6)


def test_the_multiplied_angle_worked_by_hand():
    cosines = torch.tensor([1.0, 0.5, 0.0, -0.5, -1.0])
    assert multiplied_angle(cosines, 1) is cosines
    assert multiplied_angle(cosines, 2).tolist() == [1.0, -0.5, -1.0, -1.5, -3.0]
    assert multiplied_angle(cosines, 3).tolist() == pytest.approx([1.0, -1.0, -2.0, -3.0, -5.0], abs=1e-6)
    assert multiplied_angle(cosines, 4).tolist() == [1.0, -1.5, -3.0, -4.5, -7.0]


def test_the_continuation_of_arcface_jumps_down_by_what_is_said():
    edge = math.pi - 0.5
    theta = torch.tensor([edge - 1e-9, edge + 1e-9], dtype=torch.float64)
    assert ArcFaceRule().target_cosine(theta.cos(), theta.sin()).tolist() == pytest.approx(
        [-1.0, -1.117], abs=1e-3
    )


def test_rules_tell_what_has_a_fixed_length():
    found = {name: (kind().unit_weights, kind().scale) for name, kind in MARGIN_RULES.items()}
    assert found == {
        "lsoftmax": (False, None),
        "asoftmax": (True, None),
        "cosface": (True, 64.0),
        "arcface": (True, 64.0),
    }


def test_rules_are_values():
    for name in MARGIN_RULES:
        rule = build_margin_rule(name)
        assert pickle.loads(pickle.dumps(rule)) == rule
        assert hash(rule) == hash(build_margin_rule(name))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("arcfase", {}, "no margin rule 'arcfase'; did you mean 'arcface'?"),
        ("other", {}, "Known: lsoftmax, asoftmax, cosface, arcface"),
        ("lsoftmax", {"scale": 2.0}, "'lsoftmax' has no option scale; it takes margin"),
        ("lsoftmax", {"margin": 5}, "margin must be a whole number from 1 to 4, but arrived as 5"),
        ("asoftmax", {"margin": 2.0}, "margin must be a whole number from 1 to 4, but arrived as 2.0"),
        ("asoftmax", {"margin": True}, "whole number"),
        ("cosface", {"margin": -0.1}, "margin must be in"),
        ("cosface", {"scale": 0.0}, "scale must be a finite number > 0, but arrived as 0.0"),
        ("arcface", {"margin": 1.6}, "in radians, but arrived as 1.6"),
        ("arcface", {"margin": math.nan}, "margin must be in"),
        ("arcface", {"scale": math.inf}, "scale must be a finite number"),
    ],
)
def test_what_cannot_be_a_rule_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build_margin_rule(name, **options)
