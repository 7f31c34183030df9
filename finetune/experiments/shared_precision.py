"""The number format that all runs of a study or a cross-validation share: chosen once, kept in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from finetune.cli.machine import core_count
from finetune.experiments.records.record import RECORD_FILE, recorded_format
from finetune.experiments.records.splits import Split
from finetune.experiments.run import Experiment
from finetune.experiments.study.folder import CHOICE_FILE
from finetune.runs.folder import read_json, write_json
from finetune.runs.lock import FolderLock
from finetune.training.checkpoint import CheckpointFolder
from finetune.training.learner import workload
from finetune.training.optimization.measuring import choose_format, planned_steps
from finetune.training.optimization.precision import Choice, chosen_before

RUNS = ("", "fold*/", "cells/*/*/", "cells/*/*/fold*/")  # where runs lie in such a folder


def with_shared_precision(
    experiment: Experiment, folder: Path, splits: Sequence[Split], trainings: int = 1
) -> Experiment:
    """Return the experiment with the number format of all runs in a folder; it is the same in every process.

    It is the one that the folder keeps, that `experiment` came with, or that runs already in the folder had.
    Else it is chosen now. Nothing is chosen where run.precision names a format.

    Args:
        experiment: the runs' data and configuration.
        folder: of the study or the cross-validation; it is there already.
        splits: that are trained on.
        trainings: of each split.
    """
    if experiment.config.run.precision != "auto":
        return experiment
    file = folder / CHOICE_FILE
    if not file.is_file():
        choice = experiment.choice or _of_earlier_runs(folder) or _choose(experiment, splits, trainings)
        lock = FolderLock(folder, 60)
        try:
            if not file.is_file():  # another process may have chosen meanwhile
                write_json(file, choice.to_dict())
        finally:
            lock.release()
    return replace(experiment, choice=kept_choice(folder))


def kept_choice(folder: Path) -> Choice | None:
    """Return the choice that a study's or a cross-validation's folder keeps; None where it keeps none."""
    file = folder / CHOICE_FILE
    return Choice.from_dict(read_json(file)) if file.is_file() else None


def _choose(experiment: Experiment, splits: Sequence[Split], trainings: int) -> Choice:
    config = experiment.config
    devices = getattr(config, "devices", ())
    steps = trainings * sum(planned_steps(config, len(split.train)) for split in splits)
    threads = max(1, core_count() // len(devices)) if len(devices) > 1 else 0
    classes = experiment.data.manifest.num_classes
    work = workload(config, classes, experiment.spec, steps, threads=threads)
    return choose_format(devices[0] if devices else config.device, work)


def _of_earlier_runs(folder: Path) -> Choice | None:
    """Return the format of runs that an earlier version trained, or began, in the folder."""
    records = (file for place in RUNS for file in sorted(folder.glob(f"{place}{RECORD_FILE}")))
    found = next((name for file in records if (name := recorded_format(read_json(file)))), None)
    if found is not None:
        return Choice(found, "as the runs that are here already")
    return next((choice for choice in _begun(folder)), None)


def _begun(folder: Path) -> Iterator[Choice]:
    for place in RUNS:
        for checkpoints in sorted(folder.glob(f"{place}checkpoints")):
            saved = CheckpointFolder(checkpoints).load_latest()
            choice = saved and chosen_before(saved[0])
            if choice:
                yield choice
