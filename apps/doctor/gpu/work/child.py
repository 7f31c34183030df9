"""What runs in a process of its own: `python -P -m apps.doctor.gpu.work.child WORK DEVICE SIZES ...`."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apps.doctor.gpu.setup import SIZES, Sizes
from apps.doctor.gpu.work import general
from apps.doctor.gpu.work.training import batches_for, learner_for, recipe, task_for, train_steps, weights_of
from finetune.cli.console import quiet
from finetune.runs.config_file import FREE_KEYS
from finetune.runs.folder import RunFolder
from finetune.runs.interrupts import end_with_parent
from finetune.training.checkpoint import weights_hash
from finetune.training.config import to_dict
from finetune.training.fit import fit
from finetune.training.optimization.distributed import World, start_world, stop_world

ALARM = (
    "deterministic"  # a word of every warning of an operation whose results depend on the order of threads
)
WINDOWS = 3  # optimiser steps of the run in two processes, two batches each


def repeat_cases(sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Return the trainings that must repeat themselves: what `recipe` takes, by name."""
    trunk = {"backbone": sizes.trunk, "side": sizes.side}
    odd = {"backbone": sizes.trunk, "side": sizes.odd_side, "head": "dcl"}
    return {
        "linear": trunk,
        "DCL, 7 regions": {**odd, "options": {"regions": 7}},
        "DCL, 3 regions": {**odd, "options": {"regions": 3}},
        "compact bilinear": {**trunk, "head": "compact_bilinear", "options": {"dim": 512}},
        "two trunks": {**trunk, "head": "bilinear", "second": sizes.second, "options": {"reduction": 16}},
        "transformer": {"backbone": sizes.transformer, "side": sizes.side},
    }


def repeat(device: str, sizes: Sizes, folder: Path, answer: Path) -> None:
    """Train every case for a few deterministic steps; write the hashes of their weights, and what warned."""
    found: dict[str, Any] = {}
    for name, options in repeat_cases(sizes).items():
        with alarms() as heard:
            config = recipe(device=device, precision="auto", batch_size=sizes.batch, **options)
            task = task_for(folder, sizes, options["side"])
            learner = learner_for(task, config)
            train_steps(learner, batches_for(learner, task), sizes.steps)
        found[name] = {"hash": weights_hash(weights_of(learner)), "warnings": sorted(set(heard))}
    with alarms() as heard:
        place = folder / answer.stem
        made = general.stacked_hash(sizes.general[-1], device, place, sizes.steps)
    found["4 stacked models"] = {"hash": made, "warnings": sorted(set(heard))}
    answer.write_text(json.dumps(found), encoding="utf-8")


@contextmanager
def alarms() -> Iterator[list[str]]:
    """Give a list that holds, in the end, the warnings of operations that are not deterministic."""
    heard: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield heard
        finally:
            told = [str(warning.message) for warning in caught]
            heard += [" ".join(text.split())[:160] for text in told if ALARM in text]


def run_fit(device: str, sizes: Sizes, folder: Path, run: Path) -> None:
    """Train, or go on, in `run`, with all that a resume must bring back; write the hash of the weights."""
    config = recipe(
        sizes.trunk,
        sizes.runs_side,
        device,
        precision="float16" if device == "cuda" else "float32",
        epochs=sizes.epochs,
        batch_size=sizes.batch,
        workers=2,
        minutes=1e-6,
        ema=0.9,
        mixup=0.2,
    )
    task = task_for(folder, sizes, sizes.runs_side, val=sizes.images // 4)
    content = to_dict(config)
    with RunFolder.open(run, content, resume="auto", free_keys=FREE_KEYS) as opened:
        fitted = fit(task, config, opened, World())
    (run / "hash").write_text(weights_hash(fitted.model.state_dict()), encoding="ascii")


def run_general(device: str, sizes: Sizes, folder: Path, run: Path) -> None:  # noqa: ARG001  # as run_fit
    """Train one model of the general engine, or go on, in `run`; write the hash of its weights."""
    run.mkdir(parents=True, exist_ok=True)
    made = general.run_to_hash(sizes.general[0], device, run, sizes.epochs)
    (run / "hash").write_text(made, encoding="ascii")


def run_ranks(device: str, sizes: Sizes, folder: Path, answer: Path) -> None:
    """Train as one of the processes that the environment names; write weights, and how often gradients met.

    CRL_DOCTOR_BACKEND names where the processes meet: cpu (gloo) or cuda (NCCL).
    """
    import torch

    world = start_world(os.environ.get("CRL_DOCTOR_BACKEND", "cpu"))
    config = recipe(sizes.transformer, sizes.runs_side, device, batch_size=sizes.batch, accumulate=2)
    task = task_for(folder, sizes, sizes.runs_side)
    learner = learner_for(task, config, world)
    met = 0

    def count(model: Any, _given: Any) -> None:
        nonlocal met
        met += bool(getattr(model, "require_backward_grad_sync", False))

    learner.model.register_forward_pre_hook(count)
    train_steps(learner, batches_for(learner, task), 2 * WINDOWS)
    torch.save({"weights": weights_of(learner), "met": met, "windows": WINDOWS}, answer)
    stop_world()


WORK: dict[str, Callable[[str, Sizes, Path, Path], None]] = {
    "repeat": repeat,
    "fit": run_fit,
    "general": run_general,
    "ranks": run_ranks,
}


def main(words: Sequence[str]) -> None:
    """Do the work that the first word names on a device, in the sizes named; its folder and answer follow."""
    end_with_parent()
    quiet()
    work, device, sizes, folder, answer = words
    WORK[work](device, SIZES[sizes], Path(folder), Path(answer))


if __name__ == "__main__":
    main(sys.argv[1:])
