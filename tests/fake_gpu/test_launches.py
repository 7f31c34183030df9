"""How many operations a training step carries out: on a GPU each is a launch. None may come unseen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from core_losses import chosen
from finetune.images.batches import normalise
from finetune.models.classifier import build_classifier
from finetune.training.config import LossConfig
from finetune.training.epoch_metrics import Totals, pushes
from finetune.training.objective import Objective
from finetune.training.optimization.optim import Ema, build_optimizer, parameter_groups
from tests.fake_gpu.called import CalledOperations

# ResNet-18 with a linear head and the competing ratio loss.
BUDGET = {"input": 3, "model": 88, "loss": 24, "backward": 78, "pushes": 44, "totals": 21, "update": 6}
# A mask over the classes takes two operations. For a scatter CUDA sorts, some ten launches, where
# results must repeat.
BY_MASK = BUDGET | {"loss": 26, "pushes": 48}

Step = dict[str, list[str]]


@pytest.fixture(scope="module")
def steps() -> dict[bool, Step]:
    """The operations of each part of a step, with the losses as CUDA has them (True) and as a processor."""
    core = build_classifier("resnet18", "linear", 10, weights="none", image_size=32)
    core.to(memory_format=torch.channels_last).train()
    objective, totals = Objective(LossConfig("crl").build()), Totals.zero(torch.device("cpu"))
    optimizer = build_optimizer("sgd", parameter_groups(core, lr=0.1, weight_decay=1e-4), lr=0.1)
    average = Ema(core, 0.9)
    images, target = torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.arange(4)

    def step() -> Step:
        found: Step = {}

        def part(name: str, act: Callable[[], Any]) -> Any:
            with CalledOperations() as called:
                result = act()
            found[name] = called.launches
            return result

        given = part("input", lambda: normalise(images, (0.5,) * 3, (0.5,) * 3))
        output = part("model", lambda: core(given, target))
        loss = part("loss", lambda: objective(output, target).total)
        part("backward", loss.backward)
        push = part("pushes", lambda: pushes(objective.main, output, target))
        part("totals", lambda: totals.add(loss, output, target, push))
        part("update", lambda: (optimizer.step(), optimizer.zero_grad(), average.update(core)))
        return found

    step()  # momenta are made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chosen, "by_mask", lambda _: True)
        masked = step()
    return {False: step(), True: masked}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("part", BUDGET)
def test_no_part_of_a_step_carries_out_more_operations(
    part: str, masked: bool, steps: dict[bool, Step]
) -> None:
    budget, found = (BY_MASK if masked else BUDGET)[part], steps[masked][part]
    assert len(found) <= budget, found
    assert len(found) >= 0.9 * budget, "fewer: lower the budget, so that none comes back"
