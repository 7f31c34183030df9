"""One configuration made concrete, and the run that trains on a split, tests once and leaves a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from finetune.cli.console import hear_warnings, say, silently
from finetune.errors import CrlError, UsageError
from finetune.experiments.data_checks import with_contents
from finetune.experiments.ordered_classes import check_order, class_places, with_edges
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import (
    MODEL_FILE,
    PRECISION_CHOICE,
    RECORD_FILE,
    RunRecord,
    training_facts,
)
from finetune.experiments.records.splits import Split, Splits
from finetune.experiments.task import Task, TaskData
from finetune.images.cache.digests import keep_digests
from finetune.images.cache.source import ImageSource, open_pictures
from finetune.images.checks import subjects_known, tell_class_names
from finetune.images.preprocess import PreprocessSpec
from finetune.metrics.learning import prediction_warnings
from finetune.models.bundle import save_bundle
from finetune.models.heads.registry import resolved
from finetune.runs.config_file import FREE_KEYS, config_changes
from finetune.runs.files import to_plain
from finetune.runs.folder import RunFolder, check_content, read_config, read_json
from finetune.training.config import to_dict
from finetune.training.data import TrainingData
from finetune.training.fit import Fitted, fit
from finetune.training.learner import spec_of
from finetune.training.loggers import run_files, run_loggers
from finetune.training.optimization.distributed import World, any_true, barrier
from finetune.training.optimization.precision import Choice
from finetune.training.predict import predict

FINISHED = (RECORD_FILE, "predictions.parquet", "manifest.parquet", MODEL_FILE)
NOT_IN_MODEL = ("counts", "train_counts", "command", "data_root", "head_options", PRECISION_CHOICE)


@dataclass(frozen=True)
class Experiment:
    """Everything of a run that is known before its first step.

    `config` has every option of the head; `warnings` are those that reading and checking the data gave, by
    the fold that they hold for; `choice` is what run.precision auto means in all runs of a study.
    """

    task: Task
    config: Any
    data: TaskData
    splits: Splits
    spec: PreprocessSpec
    source: ImageSource
    warnings: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    choice: Choice | None = None

    @property
    def identity(self) -> dict[str, str]:
        """What every run on this data has in its record: table, bytes and split."""
        return {
            "manifest": self.data.manifest.fingerprint,
            "pictures": self.source.content,
            "split": self.splits.hash,
        }

    def split(self, fold: int) -> Split:
        """Return the split that tests `fold`; -1 trains on every image and tests on none."""
        return self.splits.of_fold(fold, len(self.data.manifest))

    @property
    def places(self) -> tuple[float, ...] | None:
        """Where the classes lie on the task's scale, if the loss asks for distances on it."""
        asked = self.config.loss.distance == "years"
        return class_places(self.task, self.data.manifest.class_names) if asked else None

    def training_data(self, split: Split) -> TrainingData:
        """Return what is learned from: the training rows, and the validation rows scored each epoch."""
        return TrainingData(
            self.data.manifest,
            self.source,
            self.spec,
            split.train,
            split.val,
            self.splits.hash,
            self.task.validation_scores,
            self.splits.groups(len(self.data.manifest)),
            self.places,
        )


def check_run_place(config: Any) -> None:
    """Raise UsageError, before any long work, where the results have no place or another run's."""
    if not config.run.dir:
        raise UsageError("no place for the results: give --run.dir FOLDER")
    check_content(Path(config.run.dir), config.run.resume)


def prepare_experiment(
    task: Task,
    config: Any,
    folds: Sequence[int] = (),
    read: Callable[[], tuple[TaskData, Splits]] | None = None,
) -> Experiment:
    """Read the data, split and check them, fill in all options of head and loss, open the images.

    `folds` are those to be trained now, all where none is named: what is said of equal images and of classes
    without an image holds for these. `read` takes the place of the task's own reading and splitting.
    """
    keep_digests(config.run.cache)
    check_order(task, config)  # a misspelt head costs no reading
    with hear_warnings() as heard:
        if read is None:
            data = task.read(config.data)
            splits = task.splits(data, config.data)
        else:
            data, splits = read()
        tell_class_names(data.manifest.class_names)
        if read is None:
            say(task.describe(data, splits))
    used = splits.only(folds, len(data.manifest))
    with hear_warnings() as checked:
        data = task.check(data, used, config.data)
    warnings = {fold: (*heard, *checked, *data.by_fold.get(fold, ())) for fold in used.folds}
    config = task.configure(config, data)
    head = with_edges(task, config.head, data.manifest.class_names)
    config = with_all_options(replace(config, head=head))
    spec = spec_of(config)
    boxes = task.boxes(data.manifest, task.crop_of(config.data))
    source = open_pictures(data.manifest, spec, config.run.cache, boxes=boxes)
    return Experiment(task, config, data, splits, spec, source, warnings)


