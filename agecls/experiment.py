"""One configuration made concrete: data, splits, pictures, and the run of one fold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agecls.config import AgeConfig
from agecls.data.folds import Split, shared_people
from agecls.data.read import AgeData, check_contents, make_age_splits, read_data
from agecls.results import Predictions
from agecls.scores import age_scores
from finetune.cli.console import say
from finetune.errors import CrlError, UsageError
from finetune.experiments.training_record import training_facts
from finetune.images.cache import ImageSource, open_pictures
from finetune.images.preprocess import PreprocessSpec
from finetune.models.bundle import save_bundle
from finetune.models.heads.registry import resolved
from finetune.runs.folder import RunFolder, check_content
from finetune.training.config import FREE_KEYS, to_dict
from finetune.training.data import Task
from finetune.training.fit import Fitted, fit
from finetune.training.learner import spec_of
from finetune.training.optimization.distributed import World, any_true, barrier
from finetune.training.predict import predict


@dataclass(frozen=True)
class Experiment:
    """Everything that the folds of one configuration share."""

    config: AgeConfig
    data: AgeData
    splits: list[Split]
    split_hash: str
    spec: PreprocessSpec
    source: ImageSource

    def split(self, fold: int) -> Split:
        """Return the split that tests `fold`; -1 trains on every image and tests on none."""
        if fold == -1:
            none = np.arange(0)
            return Split(np.arange(len(self.data.manifest)), none, none, protocol="all", fold=-1)
        splits = {split.fold: split for split in self.splits}
        if fold not in splits:
            raise UsageError(f"--data.fold {fold}: there are folds {sorted(splits)}, or -1 to use all")
        return splits[fold]


def check_run_place(config: AgeConfig) -> None:
    """Raise UsageError, before any long work, where the results have no place or another run's."""
    if not config.run.dir:
        raise UsageError("no place for the results: give --run.dir FOLDER")
    check_content(Path(config.run.dir), config.run.resume)


def prepare_experiment(config: AgeConfig) -> Experiment:
    """Read the data, make and check the splits, fill in head's and loss's options, open the pictures."""
    options = resolved(config.head.name, config.head.options)
    config = replace(config, head=replace(config.head, options=options), loss=config.loss.resolved())
    data = read_data(config.data)
    splits, split_hash = make_age_splits(data, config.data)
    say(describe_data(data))
    check_contents(data, splits, config.data)
    spec = spec_of(config)
    return Experiment(
        config, data, splits, split_hash, spec, open_pictures(data.manifest, spec, config.run.cache)
    )


def describe_data(data: AgeData) -> str:
    """Return the line that says what was read."""
    manifest = data.manifest
    groups = ", ".join(f"{n} {c}" for n, c in zip(manifest.class_names, manifest.class_counts(), strict=True))
    people = len(set(manifest["subject"].tolist()))
    return f"{len(manifest)} images of {people} subjects, policy {data.policy}: {groups}"


def run_fold(experiment: Experiment, fold: int, folder: Path, world: World) -> None:
    """Train on a fold's training rows, test once on its test rows, and leave a complete run folder."""
    config = replace(experiment.config, data=replace(experiment.config.data, fold=fold))
    config = replace(config, run=replace(config.run, dir=str(folder), resume="never", allow_change=()))
    split = experiment.split(fold)
    manifest = experiment.data.manifest
    say(f"fold {fold}: {len(split.train)} train, {len(split.val)} validation, {len(split.test)} test images")
    task = Task(
        manifest,
        experiment.source,
        experiment.spec,
        split.train,
        split.val,
        experiment.split_hash,
        validation_scores,
    )
    with open_run(experiment, config, folder, world) as run:
        fitted = fit(task, config, run, world)
        found = predict(
            fitted.learner,
            task,
            split.test,
            config,
            crops=config.evaluate.test_crops,
            batch_size=config.evaluate.batch_size,
        )
        if world.is_main:
            scores = age_scores(found["probs"], found["target"]) if len(found["target"]) else {}
            if scores:
                told = f"exact {scores['exact']:.2f} %, one-off {scores['one_off']:.2f} %"
                say(f"fold {fold}: {told} of {scores['n']} test images, {fitted.facts['minutes']:.1f} min")
            facts = run_facts(experiment, fitted) | {"kind": "age_fold", "fold": fold, "scores": scores}
            facts |= {"n": len(split.test), "n_train": len(split.train), "n_validation": len(split.val)}
            save_bundle(
                folder / "model.safetensors",
                fitted.model.state_dict(),
                model_facts(experiment, fitted, facts),
            )
            test_predictions(experiment, found, fold).write(folder / "predictions.parquet")
            run.write_json("run.json", facts)
        barrier(world)


