"""A fine-grained run of seconds: drawn birds, a tiny network, one epoch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finegrained.commands import main
from finegrained.config import (
    EvaluateFineConfig,
    FineConfig,
    FineDataConfig,
    FineModelConfig,
    FineTrainConfig,
)
from finegrained.synthetic.datasets import write_lookalike_cub
from finegrained.task import TASK
from finetune.cli.console import reset
from finetune.experiments.run import prepare_experiment, run_split
from finetune.training.config import HeadConfig, LossConfig, RunConfig
from finetune.training.optimization.distributed import World

TINY = FineConfig(
    model=FineModelConfig(backbone="test_resnet", weights="none", image_size=32, resize_ratio=1.125),
    train=FineTrainConfig(epochs=1, batch_size=8, lr=0.05, warmup_epochs=0.0),
    run=RunConfig(workers=0, cache="none", precision="float32"),
    device="cpu",
)


def birds(folder: Path, classes: int = 3, per_class: int = 10) -> Path:
    """Write drawn birds as CUB lies on disk, whole enough for a run; return the folder."""
    write_lookalike_cub(folder, classes=classes, per_class=per_class, image_size=48)
    return folder


def tiny(root: Path, folder: Path, *, loss: str = "cel", head: str = "linear", **data: Any) -> FineConfig:
    """Return the tiny run of these birds in `folder`; `data` changes its data options."""
    source = FineDataConfig(**({"root": str(root), "subset": True, "val_share": 0.2} | data))
    run = replace(TINY.run, dir=str(folder))
    return replace(TINY, data=source, loss=LossConfig(name=loss), head=HeadConfig(head), run=run)


def trained(config: FineConfig, **changes: Any) -> FineConfig:
    """Return the configuration with other training options."""
    return replace(config, train=replace(config.train, **changes))


def run_whole(config: FineConfig) -> Path:
    """Train and test once, without a report; return the run's folder."""
    experiment = prepare_experiment(TASK, config)
    folder = Path(config.run.dir)
    run_split(experiment, experiment.split(0), folder, World())
    return folder


def shown(**options: Any) -> EvaluateFineConfig:
    """Return an evaluation's configuration that uses this process alone."""
    return EvaluateFineConfig(**({"device": "cpu", "cache": "none", "workers": 0} | options))


def fine(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """Run a fine-grained command in this process; return its exit code, standard output and error."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in argv], prog="crl fine")
    finally:
        reset()
    out, err = capsys.readouterr()
    return code, out, err
