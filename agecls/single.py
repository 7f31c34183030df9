"""One model on one split: `train`, alone or under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agecls.config import AgeConfig
from finetune.errors import UsageError


def train_single(config: AgeConfig) -> dict[str, Any]:
    """Fine-tune on one fold's training rows (all rows for fold -1), test once, return the run's record."""
    from agecls.experiment import prepare_experiment, run_fold
    from finetune.console import quiet, say
    from finetune.distributed import start_world, stop_world
    from finetune.precision import choose_precision
    from finetune.run_folder import read_json

    world = start_world(choose_precision(config.device, config.run.precision).device)
    if not world.is_main:
        quiet()
    try:
        experiment = prepare_experiment(config)
        total = len(experiment.splits)
        if not -1 <= config.data.fold < total:
            raise UsageError(
                f"--data.fold {config.data.fold}: there are folds 0 to {total - 1}, or -1 to use all"
            )
        folder = Path(config.run.dir)
        run_fold(experiment, config.data.fold, folder, world)
        record: dict[str, Any] = read_json(folder / "run.json")
        scores = record["scores"]
        if scores:
            told = f"exact {scores['exact']:.2f} %, one-off {scores['one_off']:.2f} %"
            say(f"test fold {config.data.fold}: {told}")
        say(f"the run lies in {folder}")
        return {"run": str(folder), **record}
    finally:
        stop_world()
