"""Every head trained by two processes, for test_every_head.py: started as a module by torchrun."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.training.config import HeadConfig
from finetune.training.optimization.distributed import World, barrier, start_world, stop_world
from tests.finegrained.every_head import RUNS, config
from tests.finetune.quick import task_of, train
from tests.finetune.two_processes import states, trained

# No dropout; and signed roots of a slope of 3 instead of 300, which turns a last bit into the fifth digit.
STEADY = {
    "linear": HeadConfig("linear"),
    "bilinear": HeadConfig("bilinear", options={"eps": 0.1}),
    "kernel pooling": HeadConfig("kernel_pooling", options={"dim": 64, "gamma": 0.5, "eps": 0.1}),
    "kernel pooling, gamma measured": HeadConfig("kernel_pooling", options={"dim": 64, "eps": 0.1}),
}


def same_plan(count: int, regions: int, *_rest: Any) -> np.ndarray:
    """Return one shuffle for every image, (count, N, N): what a process draws depends on its rank."""
    plan: np.ndarray = np.random.default_rng(0).permutation(regions * regions).reshape(regions, regions)
    return np.tile(plan, (count, 1, 1))


def compare(case: str, root: Path, folder: Path, world: World) -> dict[str, Any]:
    """Train one head in both processes and, in the first, alone; tell how far the weights are apart.

    On a backbone without batch norm, whose statistics would differ. A head that draws at random in training
    (dropout, DCL's shuffle) draws otherwise in another process: here it draws nothing, or always the same.
    """
    asked = config(case, "test_vit", train_lr=0.005, train_epochs=1)
    asked = replace(asked, head=STEADY.get(case, asked.head))
    task = task_of(root, asked)
    fitted = trained(task, folder / "two", asked, world)
    result: dict[str, Any] = {"same_in_both": len(set(states(fitted, world))) == 1}
    normed = any("running_mean" in name for name in fitted.model.state_dict())
    result["draws_alike"] = not normed
    if world.is_main:
        alone = train(task, folder / "one", asked, world=World()).model.state_dict()
        apart = [(alone[name] - value).abs().max() for name, value in fitted.model.state_dict().items()]
        result["difference"] = float(torch.stack([a.float() for a in apart]).max())
    barrier(world)
    return result


def main(root: Path, folder: Path) -> None:
    """Go through all heads and leave what was found in result.json."""
    torch.set_num_threads(1)
    world = start_world("cpu")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for plan in ("jittered_plan", "sequential_plan"):
            patch.setattr(f"finegrained.heads.dcl.{plan}", same_plan)
        for number, case in enumerate(RUNS):
            found[case] = compare(case, root, folder / str(number), world)
    if world.is_main:
        (folder / "result.json").write_text(json.dumps(found))
    stop_world()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