def with_all_options(config: Any) -> Any:
    """Return the configuration with every option of its head and its loss, defaults included."""
    options = resolved(config.head.name, config.head.options)
    return replace(config, head=replace(config.head, options=options), loss=config.loss.resolved())


def plain(task: Task, config: Any, folder: Path) -> Any:
    """Return the configuration as config.yaml keeps it: one run's, without how this one call began."""
    own = {item.name: getattr(config, item.name) for item in fields(task.config_type)}
    run = replace(config.run, dir=str(folder), resume="never", allow_change=())
    return task.config_type(**{**own, "run": run})


def kept_options(task: Task, config: Any) -> dict[str, Any]:
    """Return a configuration as a joined result or a study keeps it: without what belongs to one call."""
    return {name: value for name, value in to_dict(config).items() if name not in task.call_options}


def run_split(
    experiment: Experiment,
    split: Split,
    folder: Path,
    world: World,
    *,
    keep_table: bool = True,
    tell: bool = True,
    report: Callable[[RunRecord], object] | None = None,
) -> None:
    """Train on one split, test once with the selected weights, and leave a complete run folder.

    Args:
        experiment: what is known before the first step.
        split: the parts to train, validate and test on.
        folder: the run's.
        world: the processes that train together.
        keep_table: also write the table of images; a cross-validation keeps one for all its folds.
        tell: also say what the test found; whoever tests something else than test images says it otherwise.
        report: writes the report of the finished run, in the main process, before the run's loggers hear of
            its scores and files.
    """
    task = experiment.task
    config = task.part_config(experiment.config, split)
    if len(experiment.splits) > 1:
        parts = f"{len(split.train)} train, {len(split.val)} validation, {len(split.test)} test images"
        say(f"fold {split.fold}: {parts}")
    own = plain(task, config, folder)
    with open_run(config, own, folder, world) as run, run_loggers(run, own.run.track) as loggers:
        data = experiment.training_data(split)
        with hear_warnings() as heard:
            fitted = fit(data, own, run, world, loggers, experiment.choice)
        asked = own.evaluate
        found = predict(
            fitted.learner, data, split.test, own, crops=asked.test_crops, batch_size=asked.batch_size
        )
        if world.is_main:
            with nullcontext() if tell else silently():
                record = write_results(experiment, split, fitted, found, run, heard, keep_table=keep_table)
                if told := task.summary(record, split):
                    say(told)
        barrier(world)
        if world.is_main:
            if report is not None:
                report(record)
            loggers.end(record.scores or {}, run_files(folder))


