"""`train`: one model on the official split, alone or under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from finegrained.config import FineConfig

if TYPE_CHECKING:
    from finegrained.experiment import Experiment


def train_run(config: FineConfig) -> dict[str, Any]:
    """Fine-tune on the training rows, test once on the test rows, report, and return the run's record.

    A run that is finished is left as it is, and its record returned.
    """
    from finegrained.experiment import check_run_place, prepare_experiment, run_experiment
    from finetune.cli.console import quiet
    from finetune.runs.folder import read_json
    from finetune.training.optimization.distributed import any_true, start_world, stop_world
    from finetune.training.optimization.precision import choose_precision

    world = start_world(choose_precision(config.device, config.run.precision).device)
    if not world.is_main:
        quiet()
    try:
        if world.is_main:
            check_run_place(config)
        folder = Path(config.run.dir)
        experiment = prepare_experiment(config)
        left = any_true(not is_finished(experiment, folder), world)
        if left:
            run_experiment(experiment, folder, world)
        record: dict[str, Any] = read_json(folder / "run.json")
        if world.is_main and left:
            tell(record, folder)
        elif world.is_main:
            tell_finished(record, folder)
        return {"run": str(folder), **record}
    finally:
        stop_world()


def is_finished(experiment: Experiment, folder: Path) -> bool:
    """Tell whether the folder holds this very run, complete: its settings, its pictures and its results.

    A run that is to go on with another configuration, or on other pictures, is not finished.
    """
    from finegrained.experiment import plain
    from finegrained.record import MODEL_FILE
    from finetune.runs.config_file import FREE_KEYS, config_changes
    from finetune.runs.files import to_plain
    from finetune.runs.folder import read_config, read_json
    from finetune.training.config import to_dict

    needed = ("run.json", "predictions.parquet", "manifest.parquet", MODEL_FILE)
    if experiment.config.run.resume != "auto" or not all((folder / name).is_file() for name in needed):
        return False
    asked = to_plain(to_dict(plain(experiment.config, folder)))
    changed = config_changes(read_config(folder / "config.yaml"), asked)
    record, split = read_json(folder / "run.json"), experiment.split
    facts = {
        "manifest": experiment.data.manifest.fingerprint,
        "split": split.hash,
        "pictures": experiment.source.content,
    }
    return changed.keys() <= set(FREE_KEYS) and all(record.get(key) == own for key, own in facts.items())


def tell_finished(record: dict[str, Any], folder: Path) -> None:
    """Say that nothing is left to do and where the results lie; write the report only where it is missing."""
    from finetune.cli.console import say

    say(f"the run in {folder} is finished: nothing is trained and nothing is tested again")
    if record["n"] and not (folder / "report.md").is_file():
        tell(record, folder)
    elif record["n"]:
        say(f"{summary_line(record)}\nreport: {folder / 'report.md'}")


def tell(record: dict[str, Any], folder: Path) -> None:
    """Say what came out, write the report where there was something to test, and say where it lies."""
    from finegrained.report import report_run
    from finegrained.results import FineResult
    from finetune.cli.console import say

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
