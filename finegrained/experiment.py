"""One configuration made concrete: data, split and pictures, and the run that trains and tests once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from finegrained.config import FineConfig
from finegrained.data.boxes import picture_boxes
from finegrained.data.load import FineData, check_contents, make_fine_split, read_fine_data, tell_reading
from finegrained.data.splits import FineSplit
from finegrained.heads.crop_views import show_pictures
from finegrained.recipes import data_set_of, with_presets
from finegrained.record import write_results
from finetune.cli.console import say
from finetune.errors import CrlError, UsageError
from finetune.images.cache import ImageSource, open_pictures
from finetune.images.preprocess import PreprocessSpec
from finetune.models.heads.registry import resolved
from finetune.runs.folder import RunFolder, check_content
from finetune.training.config import FREE_KEYS, to_dict
from finetune.training.data import Task
from finetune.training.fit import Fitted, fit
from finetune.training.learner import spec_of
from finetune.training.optimization.distributed import World, any_true, barrier
from finetune.training.predict import check_answers


@dataclass(frozen=True)
class Experiment:
    """Everything of a run that is known before its first step; `config` has every option of the head."""

    config: FineConfig
    data: FineData
    split: FineSplit
    spec: PreprocessSpec
    source: ImageSource

    @property
    def task(self) -> Task:
        """What is learned from: the training rows, and the validation rows that are scored each epoch."""
        split = self.split
        return Task(self.data.manifest, self.source, self.spec, split.train, split.val, split.hash)


def check_run_place(config: FineConfig) -> None:
    """Raise UsageError, before any long work, where the results have no place or another run's."""
    if not config.run.dir:
        raise UsageError("no place for the results: give --run.dir FOLDER")
    check_content(Path(config.run.dir), config.run.resume)


def prepare_experiment(config: FineConfig) -> Experiment:
    """Read the data, split and check them, fill in all options of head and loss, and open the pictures."""
    data = read_fine_data(config.data)
    split = make_fine_split(data, config.data)
    say(describe_data(data, split))
    tell_reading(data)
    data = check_contents(data, split, config.data)
    config = with_presets(config, data_set_of(data.layout, data.manifest.class_names))
    options = resolved(config.head.name, config.head.options)
    config = replace(config, head=replace(config.head, options=options), loss=config.loss.resolved())
    spec = spec_of(config)
    boxes = picture_boxes(data.manifest, config.data)
    source = open_pictures(data.manifest, spec, config.run.cache, boxes=boxes)
    return Experiment(config, data, split, spec, source)


def describe_data(data: FineData, split: FineSplit) -> str:
    """Return the line that says what was read and how it is used."""
    parts = f"{len(split.train)} train, {len(split.val)} validation, {len(split.test)} test"
    return f"{data.layout}: {len(data.manifest)} images of {data.manifest.num_classes} classes: {parts}"


def run_experiment(experiment: Experiment, folder: Path, world: World) -> None:
    """Train, test once with the selected weights, and leave a complete run folder."""
    config, task = experiment.config, experiment.task
    with open_run(config, folder, world) as run:
        fitted = fit(task, plain(config, folder), run, world)
        found = test_once(experiment, fitted)
        if world.is_main:
            write_results(experiment, fitted, found, run)
        barrier(world)


def open_run(config: FineConfig, folder: Path, world: World) -> RunFolder:
    """Open the run folder; when the first process may not, all leave together instead of waiting for it."""
    refused: CrlError | None = None
    try:
        run = RunFolder.open(
            folder,
            to_dict(plain(config, folder)),
            resume=config.run.resume,
            allow_change=config.run.allow_change,
            free_keys=FREE_KEYS,
            writer=world.is_main,
        )
    except CrlError as error:
        refused = error
    if any_true(refused is not None, world):
        raise refused or UsageError("the first process was refused; its message says why")
    return run


def plain(config: FineConfig, folder: Path) -> FineConfig:
    """Return the configuration as config.yaml keeps it: without how this one call began."""
    return replace(config, run=replace(config.run, dir=str(folder), resume="never", allow_change=()))


def test_once(experiment: Experiment, fitted: Fitted) -> dict[str, np.ndarray]:
    """Return {"index", "target", "probs"} of the test rows, shown as configured, computed in float32.

    Raises DivergedError where they are no numbers.
    """
    learner, asked = fitted.learner, experiment.config.evaluate
    found = show_pictures(
        learner.core,
        experiment.source,
        experiment.data.manifest.label,
        experiment.split.test,
        experiment.spec,
        precision=learner.precision.in_float32(),
        world=learner.world,
        crops=asked.test_crops,
        batch_size=asked.batch_size,
        workers=experiment.config.run.workers,
    )
    check_answers(found["probs"])
    return found
