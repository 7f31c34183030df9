"""Subject-exclusive cross-validation: every fold once, a finished one never again, then the report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agecls.config import AgeConfig, CrossValidationConfig
from agecls.fold_processes import run_on_devices
from agecls.report import report_result
from agecls.results import AgeResult, Predictions
from finetune.cli.command import command_line
from finetune.cli.console import say, table
from finetune.errors import CrlError, DataError, UsageError, listing
from finetune.runs.config_file import CONFIG_NAME, config_changes
from finetune.runs.folder import RunFolder, read_json
from finetune.runs.lock import LOCK_NAME
from finetune.training.config import FREE_KEYS, to_dict

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
    from agecls.experiment import check_run_place, prepare_experiment, run_fold
    from finetune.training.optimization.distributed import World

    refuse_torchrun()
    folder = Path(config.run.dir)
    check_run_place(config)
    experiment = prepare_experiment(config)
    config = replace(config, head=experiment.config.head, loss=experiment.config.loss)
    folds = [split.fold for split in experiment.splits]
    wanted = _wanted_folds(config.folds, folds)
    claim_folder(folder, config)
    config = replace(config, run=replace(config.run, resume="auto"))
    experiment = replace(experiment, config=config)
    finished = finished_folds(experiment, folder)
    waiting = [fold for fold in wanted if fold not in finished]
    for fold in wanted:
        if fold in finished:
            say(f"fold {fold}: finished earlier, not run again")
    with no_claim_left(folder):
        if len(config.devices) > 1 and len(waiting) > 1:
            run_on_devices(config, folder, waiting)
        else:
            device = config.devices[0] if config.devices else config.device
            experiment = replace(experiment, config=replace(config, device=device))
            for fold in waiting:
                if is_finished(fold_folder(folder, fold)):  # by another process meanwhile
                    continue
                run_fold(experiment, fold, fold_folder(folder, fold), World())
    finished = finished_folds(experiment, folder)
    remaining = [fold for fold in folds if fold not in finished]
    if remaining or not config.report:
        if remaining:
            say(f"folds {', '.join(map(str, remaining))} remain; the report is written when all are there")
        return {"finished": finished, "remaining": remaining, "run": str(folder)}
    return conclude(experiment, folder)


@contextmanager
def no_claim_left(folder: Path) -> Iterator[None]:
    """Let go of the result folder when the `with` fails before any fold did anything.

    So the corrected command may use it: a misspelt device or missing weights cost nobody a folder.
    """
    try:
        yield
    except CrlError:
        names = {file.name for file in folder.rglob("*") if not file.is_dir()}
        if names <= {CONFIG_NAME, LOCK_NAME} and not any(folder.glob(f"fold*/{CONFIG_NAME}")):
            for lock in folder.glob(f"fold*/{LOCK_NAME}"):
                lock.unlink()
                lock.parent.rmdir()
            (folder / CONFIG_NAME).unlink(missing_ok=True)
        raise


def refuse_torchrun() -> None:
    """Raise UsageError under torchrun: its processes would all run the same folds."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "cv runs a fold in one process: start it without torchrun and give --devices cuda:0,cuda:1 for "
            "one fold per device, or spread a single fold over devices by torchrun with train --data.fold"
        )


def finished_folds(experiment: Experiment, folder: Path) -> list[int]:
    """Return the folds that are complete; DataError when one was run on other images than are there now."""
    now = {
        "manifest": experiment.data.manifest.fingerprint,
        "pictures": experiment.source.content,
        "split": experiment.split_hash,
    }
    found = []
    for fold in (split.fold for split in experiment.splits):
        own = fold_folder(folder, fold)
        if not is_finished(own):
            continue
        record = read_json(own / "run.json")
        changed = config_changes({name: record.get(name) for name in now}, now)
        if changed:
            changes = [f"{name}: {change}" for name, change in changed.items()]
            raise DataError(
                f"the data changed since {own} was run (images, labels or people):\n{listing(changes)}\n"
                "Folds of different data cannot be joined: restore the data or give a new --run.dir"
            )
        found.append(fold)
    return found


def _wanted_folds(asked: tuple[int, ...], there: list[int]) -> list[int]:
    unknown = sorted(set(asked) - set(there))
    if unknown:
        raise UsageError(f"--folds {','.join(map(str, unknown))}: there are folds {there}")
    return sorted(set(asked)) or there


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
    """Return what config.yaml of the result says: without what belongs to one call."""
    content = to_dict(config)
    for moving in ("folds", "devices", "report"):
        content.pop(moving, None)
    return content


def conclude(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Join the folds' predictions and records into the result's own, then score, draw and report."""
    folds = [AgeResult.load(fold_folder(folder, split.fold)) for split in experiment.splits]
    refuse_mixed_folds(folds)
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


def refuse_mixed_folds(folds: list[AgeResult]) -> None:
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
