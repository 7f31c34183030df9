"""One model on one split: `train`, alone or under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agecls.config import AgeConfig


def train_single(config: AgeConfig) -> dict[str, Any]:
    """Fine-tune on one fold's training rows (all rows for fold -1), test once, return the run's record."""
    from agecls.cross_validation import tell
    from agecls.experiment import check_run_place, prepare_experiment, run_fold
    from agecls.report import report_result
    from agecls.results import AgeResult
    from finetune.cli.console import quiet, say
    from finetune.runs.folder import read_json
    from finetune.training.optimization.distributed import start_world, stop_world
    from finetune.training.optimization.precision import choose_precision

    world = start_world(choose_precision(config.device, config.run.precision).device)
    if not world.is_main:
        quiet()
    try:
        if world.is_main:
            check_run_place(config)
        experiment = prepare_experiment(config)
        folder = Path(config.run.dir)
        run_fold(experiment, config.data.fold, folder, world)
        if world.is_main:
            experiment.data.manifest.save(folder / "manifest.parquet")
        record: dict[str, Any] = read_json(folder / "run.json")
        if world.is_main and record["n"]:
            split = experiment.split(config.data.fold)
            labels = experiment.data.manifest.label[split.train]
            record |= report_result(AgeResult.load(folder), {split.fold: labels})
            tell(record)
            say(f"report: {folder / 'report.md'}")
        say(f"the run lies in {folder}")
        return {"run": str(folder), **record}
    finally:
        stop_world()
