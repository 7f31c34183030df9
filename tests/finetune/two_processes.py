"""What two processes do together, for test_torchrun.py: started as a module by torchrun."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.errors import InterruptedRunError
from finetune.models.bundle import weights_hash
from finetune.training.config import FitConfig
from finetune.training.data import TrainingData, plain_scores
from finetune.training.epoch_metrics import Totals
from finetune.training.fit import Fitted
from finetune.training.optimization.distributed import World, barrier, gather_rows, start_world, stop_world
from finetune.training.predict import predict
from tests.finetune.quick import at_call, disturb_loss, quick, task_of, train

PLAIN = quick(model_backbone="test_vit", train_lr=0.005, train_epochs=2, train_accumulate=2, train_mixup=0.0)
NORMED = quick(train_ema=0.9, train_epochs=2)
BEST = quick(train_epochs=2, train_select="best")
KEPT = quick(
    model_backbone="test_vit",
    train_epochs=3,
    train_frozen_epochs=2,
    train_augment="none",
    train_frozen_views=1,
)
LONG = quick(model_backbone="test_vit", train_lr=0.005, train_epochs=1, train_batch_size=2)


def odd_task(root: Path) -> TrainingData:
    """Return the task with 13 validation rows, one row alone, and 45 to train on."""
    task = task_of(root)
    return replace(task, val=task.val[:13])


def states(fitted: Fitted, world: World) -> list[str]:
    """Return the hash of the model of every process."""
    own = weights_hash(fitted.model.state_dict())
    letters = gather_rows({"hash": np.frombuffer(own.encode(), np.uint8)[None]}, world)["hash"]
    return [bytes(row).decode() for row in letters]


def trained(task: TrainingData, folder: Path, config: FitConfig, world: World) -> Fitted:
    """Train in a folder that the first process has made."""
    if world.is_main:
        folder.mkdir(parents=True, exist_ok=True)
    barrier(world)
    return train(task, folder, config, world=world)


def without_batch_norm(task: TrainingData, folder: Path, world: World) -> dict[str, Any]:
    """Train, keep the weights, and predict an odd number of rows, and a single one."""
    fitted = trained(task, folder / "plain", PLAIN, world)
    if world.is_main:
        torch.save(fitted.model.state_dict(), folder / "plain.pt")
    odd = predict(fitted.learner, task, task.val, PLAIN, batch_size=4)
    one = predict(fitted.learner, task, task.val[:1], PLAIN)
    told = {"index": odd["index"].tolist(), "probs": odd["probs"].tolist(), "one": one["index"].tolist()}
    return {**told, "states": states(fitted, world)}


def with_batch_norm(task: TrainingData, folder: Path, world: World) -> dict[str, Any]:
    """Train with statistics that differ between processes, and predict."""
    seen: list[list[list[float]]] = []

    def scorer(probs: np.ndarray, target: np.ndarray) -> dict[str, float]:
        if len(target) > 1:
            seen.append(probs.tolist())
        return plain_scores(probs, target)

    fitted = trained(replace(task, scorer=scorer), folder / "normed", NORMED, world)
    found = predict(fitted.learner, task, task.val, NORMED)
    best = states(trained(task, folder / "best", BEST, world), world)
    return {"states": states(fitted, world), "probs": found["probs"].tolist(), "seen": seen, "best": best}


def stopped_and_resumed(task: TrainingData, folder: Path, world: World) -> dict[str, Any]:
    """Stop the second process by a signal, mid-epoch, go on, and compare with an unbroken run."""
    whole = states(trained(task, folder / "whole", LONG, world), world)
    places = []
    with pytest.MonkeyPatch.context() as patch:
        if world.rank == 1:
            disturb_loss(patch, at_call(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        try:
            trained(task, folder / "cut", LONG, world)
        except InterruptedRunError as stop:
            places.append(str(stop))
    barrier(world)
    resumed = states(trained(task, folder / "cut", LONG, world), world)
    return {"whole": whole, "resumed": resumed, "places": places}


def with_kept_features(task: TrainingData, folder: Path, world: World) -> dict[str, Any]:
    """Train on a frozen backbone's features; the last image of the table has no partner to share with."""
    task = replace(task, train=task.train[:41])
    fitted = trained(task, folder / "kept", KEPT, world)
    if world.is_main:
        torch.save(fitted.model.state_dict(), folder / "kept.pt")
    return {"states": states(fitted, world)}


def main(root: Path, folder: Path) -> None:
    """Do all of it and leave what each process saw in result0.json and result1.json."""
    torch.set_num_threads(1)
    world = start_world("cpu")
    task = odd_task(root)
    result = {
        "plain": without_batch_norm(task, folder, world),
        "kept": with_kept_features(task, folder, world),
        "normed": with_batch_norm(task, folder, world),
        "stopped": stopped_and_resumed(task, folder, world),
        "means": Totals(torch.tensor([1.0, 1.0, 2.0]) * (world.rank + 1)).means(world),
    }
    (folder / f"result{world.rank}.json").write_text(json.dumps(result))
    stop_world()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
