"""What auto means in all runs of a study or a cross-validation: chosen once, kept in its folder.

That is their number format, and whether their steps are compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.cli.machine import core_count
from finetune.experiments.records.record import RECORD_FILE, recorded_format
from finetune.experiments.records.splits import Split
from finetune.experiments.run import Experiment
from finetune.experiments.study.folder import CHOICE_FILE
from finetune.runs.folder import read_json, write_json
from finetune.runs.lock import FolderLock
from finetune.training.checkpoint import CheckpointFolder
from finetune.training.learner import workload
from finetune.training.optimization.measuring import Workload, choose_format, planned_steps
from finetune.training.optimization.precision import Choice, choose_precision, chosen_before
from finetune.training.optimization.rehearsal import compiled_for_all

RUNS = ("", "fold*/", "cells/*/*/", "cells/*/*/fold*/")  # where runs lie in such a folder


def with_shared_precision(
    experiment: Experiment, folder: Path, splits: Sequence[Split], trainings: int = 1
) -> Experiment:
    """Return the experiment with what auto means in all runs of a folder; it is the same in every process.

    Their number format is the one that the folder keeps, that `experiment` came with, or that runs already in
    the folder had. Else it is chosen now, and with it whether `run.compile auto` compiles their steps.
    Nothing is chosen where both are given by name, nor of compiling on a CPU.

    Args:
        experiment: the runs' data and configuration.
        folder: of the study or the cross-validation; it is there already.
        splits: that are trained on.
        trainings: of each split.
    """
    named = experiment.config.run.precision != "auto"
    if named and not _may_compile(experiment.config):
        return experiment
    file = folder / CHOICE_FILE
    if not file.is_file():
        choice = experiment.choice or _of_earlier_runs(folder) or _choose(experiment, splits, trainings)
        if choice.compiled is None and _may_compile(experiment.config):
            choice = _with_compiling(choice, experiment, splits)
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
    if config.run.precision != "auto":
        return Choice(config.run.precision, "as asked")
    steps = trainings * sum(planned_steps(config, len(split.train)) for split in splits)
    return choose_format(_device(config), _work(experiment, steps))


def _with_compiling(choice: Choice, experiment: Experiment, splits: Sequence[Split]) -> Choice:
    """Return the choice with whether the steps are compiled, which the longest of the trainings decides."""
    config = experiment.config
    steps = max(planned_steps(config, len(split.train)) for split in splits)
    compiled = compiled_for_all(_device(config), _work(experiment, steps), choice, steps)
    return replace(choice, compiled=compiled)


def _work(experiment: Experiment, steps: int) -> Workload:
    config = experiment.config
    devices = getattr(config, "devices", ())
    threads = max(1, core_count() // len(devices)) if len(devices) > 1 else 0
    classes = experiment.data.manifest.num_classes
    return workload(config, classes, experiment.spec, steps, threads=threads)


def _device(config: Any) -> str:
    devices = getattr(config, "devices", ())
    return str(devices[0] if devices else config.device)


def _may_compile(config: Any) -> bool:
    return config.run.compile == "auto" and choose_precision(_device(config), "float32").device.type == "cuda"


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
