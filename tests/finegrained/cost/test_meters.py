"""Multiply-adds, weights that are read, bytes and seconds, against numbers worked by hand."""

from __future__ import annotations

import gc
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from finegrained.cost import meters
from finegrained.cost.meters import (
    TensorMemory,
    count_macs,
    parameters_read,
    step_bytes,
    step_seconds,
)
from finetune.models.classifier import num_parameters
from finetune.models.heads.base import Hooks
from finetune.training.optimization.precision import choose_precision
from finetune.training.optimization.trial_steps import random_batch, training_step
from tests.finegrained.every_head import CASES, CLASSES, build

SIDE = 64


def on_meta(case: str):
    with torch.device("meta"):
        core = build(case)
    return core.to("meta")


def test_multiply_adds_of_a_convolution_and_a_linear_layer():
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 25, 4))
    assert count_macs(layers, torch.zeros(2, 3, 5, 5)) == 2 * (25 * 8 * 27 + 200 * 4)


def test_attention_counts_both_of_its_products():
    query = torch.zeros(1, 2, 5, 4, device="meta")
    assert count_macs(F.scaled_dot_product_attention, query, query, query) == 2 * (5 * 5 * 4) * 2


def test_fourier_transforms_count_in_both_directions():
    there = count_macs(lambda x: torch.fft.rfft(x, dim=1), torch.zeros(3, 8, 2))
    assert there == 3 * 2 * 8 * 2.5 * 3 / 2
    back = count_macs(lambda x: torch.fft.irfft(x, n=8, dim=1), torch.zeros(3, 5, 2, dtype=torch.complex64))
    assert back == there


def test_counting_leaves_no_gradient():
    layer = nn.Linear(2, 2)
    count_macs(lambda x: layer(x).sum(), torch.zeros(1, 2))
    assert layer.weight.grad is None


@pytest.mark.parametrize("case", ["DCL", "DCL of the first release", "DCL of the last release"])
def test_the_helpers_of_dcl_are_read_in_training_only(case: str):
    core = build(case).eval()
    with torch.no_grad():
        features = core.backbone(torch.zeros(1, 3, SIDE, SIDE))
    read = parameters_read(core.head, core.head.infer(features))
    unread = num_parameters(core.head.construction)
    if case == "DCL":
        unread += num_parameters(core.head.adversarial)
    assert read == num_parameters(core.head) - unread


def test_bytes_are_those_of_storages_alive_together():
    held = torch.zeros(1000)
    with TensorMemory([held, held[:10]]) as memory:
        assert memory.now == 4000
        first = held + 1
        view = first[:10]
        assert memory.now == 8000
        second = first.double()
        assert memory.now == 16000
        del first
        assert memory.now == 16000  # the view still holds it
        del view, second
        assert memory.now == 4000
        third = held * 2
    assert (memory.now, memory.peak) == (8000, 16000)
    del third


def test_bytes_alive_between_forward_and_backward_are_counted():
    weight = torch.zeros(100, 100, requires_grad=True)
    with TensorMemory([weight]) as memory:
        kept = (weight * weight).exp()  # the product is not kept, its exponential is
        assert memory.now == 2 * 40_000
        kept.sum().backward()
    assert memory.peak >= 3 * 40_000
    del kept
    gc.collect()
    assert memory.now == 2 * 40_000  # the weight and its gradient


@pytest.mark.parametrize("case", CASES)
def test_shapes_alone_give_the_counts_of_real_tensors(case: str):
    found = []
    for core in (build(case), on_meta(case)):
        images, target = random_batch(core, SIDE, 2, CLASSES)
        core.eval()
        macs = count_macs(core.infer, images[:1])
        core.requires_grad_(True)
        found.append((macs, step_bytes(core, images, target)))
    assert found[0] == found[1]
    assert found[0][1] > 3 * 4 * num_parameters(core)  # weights, gradients, momentum


def test_memory_grows_with_the_batch_by_equal_steps():
    def needed(count: int) -> int:
        core = on_meta("bilinear")
        return step_bytes(core, *random_batch(core, SIDE, count, CLASSES))

    small, middle, large = needed(8), needed(16), needed(24)
    assert middle - small == large - middle > 8 * 3 * SIDE * SIDE * 4


def test_a_step_trains_backbone_and_head_and_spends_its_gradients():
    core = build("DFL")
    before = {name: weight.clone() for name, weight in core.named_parameters()}
    training_step(core, *random_batch(core, SIDE, 4, CLASSES), choose_precision("cpu", "float32"))()
    moved = {name for name, weight in core.named_parameters() if not torch.equal(weight, before[name])}
    assert {name.split(".")[0] for name in moved} == {"backbone", "head"}
    assert "head.streams.0.conv6.weight" in moved
    assert all(weight.grad is None for weight in core.parameters())
    assert core.training


def test_a_step_goes_through_the_heads_own_transform():
    core = build("DCL of the first release")
    images, target = random_batch(core, SIDE, 3, CLASSES)
    assert (len(images), len(target)) == (6, 3)
    shown = []
    core.backbone.register_forward_pre_hook(lambda _, given: shown.append(given[0].shape))
    training_step(core, images, target)()
    assert shown == [(6, 3, SIDE, SIDE)]
    core.head.hooks = Hooks
    training_step(core, images[:3], target)()
    assert shown[1] == (3, 3, SIDE, SIDE)


def test_steps_are_timed_after_the_warm_up(monkeypatch):
    lasts = iter([9.0, 1.0, 3.0])
    clock = itertools.chain.from_iterable((10.0, 10.0 + last) for last in lasts)
    monkeypatch.setattr(meters.time, "perf_counter", lambda: next(clock))
    steps = []
    assert step_seconds(lambda: steps.append(1), 3, torch.device("cpu"), warm_up=4) == [9.0, 1.0, 3.0]
    assert len(steps) == 7