def open_run(config: Any, own: Any, folder: Path, world: World) -> RunFolder:
    """Open the run folder; when the first process may not, all leave together instead of waiting for it."""
    refused: CrlError | None = None
    try:
        run = RunFolder.open(
            folder,
            to_dict(own),
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


def write_results(
    experiment: Experiment,
    split: Split,
    fitted: Fitted,
    found: Mapping[str, np.ndarray],
    run: RunFolder,
    heard: Sequence[str] = (),
    *,
    keep_table: bool,
) -> RunRecord:
    """Write the weights, the predictions and the table of images, and run.json last of all; return it.

    `heard` are the warnings that training gave; what speaks against its having learned is added and said.
    """
    manifest, task = experiment.data.manifest, experiment.task
    rows = found["index"]
    predictions = Predictions(
        manifest.class_names,
        manifest["path"][rows],
        found["target"],
        found["probs"].reshape(len(rows), manifest.num_classes),
        task.image_columns(manifest, rows, split.fold),
    )
    scores = task.scores(predictions, manifest.label[split.train]) if len(rows) else {}
    learned = prediction_warnings(
        run.read_metrics(),
        predictions.probs,
        predictions.target,
        manifest.label[split.train],
        guessing=task.guessing(predictions, manifest.label[split.train]),
    )
    if keep_table:  # a fold of a cross-validation has no intervals of its own
        learned += few_clusters(experiment, predictions)
    for warning in learned:
        say(f"warning: {warning}")
    warnings = tuple(dict.fromkeys([*experiment.warnings.get(split.fold, ()), *heard, *learned]))
    record = replace(run_record(experiment, split, fitted, scores), warnings=warnings)
    save_weights(experiment, fitted, record, run.path)
    predictions.write(run.path / "predictions.parquet")
    if keep_table:
        with_contents(task.table(experiment.data, split)).save(run.path / "manifest.parquet")
    record.write(run.path / RECORD_FILE)
    return record


def few_clusters(experiment: Experiment, predictions: Predictions) -> list[str]:
    """Return what is to be said of intervals over few subjects; nothing where subjects are not known."""
    known = subjects_known(experiment.data.report)
    return experiment.task.resampling(predictions).warnings() if known else []


def run_record(experiment: Experiment, split: Split, fitted: Fitted, scores: Mapping[str, Any]) -> RunRecord:
    """Return what run.json records: data, label rule, split, model, loss, device and versions."""
    config, manifest = experiment.config, experiment.data.manifest
    return RunRecord.from_dict(
        {
            "kind": experiment.task.form.kinds[0],
            **training_facts(config, fitted.learner),
            "class_names": list(manifest.class_names),
            "policy": experiment.data.policy,
            **experiment.identity,
            "test_crops": config.evaluate.test_crops,
            "scores": dict(scores),
            "n": len(split.test),
            "n_train": len(split.train),
            "train_counts": np.bincount(manifest.label[split.train], minlength=manifest.num_classes).tolist(),
            "n_validation": len(split.val),
            "counts": counts_of(experiment.data.report, split),
            "data_root": str(manifest.root.resolve()),
            **experiment.task.facts(config, experiment.data, experiment.splits, split),
            **fitted.facts,
        }
    )


def counts_of(report: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """Return what the reader met, as run.json records it: images of a part are those of the run's own split.

    A data set may name no parts, or a run may hold some of its training images out.
    """
    own = {"train": len(split.train), "val": len(split.val), "test": len(split.test)}
    return {key: own.get(key, told) for key, told in report.items() if key != "class_names"}


def save_weights(experiment: Experiment, fitted: Fitted, record: RunRecord, folder: Path) -> None:
    """Write the selected weights to model.safetensors, and the others beside them under their name.

    The others were never tested, so their file carries no scores.
    """
    config = experiment.config
    facts = {key: value for key, value in record.to_dict().items() if key not in NOT_IN_MODEL} | {
        "model": to_dict(config.model),
        "head": to_dict(config.head),
        "ordered_classes": experiment.task.ordered,
        "notes": fitted.learner.notes,
    }
    save_bundle(folder / MODEL_FILE, fitted.model.state_dict(), {**facts, "weights": record.selected})
    for name, state in fitted.others.items():
        save_bundle(folder / other_file(name), state, {**facts, "scores": {}, "weights": name})


def other_file(name: str) -> str:
    """Return the file of the weights that were not selected: model-best.safetensors."""
    return f"model-{name}.safetensors"


def is_finished(experiment: Experiment, split: Split, folder: Path, files: Sequence[str] = FINISHED) -> bool:
    """Return whether the folder holds this very run, complete: its settings, its images and its results.

    A run that is to go on with another configuration, or on other images, is not finished; `files` are what
    a complete one has.
    """
    task, config = experiment.task, experiment.config
    if config.run.resume != "auto" or not all((folder / name).is_file() for name in files):
        return False
    asked = to_plain(to_dict(plain(task, task.part_config(config, split), folder)))
    changed = config_changes(read_config(folder / "config.yaml"), asked)
    record = read_json(folder / RECORD_FILE)
    same = all(record.get(key) == own for key, own in experiment.identity.items())
    return same and changed.keys() <= set(FREE_KEYS)
