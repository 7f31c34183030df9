"""What torch.compile makes of training: one graph for a head, and two for all folds of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.finegrained.every_head import CASES, CLASSES, build, shown

Graphs = list[Any]


@pytest.fixture
def graphs() -> Graphs:
    """The graphs that `kept_in` collects; nothing was compiled before."""
    torch._dynamo.reset()
    return []


def kept_in(graphs: Graphs) -> Callable[..., Any]:
    """Return a backend that notes each graph and does its operations as they are written down."""

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    return backend


def step(core: nn.Module, case: str, seed: int) -> None:
    """Do a step of training: forward and backward."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(4, 3, 64, 64, generator=generator)
    images, target = shown(core, images, torch.arange(4) % CLASSES, seed)
    core(images, target).logits.sum().backward()


@pytest.mark.exhaustive  # 3 seconds each
@pytest.mark.parametrize("case", CASES)
def test_a_head_is_one_graph_for_all_steps(case: str, graphs: Graphs) -> None:
    core = build(case).train()
    core.compile(backend=kept_in(graphs), fullgraph=True)
    for seed in range(2):
        step(core, case, seed)
    assert len(graphs) == 1


@pytest.mark.exhaustive  # 30 seconds each
@pytest.mark.parametrize("case", ["linear", "DCL"])
def test_five_folds_of_two_stages_are_two_graphs(case: str, graphs: Graphs) -> None:
    backend = kept_in(graphs)
    for fold in range(5):
        core = build(case, seed=fold).train()
        for frozen in (True, False):
            core.freeze_backbone(frozen)
            core.compile(backend=backend, fullgraph=True)
            step(core, case, fold)
    assert len(graphs) == 2
