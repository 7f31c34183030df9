"""Result folders as a cross-validation leaves them, with made-up answers, for the report tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from agecls.task import TASK
from finetune.experiments.result import Result
from tests.agecls.age_predictions import age_predictions
from tests.agecls.drawing import NAMES, made_up_answers

FOLDS, IMAGES = 5, 240


def run_record(**changes: Any) -> dict[str, Any]:
    """Return a run.json of a cross-validation."""
    record = {
        "kind": "age_cv",
        "command": "crl age cv --run.dir runs/a|b",
        "class_names": list(NAMES),
        "manifest": "ab" * 32,
        "policy": "core8",
        "split": "cd" * 32,
        "protocol": "fixed",
        "loss": {"name": "crl", "alpha": 1.5, "beta": 1.0},
        "backbone": "resnet34",
        "pretraining": {"kind": "file", "tag": "a1_in1k", "license": "apache-2.0", "sha256": "ef" * 32},
        "seed": 0,
        "test_crops": "center",
        "device": {"asked": "auto", "used": "cpu", "name": "two cores"},
        "precision": "float32",
        "image_size": 224,
        "epochs": 2,
        "batch_size": 64,
        "versions": {"torch": "2.15.0"},
        "minutes": 12.34,
        "counts": {"edition": "older", "duplicates": 117, "dropped": {"None": 748, "35": 293}},
        "data_root": "nowhere",
    }
    return record | changes


def make_result(
    folder: Path,
    *,
    answers: int = 0,
    without: tuple[int, ...] = (),
    albums: bool = False,
    unknown: bool = False,
    names: tuple[str, ...] = NAMES,
    **changes: Any,
) -> Result:
    """Write a result folder and read it back.

    `answers` seeds the made-up probabilities, `without` names groups without an image; with `albums` two
    subjects of a fold or more share an album; with `unknown` nobody knows the subject of an image.
    """
    groups = [index for index in range(len(names)) if index not in without]
    target = np.array(groups)[np.arange(IMAGES) % len(groups)]
    person = np.arange(IMAGES) // 3
    paths = np.array([f"faces/odd|_name {index:03d}.jpg" for index in range(IMAGES)])
    subject = paths if unknown else np.array([f"s{number:03d}" for number in person])
    changes |= {"counts": {"subjects_known": False}} if unknown else {}
    fold = np.minimum(person % 7, FOLDS - 1)  # folds differ in size, so mean over folds and pooled differ
    changes |= {"class_names": list(names)}
    found = age_predictions(
        names,
        path=paths,
        subject=subject,
        user=np.array([f"u{a}.{f}" for a, f in zip(person // 14, fold, strict=True)]) if albums else subject,
        gender=np.where(person % 2, "m", "f"),
        age=np.full(IMAGES, np.nan),
        fold=fold,
        target=target,
        probs=made_up_answers(target, len(names), answers),
    )
    folder.mkdir(parents=True)
    found.write(folder / "predictions.parquet")
    (folder / "run.json").write_text(json.dumps(run_record(n=IMAGES, **changes)))
    for fold in range(FOLDS):
        rows = [
            {"epoch": e + 1, "train_loss": 2.0 - e, "train_accuracy": 0.3, "val_accuracy": None}
            for e in (0, 1)
        ]
        (folder / f"fold{fold}").mkdir()
        (folder / f"fold{fold}" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return Result.load(folder, TASK.form)
