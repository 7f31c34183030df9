"""What a step of many models is made of: a budget of operations, and one graph to compile."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from finetune.training.optimization.precision import Precision
from generalcls.networks.registry import NETWORKS, build_network
from generalcls.parallel.model_stack import ModelStack
from generalcls.parallel.objectives import StackObjective
from tests.fake_gpu.called import CalledOperations
from tests.generalcls.small_study import arms, training

LOSSES = ("cel", "nllr", "crl", "focal", "cce", "dualce", "tce")
DEEPER = {"resnet50", "resnet101", "resnet164", "vgg19_bn"}  # of the blocks of others, and minutes each
META = torch.device("meta")


def test_a_step_of_fourteen_models_stays_within_its_budget() -> None:
    found = training("mlp", [(arm, seed) for arm in arms(*LOSSES) for seed in (0, 1)], side_by_side=True)
    plan = found.batches.epoch(0)
    found.train_step(plan)
    found.step = 1
    with CalledOperations() as called:
        found.train_step(plan)
    assert len(called.launches) <= 260  # on a GPU each is a launch
    assert len(called.names) <= 390


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in DEEPER])
def test_features_and_losses_of_every_network_are_one_graph(name: str) -> None:
    chosen = arms("cel", "crl")
    with torch.device("meta"):
        networks = [build_network(name, channels=3, image_size=32, num_classes=5) for _ in chosen]
    stack = ModelStack(networks, Precision(META, torch.float32, True, False, "", ""), side_by_side=True)
    objective, target = StackObjective.of(chosen), torch.zeros(2, 4, dtype=torch.int64, device=META)
    dropouts = stack.dropout_shapes(torch.zeros(1, 3, 32, 32))
    masks = {
        place: torch.empty(1, 4, *shape, dtype=torch.bool, device=META)
        for place, (_, shape) in dropouts.items()
    }
    own = partial(objective, target=target, step=0)
    images, index = torch.empty(1, 4, 3, 32, 32, device=META), torch.zeros(2, dtype=torch.int64, device=META)
    torch.compiler.reset()
    compiled = torch.compile(stack.forward_together, fullgraph=True, backend="eager")
    logits, learned = compiled(images, index, masks, own)
    logits.backward(learned.grads)
    assert all(value.grad is not None for value in stack.params.values())
    torch.compiler.reset()
