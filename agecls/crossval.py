"""Subject-exclusive cross-validation: every fold once, a finished one never again, then the report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agecls.config import AgeConfig, CrossValidationConfig
from agecls.report import report_result
from agecls.results import AgeResult, Predictions
from finetune.command import command_line
from finetune.config import FREE_KEYS, to_dict
from finetune.console import say, table
from finetune.errors import CrlError, UsageError
from finetune.run_folder import RunFolder

if TYPE_CHECKING:
    from agecls.experiment import Experiment


def fold_folder(folder: Path, fold: int) -> Path:
    """Return where a fold's run lies."""
    return folder / f"fold{fold}"


def is_finished(folder: Path) -> bool:
    """Tell whether a fold's run is complete: its record is the last file it writes."""
    return (folder / "run.json").is_file()


def cross_validate(config: CrossValidationConfig) -> dict[str, Any]:
    """Run the folds that are asked for and not finished; score and report once all are there.

    Returns the report's JSON object, or, while folds remain, {"finished": [...], "remaining": [...]}.
    """
    from agecls.experiment import prepare_experiment, run_fold
    from finetune.distributed import World

    folder = Path(config.run.dir)
    experiment = prepare_experiment(config)
    total = len(experiment.splits)
    wanted = _wanted_folds(config.folds, total)
    claim_folder(folder, config)
    config = replace(config, run=replace(config.run, resume="auto"))
    experiment = replace(experiment, config=config)
    waiting = [fold for fold in wanted if not is_finished(fold_folder(folder, fold))]
    for fold in wanted:
        if fold not in waiting:
            say(f"fold {fold}: finished earlier, not run again")
    if len(config.devices) > 1 and len(waiting) > 1:
        run_on_devices(config, folder, waiting)
    else:
        device = config.devices[0] if config.devices else config.device
        experiment = replace(experiment, config=replace(config, device=device))
        for fold in waiting:
            run_fold(experiment, fold, fold_folder(folder, fold), World())
    remaining = [fold for fold in range(total) if not is_finished(fold_folder(folder, fold))]
    if remaining:
        finished = [fold for fold in range(total) if fold not in remaining]
        say(f"folds {remaining} remain; the report is written when all are there")
        return {"finished": finished, "remaining": remaining, "run": str(folder)}
    return conclude(experiment, folder)


def _wanted_folds(asked: tuple[int, ...], total: int) -> list[int]:
    unknown = [fold for fold in asked if not 0 <= fold < total]
    if unknown:
        raise UsageError(f"--folds {','.join(map(str, unknown))}: there are folds 0 to {total - 1}")
    return sorted(set(asked)) or list(range(total))


def claim_folder(folder: Path, config: CrossValidationConfig) -> None:
    """Make or reopen the result folder under its rules, write its configuration, and let go of it.

    Each fold holds its own lock while it runs, so that several processes may share the result folder.
    """
    with RunFolder.open(
        folder,
        shared_config(config),
        resume=config.run.resume,
        allow_change=config.run.allow_change,
        free_keys=FREE_KEYS,
        wait_seconds=60,
    ):
        pass


def shared_config(config: AgeConfig) -> dict[str, Any]:
    """Return what config.yaml of the result says: without the folds and devices of one call."""
    content = to_dict(config)
    for moving in ("folds", "devices"):
        content.pop(moving, None)
    return content


def run_on_devices(config: CrossValidationConfig, folder: Path, folds: list[int]) -> None:
    """Run one fold at a time on each device, each in a process of its own; raise if one of them failed."""
    queue, failed = list(folds), list[int]()
    running: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
    free = list(config.devices)
    cores = max(1, (os.cpu_count() or 1) // len(free))
    while queue or running:
        while queue and free:
            fold, device = queue.pop(0), free.pop(0)
            say(f"fold {fold}: starting on {device}, its output goes to {folder / f'fold{fold}.log'}")
            running[fold] = (device, start_fold(folder, fold, device, cores))
        for fold, (device, process) in list(running.items()):
            try:
                code = process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
            del running[fold]
            free.append(device)
            say(f"fold {fold}: {'finished' if code == 0 else f'failed with exit code {code}'}")
            failed += [fold] if code else []
    if failed:
        logs = ", ".join(str(folder / f"fold{fold}.log") for fold in failed)
        raise CrlError(f"folds {failed} failed; see {logs}, then run the same command with --run.resume auto")


def start_fold(folder: Path, fold: int, device: str, threads: int) -> subprocess.Popen[bytes]:
    """Start a process that runs one fold on one device."""
    command = [
        sys.executable,
        "-m",
        "agecls",
        "cv",
        "--config",
        str(folder / "config.yaml"),
        "--folds",
        str(fold),
    ]
    command += ["--device", device, "--run.resume", "auto"]
    with (folder / f"fold{fold}.log").open("ab") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def conclude(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Join the folds' predictions and records into the result's own, then score, draw and report."""
    folds = [AgeResult.load(fold_folder(folder, split.fold)) for split in experiment.splits]
    manifest = experiment.data.manifest
    record = dict(folds[0].run) | {
        "kind": "age_cv",
        "command": command_line(),
        "folds": [split.fold for split in experiment.splits],
        "n": sum(len(fold.predictions) for fold in folds),
        "subjects": len(set(manifest["subject"].tolist())),
        "minutes": round(sum(fold.run["minutes"] for fold in folds), 3),
        "devices": sorted({fold.run["device"]["used"] for fold in folds}),
    }
    for own in ("fold", "scores", "n_train", "n_validation", "best_validation", "best_epoch", "epochs_run"):
        record.pop(own, None)
    with RunFolder.open(
        folder, shared_config(experiment.config), resume="auto", free_keys=FREE_KEYS, wait_seconds=60
    ) as run:
        manifest.save(folder / "manifest.parquet")
        join_predictions([fold.predictions for fold in folds]).write(folder / "predictions.parquet")
        run.write_json("run.json", record)
        train_labels = {split.fold: manifest.label[split.train] for split in experiment.splits}
        report = report_result(AgeResult.load(folder), train_labels)
    tell(report)
    say(f"report: {folder / 'report.md'}")
    return report


def join_predictions(parts: list[Predictions]) -> Predictions:
    """Return the predictions of all parts together."""
    names = ("path", "subject", "user", "gender", "age", "fold", "target", "probs")
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Predictions(parts[0].class_names, **columns)


def tell(report: Mapping[str, Any]) -> None:
    """Print the headline: each score, its spread over folds, its interval and the constant predictor's."""
    rows = []
    for name in ("exact", "one_off"):
        low, high = report["intervals"][f"{name}_mean"]
        spread = "-" if report[f"{name}_sd"] is None else f"{report[f'{name}_sd']:.2f}"
        baseline = "-" if report["baseline"] is None else f"{report['baseline'][f'{name}_mean']:.2f}"
        folds = " ".join(f"{value:.1f}" for value in report[f"{name}_per_fold"])
        pooled = f"{report[f'{name}_pooled']:.2f}"
        rows.append(
            [
                name,
                f"{report[f'{name}_mean']:.2f}",
                spread,
                f"[{low:.1f}, {high:.1f}]",
                pooled,
                baseline,
                folds,
            ]
        )
    header = ["%", "mean of folds", "sd", "95 % interval", "pooled", "constant", "folds"]
    table(f"{report['n']} images of {report['subjects']} subjects, policy {report['policy']}", header, rows)
