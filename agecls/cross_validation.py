"""Subject-exclusive cross-validation: every fold once, a finished one never again, then the report."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agecls.config import CrossValidationConfig
from finetune.cli.command import command_line
from finetune.cli.console import say
from finetune.cli.machine import SIDE_BY_SIDE, core_count, module_command, module_environment, sees_alone
from finetune.errors import CrlError, DataError, InterruptedRunError, UsageError, listing
from finetune.experiments.data_checks import with_contents
from finetune.experiments.probabilities.calibrate import calibrate_tested
from finetune.experiments.records.predictions import join_predictions
from finetune.experiments.records.record import RECORD_FILE, RunRecord
from finetune.experiments.report import report_result
from finetune.experiments.result import Result
from finetune.experiments.run import (
    Experiment,
    check_run_place,
    few_clusters,
    kept_options,
    prepare_experiment,
    run_split,
    with_all_options,
)
from finetune.experiments.shared_precision import with_shared_precision
from finetune.experiments.study.folder import no_claim_left
from finetune.experiments.task import Task
from finetune.images.checks import known_count, subjects_known
from finetune.images.manifest import Manifest
from finetune.runs.config_file import FREE_KEYS, config_changes
from finetune.runs.folder import RunFolder, read_json
from finetune.runs.interrupts import StopRequest, end_with_parent, with_parent
from finetune.training.optimization.distributed import World
from finetune.training.optimization.precision import Choice, choose_precision


def fold_folder(folder: Path, fold: int) -> Path:
    """Return where a fold's run lies."""
    return folder / f"fold{fold}"


def is_finished(folder: Path) -> bool:
    """Return whether a fold's run is complete: its record is the last file it writes."""
    return (folder / "run.json").is_file()


def cross_validate(
    task: Task,
    config: CrossValidationConfig,
    prepared: Experiment | None = None,
    choice: Choice | None = None,
) -> dict[str, Any]:
    """Run the folds that are asked for and not finished; score and report once all are there.

    `prepared` is given by whoever runs several losses on the same data, such as a study: these data are
    neither read nor reported again. `choice` is what run.precision auto means in others that this one is to
    be compared with.

    Returns the report's JSON object, or, while folds remain, {"finished": [...], "remaining": [...]}.
    """
    refuse_torchrun()
    end_with_parent()
    folder = Path(config.run.dir)
    check_run_place(config)
    if prepared is None:
        experiment = prepare_experiment(task, config, config.folds)
    else:
        experiment = replace(prepared, config=with_all_options(task.configure(config, prepared.data)))
    config = replace(config, head=experiment.config.head, loss=experiment.config.loss)
    folds = experiment.splits.folds
    wanted = _wanted_folds(config.folds, folds)
    claim_folder(task, folder, config)
    config = replace(config, run=replace(config.run, resume="auto"))
    experiment = replace(experiment, config=config)
    finished = finished_folds(experiment, folder)
    waiting = [fold for fold in wanted if fold not in finished]
    for fold in wanted:
        if fold in finished:
            say(f"fold {fold}: finished earlier, not run again")
    with no_claim_left(folder, "fold*"):
        if waiting:
            given = replace(experiment, choice=choice or experiment.choice)
            experiment = with_shared_precision(given, folder, list(experiment.splits))
        if len(config.devices) > 1 and len(waiting) > 1:
            run_on_devices(config, folder, waiting)
        else:
            device = config.devices[0] if config.devices else config.device
            experiment = replace(experiment, config=replace(config, device=device))
            for fold in waiting:
                if is_finished(fold_folder(folder, fold)):  # by another process meanwhile
                    continue
                split = experiment.split(fold)
                run_split(experiment, split, fold_folder(folder, fold), World(), keep_table=False)
    finished = finished_folds(experiment, folder)
    remaining = [fold for fold in folds if fold not in finished]
    if remaining or not config.report:
        if remaining:
            say(f"folds {', '.join(map(str, remaining))} remain; the report is written when all are there")
        return {"finished": finished, "remaining": remaining, "run": str(folder)}
    return conclude(experiment, folder)


