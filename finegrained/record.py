"""What a finished run leaves behind: weights, predictions, the table of pictures, the record of it all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finegrained.data.splits import content_hashes
from finegrained.recipes import data_set_of
from finegrained.results import KIND, Predictions
from finegrained.scores import commonest_class_baseline, fine_scores
from finetune.experiments.training_record import training_facts
from finetune.models.bundle import save_bundle
from finetune.runs.folder import RunFolder
from finetune.training.config import to_dict

if TYPE_CHECKING:
    from finegrained.data.splits import FineSplit
    from finegrained.experiment import Experiment
    from finetune.training.fit import Fitted

MODEL_FILE = "model.safetensors"


def part_names(split: FineSplit, rows: int) -> np.ndarray:
    """Return train, validation, test or unused for every row of the manifest, str (N,)."""
    names = np.full(rows, "unused", dtype="<U10")
    for name, part in (("train", split.train), ("validation", split.val), ("test", split.test)):
        names[part] = name
    return names


def write_results(
    experiment: Experiment, fitted: Fitted, found: dict[str, np.ndarray], run: RunFolder
) -> None:
    """Write the weights, the predictions and the table of images, and run.json last of all."""
    manifest, split = experiment.data.manifest, experiment.split
    names = manifest.class_names
    scores: dict[str, Any] = {}
    if len(split.test):
        scores = fine_scores(found["probs"], found["target"], names)
        baseline = commonest_class_baseline(manifest.label[split.train], found["target"], names)
        scores["baseline"] = baseline
    facts = run_facts(experiment, fitted) | {"scores": scores}
    save_weights(experiment, fitted, facts, run.path)
    probs = found["probs"].reshape(len(split.test), len(names))
    predictions = Predictions(names, manifest["path"][found["index"]], found["target"], probs)
    predictions.write(run.path / "predictions.parquet")
    parts = part_names(split, len(manifest))
    told = manifest.with_column("part", parts).with_column("sha256", content_hashes(manifest))
    told.save(run.path / "manifest.parquet")
    run.write_json("run.json", facts)


def save_weights(experiment: Experiment, fitted: Fitted, facts: dict[str, Any], folder: Path) -> None:
    """Write the selected weights to model.safetensors, and the others beside them under their name.

    The others were never tested, so their file carries no scores.
    """
    own = model_facts(experiment, fitted, facts)
    save_bundle(folder / MODEL_FILE, fitted.model.state_dict(), {**own, "weights": facts["selected"]})
    for name, state in fitted.others.items():
        save_bundle(folder / other_file(name), state, {**own, "scores": {}, "weights": name})


def other_file(name: str) -> str:
    """Return the file of the weights that were not selected: model-best.safetensors."""
    return f"model-{name}.safetensors"


def run_facts(experiment: Experiment, fitted: Fitted) -> dict[str, Any]:
    """Return what run.json tells: data, split, model, loss, device and versions."""
    config, manifest = experiment.config, experiment.data.manifest
    split = experiment.split
    return {
        "kind": KIND,
        **training_facts(config, fitted.learner),
        "class_names": list(manifest.class_names),
        "manifest": manifest.fingerprint,
        "policy": experiment.data.layout,
        "data_set": data_set_of(experiment.data.layout, manifest.class_names),
        "subset": config.data.subset,
        "official": bool(experiment.data.report.get("official", False)),
        "crop": {"kind": config.data.crop, "margin": config.data.box_margin},
        "split": split.hash,
        "pictures": experiment.source.content,
        "protocol": protocol(experiment),
        "head_options": dict(config.head.options),
        "test_crops": config.evaluate.test_crops,
        "n": len(split.test),
        "n_train": len(split.train),
        "n_validation": len(split.val),
        "counts": {name: told for name, told in experiment.data.report.items() if name != "class_names"},
        "data_root": str(manifest.root.resolve()),
        **fitted.facts,
    }


def protocol(experiment: Experiment) -> str:
    """Return in words where the validation part and the test part come from, and what was tested once."""
    report, data = experiment.data.report, experiment.config.data
    validation = f"validation {data.val_share:g} of train"
    if report.get("val"):
        validation = f"validation the data's own part of {report['val']}"
    test = "test split" if report.get("test") else f"held-out test part ({data.test_share:g})"
    return f"{validation}, {test} scored once"


def model_facts(experiment: Experiment, fitted: Fitted, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what model.safetensors carries: all that is needed to use the weights and to know them."""
    config = experiment.config
    skipped = ("counts", "command", "data_root", "head_options")
    return {name: value for name, value in facts.items() if name not in skipped} | {
        "model": to_dict(config.model),
        "head": to_dict(config.head),
        "ordered_classes": False,
        "notes": fitted.learner.notes,
    }
