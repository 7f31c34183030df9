"""`train`: one model on one split, alone or under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.experiments.task import Task

if TYPE_CHECKING:
    from finetune.experiments.records.record import RunRecord
    from finetune.experiments.records.splits import Split
    from finetune.experiments.run import Experiment


def train_run(task: Task, config: Any) -> dict[str, Any]:
    """Fine-tune on the training rows, test once on the test rows, report, and return the run's record.

    Where something was tested, what report.json holds is returned with it. A run that is finished is left as
    it is.
    """
    from finetune.cli.console import quiet, say
    from finetune.experiments.records.record import RECORD_FILE, RunRecord
    from finetune.experiments.run import check_run_place, is_finished, prepare_experiment, run_split
    from finetune.training.optimization.distributed import any_true, start_world, stop_world
    from finetune.training.optimization.precision import choose_precision

    world = start_world(choose_precision(config.device, config.run.precision).device)
    if not world.is_main:
        quiet()
    try:
        if world.is_main:
            check_run_place(config)
        folder = Path(config.run.dir)
        experiment = prepare_experiment(task, config, [task.chosen_fold(config)])
        split = experiment.split(task.chosen_fold(config))
        left = any_true(not is_finished(experiment, split, folder), world)
        told: dict[str, Any] = {}

        def report(record: RunRecord) -> None:
            told.update(report_run(experiment, split, folder, record, again=left))

        if left:
            run_split(experiment, split, folder, world, report=report)
        record = RunRecord.read(folder / RECORD_FILE)
        if world.is_main and not left:
            say(f"the run in {folder} is finished: nothing is trained and nothing is tested again")
            report(record)
        if world.is_main:
            say(f"the run lies in {folder}")
        return {"run": str(folder), **record.to_dict(), **told}
    finally:
        stop_world()


def report_run(
    experiment: Experiment, split: Split, folder: Path, record: RunRecord, *, again: bool
) -> dict[str, Any]:
    """Write the report of a run that tested something, and return it; a finished one is printed as it is."""
    from finetune.cli.console import say
    from finetune.experiments.records.record import has_own_report
    from finetune.experiments.report import report_result
    from finetune.experiments.result import Result
    from finetune.runs.folder import read_json

    if not record.n:
        return {}
    task = experiment.task
    if again or not has_own_report(folder):
        labels = experiment.data.manifest.label[split.train]
        report = report_result(task, Result.load(folder, task.form), {split.fold: labels})
    else:
        report = dict(read_json(folder / "report.json"))
    task.tell(report)
    say(f"report: {folder / 'report.md'}")
    return report