def refuse_torchrun() -> None:
    """Raise UsageError under torchrun: its processes would all run the same folds."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "cv runs a fold in one process: start it without torchrun and give --devices cuda:0,cuda:1 for "
            "one fold per device, or spread a single fold over devices by torchrun with train --data.fold"
        )


def finished_folds(experiment: Experiment, folder: Path) -> list[int]:
    """Return the folds that are complete; DataError when one was run on other images than are there now."""
    now = experiment.identity
    found = []
    for fold in experiment.splits.folds:
        own = fold_folder(folder, fold)
        if not is_finished(own):
            continue
        record = read_json(own / RECORD_FILE)
        changed = config_changes({name: record.get(name) for name in now}, now)
        if changed:
            changes = [f"{name}: {change}" for name, change in changed.items()]
            raise DataError(
                f"the data changed since {own} was run (images, labels or subjects):\n{listing(changes)}\n"
                "Folds of different data cannot be joined: restore the data or give a new --run.dir"
            )
        found.append(fold)
    return found


def _wanted_folds(asked: tuple[int, ...], there: list[int]) -> list[int]:
    unknown = sorted(set(asked) - set(there))
    if unknown:
        raise UsageError(f"--folds {','.join(map(str, unknown))}: there are folds {there}")
    return sorted(set(asked)) or there


def claim_folder(task: Task, folder: Path, config: CrossValidationConfig) -> None:
    """Make or reopen the result folder under its rules, write its configuration, and let go of it.

    Each fold holds its own lock while it runs, so that several processes may share the result folder.
    """
    with RunFolder.open(
        folder,
        kept_options(task, config),
        resume=config.run.resume,
        allow_change=config.run.allow_change,
        free_keys=FREE_KEYS,
        wait_seconds=60,
    ):
        pass


Running = dict[int, tuple[str, "subprocess.Popen[bytes]"]]


def run_on_devices(config: CrossValidationConfig, folder: Path, folds: list[int]) -> None:
    """Run `folds` on the configured devices; CrlError names the folds that failed and their logs.

    Its exit code is the highest of theirs.

    A request to stop (Ctrl-C, SIGTERM) is passed on: every fold saves itself before this one leaves.
    """
    for device in config.devices:
        choose_precision(device, config.run.precision)  # refuses a device that is not there, before any fold
    queue, failed, running = list(folds), dict[int, int](), Running()
    free = list(config.devices)
    threads = max(1, core_count() // len(free))
    with StopRequest() as stop, stopping(running):
        while queue or running:
            while queue and free:
                fold, device = queue.pop(0), free.pop(0)
                say(f"fold {fold}: starting on {device}, its output goes to {fold_log(folder, fold)}")
                running[fold] = (device, start_fold(config, folder, fold, device, threads))
            for fold, (device, process) in list(running.items()):
                try:
                    code = process.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    continue
                del running[fold]
                free.append(device)
                say(f"fold {fold}: {'finished' if code == 0 else f'failed with exit code {code}'}")
                failed |= {fold: code} if code else {}
            if stop.requested:
                raise InterruptedRunError(
                    f"stopped, folds {sorted(running)} save themselves; {resume_hint()}"
                )
    if failed:
        logs = ", ".join(str(fold_log(folder, fold)) for fold in failed)
        error = CrlError(f"folds {sorted(failed)} failed; see {logs}. {resume_hint()}")
        error.exit_code = max(failed.values())
        raise error


@contextmanager
def stopping(running: Mapping[int, tuple[str, subprocess.Popen[bytes]]]) -> Iterator[None]:
    """Ask the processes that still run when the `with` ends to save themselves and leave; wait for them."""
    try:
        yield
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def start_fold(
    config: CrossValidationConfig, folder: Path, fold: int, device: str, threads: int
) -> subprocess.Popen[bytes]:
    """Start a process that runs one fold on one device, as the result's own config.yaml says."""
    run = config.run
    options = {
        "config": folder / "config.yaml",
        "folds": fold,
        "device": device,
        "report": "false",
        "evaluate.batch_size": config.evaluate.batch_size,
        "run.dir": folder,
        "run.resume": "auto",
        "run.cache": run.cache,
        "run.workers": run.workers,
        "run.checkpoint_minutes": run.checkpoint_minutes,
        "run.track": f"[{','.join(run.track)}]",
    }
    if run.allow_change:
        options["run.allow_change"] = ",".join(run.allow_change)
    words = [f"--{name}={value}" for name, value in options.items()]
    with fold_log(folder, fold).open("ab") as log:
        return subprocess.Popen(
            module_command("agecls", "cv", *words),
            stdout=log,
            stderr=subprocess.STDOUT,
            env=with_parent(
                {
                    "OMP_NUM_THREADS": str(threads),
                    SIDE_BY_SIDE: str(len(config.devices)),
                    **module_environment(),
                    **sees_alone(device),
                }
            ),
        )


