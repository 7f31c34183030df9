"""Result folders as a fine-grained run leaves them, with made-up answers, for the report tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from finegrained.task import TASK
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.images.manifest import Manifest

PER_CLASS = 6


def class_names(count: int) -> tuple[str, ...]:
    """Return names as CUB spells them, some of them long."""
    kinds = ("Albatross", "Bunting", "Black_throated_Blue_Warbler", "Tern", "Nighthawk", "Wren")
    return tuple(f"{index + 1:03d}.Odd_{kinds[index % 6]}_{index + 1}" for index in range(count))


def made_up_probs(target: np.ndarray, classes: int, seed: int, hit: float = 0.6) -> np.ndarray:
    """Return answers of which a share of about `hit` is right; mistakes go to the neighbour in a pair."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, (len(target), classes))
    partner = np.minimum(target ^ 1, classes - 1)
    said = np.where(generator.random(len(target)) < hit, target, partner)
    rows = np.arange(len(target))
    logits[rows, said] += generator.uniform(3, 7, len(target))
    logits[rows, np.where(said == target, partner, target)] += 2.5
    odds = np.exp(logits)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def run_record(names: tuple[str, ...], **changes: Any) -> dict[str, Any]:
    """Return a run.json."""
    record = {
        "kind": "fine_run",
        "command": "crl fine train --run.dir runs/a|b",
        "class_names": list(names),
        "manifest": "ab" * 32,
        "policy": "cub",
        "split": "cd" * 32,
        "loss": {"name": "crl", "alpha": 1.5, "beta": 1.0},
        "backbone": "resnet50.tv_in1k",
        "head": "dfl",
        "head_options": {"detectors": 10},
        "pretraining": {"kind": "file", "tag": "tv_in1k", "license": "bsd-3", "sha256": "ef" * 32},
        "seed": 0,
        "selected": "last",
        "test_crops": "center",
        "device": {"asked": "auto", "used": "cpu", "name": "two cores"},
        "precision": "float32",
        "preprocess": {
            **{"image_size": 64, "resize": "warp", "resize_size": 72, "interpolation": "bicubic"},
            **{"mean": [0.5] * 3, "std": [0.25] * 3, "color": "RGB"},
        },
        "image_size": 64,
        "epochs": 2,
        "batch_size": 16,
        "versions": {"torch": "2.15.0"},
        "minutes": 12.34,
        "n_train": 10,
        "n_validation": 2,
        "counts": {},
        "data_root": "nowhere",
    }
    return record | changes


def make_result(
    folder: Path,
    classes: int = 6,
    *,
    answers: int = 0,
    hit: float = 0.6,
    per_class: int = PER_CLASS,
    pictures: bool = False,
    **changes: Any,
) -> Result:
    """Write a result folder and read it back.

    `answers` seeds the made-up probabilities, of which a share of about `hit` is right; with `pictures` the
    images are there, as discs in the classes' colours, of several shapes.
    """
    names = class_names(classes)
    target = np.repeat(np.arange(classes), per_class)
    paths = np.array([f"{names[t]}/odd|_name {i:04d}.png" for i, t in enumerate(target)])
    found = Predictions(names, paths, target, made_up_probs(target, classes, answers, hit))
    folder.mkdir(parents=True)
    root = folder / "images"
    if pictures:
        for path, index in zip(paths, target, strict=True):
            _draw_picture(root / path, int(index), classes)
    found.write(folder / "predictions.parquet")
    record = run_record(names, n=len(target), data_root=str(root), **changes)
    (folder / "run.json").write_text(json.dumps(record))
    rows = [
        {"epoch": epoch + 1, "train_loss": 2.0 - epoch, "train_accuracy": 0.3, "val_accuracy": None}
        for epoch in (0, 1)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    split = np.array(["test"] * len(target))
    Manifest(root, names, {"path": paths, "label": target, "split": split}).save(folder / "manifest.parquet")
    return Result.load(folder, TASK.form)


def _draw_picture(file: Path, index: int, classes: int) -> None:
    shade = cv2.applyColorMap(np.array([[255 * index // classes]], np.uint8), cv2.COLORMAP_HSV)[0, 0]
    height, width = (60, 90) if index % 2 else (80, 60)
    pixels = np.full((height, width, 3), 235, np.uint8)
    cv2.circle(pixels, (width // 2, height // 2), 22, shade.tolist(), -1)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(file), pixels):
        raise OSError(f"cannot write {file}")