def open_run(experiment: Experiment, config: AgeConfig, folder: Path, world: World) -> RunFolder:
    """Open the run folder; when the first process may not, all leave together instead of waiting for it."""
    refused: CrlError | None = None
    try:
        run = RunFolder.open(
            folder,
            to_dict(plain_age_config(config)),
            resume=experiment.config.run.resume,
            allow_change=experiment.config.run.allow_change,
            free_keys=FREE_KEYS,
            writer=world.is_main,
        )
    except CrlError as error:
        refused = error
    if any_true(refused is not None, world):
        raise refused or UsageError("the first process was refused; its message says why")
    return run


def plain_age_config(config: AgeConfig) -> AgeConfig:
    """Return the configuration of a single fold, without what only a cross-validation knows."""
    names = ("model", "head", "loss", "train", "run", "device", "data", "evaluate")
    return AgeConfig(**{name: getattr(config, name) for name in names})


def validation_scores(probs: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return what an epoch's validation reports, in the unit interval."""
    from finetune.metrics.classification import accuracy, balanced_accuracy

    one_off = float((np.abs(probs.argmax(1) - target) <= 1).mean())
    return {
        "accuracy": accuracy(probs, target),
        "balanced_accuracy": balanced_accuracy(probs, target, probs.shape[1]),
        "one_off": one_off,
    }


def test_predictions(experiment: Experiment, found: dict[str, np.ndarray], fold: int) -> Predictions:
    """Return the predictions of a fold's test images with what is known of the people on them."""
    manifest, rows = experiment.data.manifest, found["index"]
    count = len(rows)
    return Predictions(
        manifest.class_names,
        path=manifest["path"][rows],
        subject=manifest["subject"][rows],
        user=manifest["user"][rows] if "user" in manifest else manifest["subject"][rows],
        gender=manifest["gender"][rows] if "gender" in manifest else np.full(count, ""),
        age=manifest["age"][rows] if "age" in manifest else np.full(count, np.nan),
        fold=np.full(count, fold),
        target=found["target"],
        probs=found["probs"].reshape(count, manifest.num_classes),
    )


def run_facts(experiment: Experiment, fitted: Fitted) -> dict[str, Any]:
    """Return what run.json tells: data, label rule, split, model, loss, device and versions."""
    config, manifest = experiment.config, experiment.data.manifest
    return {
        **training_facts(config, fitted.learner),
        "class_names": list(manifest.class_names),
        "manifest": manifest.fingerprint,
        "policy": experiment.data.policy,
        "split": experiment.split_hash,
        "pictures": experiment.source.content,
        "shared_people": shared_people(experiment.splits, manifest),
        "protocol": config.data.protocol,
        "test_crops": config.evaluate.test_crops,
        "n": len(manifest),
        "subjects": len(set(manifest["subject"].tolist())),
        "counts": dict(experiment.data.report),
        "data_root": str(manifest.root.resolve()),
        **fitted.facts,
    }


def model_facts(experiment: Experiment, fitted: Fitted, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what model.safetensors carries: all that is needed to use the weights and to know them."""
    config = experiment.config
    skipped = ("counts", "command", "data_root")
    return {name: value for name, value in facts.items() if name not in skipped} | {
        "model": to_dict(config.model),
        "head": to_dict(config.head),
        "ordered_classes": True,
        "notes": fitted.learner.notes,
    }