def fold_log(folder: Path, fold: int) -> Path:
    """Return where the output of a fold's process goes."""
    return folder / f"fold{fold}.log"


def resume_hint() -> str:
    """Return the sentence that names the command to go on with."""
    from finetune.training.failures import resume_line

    return resume_line()


def conclude(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Join the folds' predictions and records into the result's own, then score, draw and report."""
    task, manifest = experiment.task, experiment.data.manifest
    folds = [Result.load(fold_folder(folder, split.fold), task.form) for split in experiment.splits]
    refuse_mixed_folds(folds)
    record = joined_record(folds, manifest, task.form.kinds[-1])
    content = kept_options(task, experiment.config)
    with RunFolder.open(folder, content, resume="auto", free_keys=FREE_KEYS, wait_seconds=60) as run:
        with_contents(manifest).save(folder / "manifest.parquet")
        predictions = join_predictions([fold.predictions for fold in folds])
        predictions.write(folder / "predictions.parquet")
        few = few_clusters(experiment, predictions)
        for warning in few:
            say(f"warning: {warning}")
        if few:
            record = replace(record, warnings=(*(record.warnings or ()), *few))
        record.write(run.path / RECORD_FILE)
        calibrate_tested(task, folder)
        train_labels = {split.fold: manifest.label[split.train] for split in experiment.splits}
        report = report_result(task, Result.load(folder, task.form), train_labels)
    task.tell(report)
    say(f"report: {folder / 'report.md'}")
    return report


def joined_record(folds: list[Result], manifest: Manifest, kind: str) -> RunRecord:
    """Return the record of all folds together: what they share, and what can be added up."""
    first = folds[0].record
    shared = {key: value for key, value in first.extra.items() if key != "fold"}
    return replace(
        first,
        kind=kind,
        command=command_line(),
        n=sum(len(fold.predictions) for fold in folds),
        minutes=round(sum(fold.record.minutes or 0.0 for fold in folds), 3),
        warnings=joined_warnings(folds),
        scores=None,
        selected=first.selected if len({fold.record.selected for fold in folds}) == 1 else None,
        n_train=None,
        train_counts=None,
        n_validation=None,
        best_validation=None,
        best_epoch=None,
        epochs_run=None,
        extra=shared
        | {
            "folds": [fold.record.fold for fold in folds],
            "subjects": known_count(manifest["subject"], known=subjects_known(first.counted)),
            "devices": sorted({fold.record.device_used for fold in folds}),
        },
    )


def joined_warnings(folds: Sequence[Result]) -> tuple[str, ...] | None:
    """Return the warnings of all folds; what only some have names them. None where none recorded any."""
    if all(fold.record.warnings is None for fold in folds):
        return None
    told: dict[str, list[str]] = {}
    for fold in folds:
        for warning in fold.record.warnings or ():
            told.setdefault(warning, []).append(str(fold.record.extra["fold"]))
    return tuple(
        text if len(own) == len(folds) else f"fold {', '.join(own)}: {text}" for text, own in told.items()
    )


def refuse_mixed_folds(folds: list[Result]) -> None:
    """Raise DataError when folds were trained with different settings: they are no one experiment."""
    own = (*FREE_KEYS, "data.fold")
    for other in folds[1:]:
        changes = config_changes(folds[0].config, other.config)
        lines = [f"{key}: {change}" for key, change in changes.items() if key not in own]
        if lines:
            raise DataError(
                f"{folds[0].folder} and {other.folder} were trained differently:\n{listing(lines)}\n"
                "Remove the folds that should be trained again, then give --run.resume auto"
            )
