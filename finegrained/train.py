"""`train`: one model on the official split, alone or under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finegrained.config import FineConfig


def train_run(config: FineConfig) -> dict[str, Any]:
    """Fine-tune on the training rows, test once on the test rows, report, and return the run's record."""
    from finegrained.experiment import check_run_place, prepare_experiment, run_experiment
    from finetune.console import quiet
    from finetune.distributed import start_world, stop_world
    from finetune.precision import choose_precision
    from finetune.run_folder import read_json

    world = start_world(choose_precision(config.device, config.run.precision).device)
    if not world.is_main:
        quiet()
    try:
        if world.is_main:
            check_run_place(config)
        folder = Path(config.run.dir)
        run_experiment(prepare_experiment(config), folder, world)
        record: dict[str, Any] = read_json(folder / "run.json")
        if world.is_main:
            tell(record, folder)
        return {"run": str(folder), **record}
    finally:
        stop_world()


def tell(record: dict[str, Any], folder: Path) -> None:
    """Say what came out, write the report where there was something to test, and say where it lies."""
    from finegrained.report import report_run
    from finegrained.results import FineResult
    from finetune.console import say

    if record["n"]:
        say(summary_line(record))
        report_run(FineResult.load(folder))
        say(f"report: {folder / 'report.md'}")
    say(f"the run lies in {folder}")


def summary_line(record: dict[str, Any]) -> str:
    """Return the run's scores in one line, with the interval and what guessing would reach."""
    scores, interval = record["scores"], record["scores"]["top1_interval"]
    top5 = "" if scores["top5"] is None else f", top-5 {scores['top5']:.2f} %"
    level = f"{100 * interval['level']:.0f} %"
    return (
        f"{record['selected']} weights: top-1 {scores['top1']:.2f} % ({level} interval {interval['low']:.1f} "
        f"to {interval['high']:.1f}){top5} of {scores['n']} test images; always guessing the commonest class "
        f"{scores['baseline']['top1']:.2f} %"
    )
