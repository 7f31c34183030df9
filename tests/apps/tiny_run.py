"""A finished cross-validation written by hand: two folds, each answered by a tiny exported model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from apps.config import EvaluateOnnxConfig
from finetune.images.manifest import Manifest
from finetune.images.preprocess import preprocess
from tests.agecls.age_predictions import age_predictions
from tests.apps.tiny_onnx import GROUPS, SPEC, expected_probs, tiny_facts, write_tiny

IMAGES = 24
WEIGHTS = {0: 3, 1: 5}  # fold -> seed of the tiny model that was "trained" for it


def write_pictures(folder: Path, count: int = IMAGES) -> list[np.ndarray]:
    """Write images of many colours and sizes; returns their pixels."""
    generator = np.random.default_rng(1)
    folder.mkdir(parents=True)
    made = []
    for number in range(count):
        size = generator.integers(20, 80, 2)
        pixels = generator.integers(0, 220, 3) + generator.integers(0, 36, (*size, 3))
        made.append(pixels.astype(np.uint8))
        cv2.imwrite(str(folder / f"{number:02}.png"), made[-1][:, :, ::-1])
    return made


def make_run(folder: Path) -> Path:
    """Write a finished cross-validation of two folds whose predictions are those of two tiny models."""
    pixels = write_pictures(folder / "images")
    prepared = np.stack([preprocess(image, SPEC) for image in pixels])
    fold, target = np.arange(IMAGES) % 2, np.arange(IMAGES) % len(GROUPS)
    people = np.array([f"p{number % 12}" for number in range(IMAGES)])
    columns = {"path": np.array([f"{number:02}.png" for number in range(IMAGES)]), "label": target}
    manifest = Manifest(folder / "images", GROUPS, {**columns, "fold": fold, "subject": people})
    probs = np.where(
        (fold == 0)[:, None], *(expected_probs(prepared, seed=seed) for seed in WEIGHTS.values())
    )
    run = folder / "run"
    run.mkdir()
    manifest.save(run / "manifest.parquet")
    record = {
        "kind": "age_cv",
        "class_names": list(GROUPS),
        "manifest": manifest.fingerprint,
        "test_crops": "center",
        "data_root": str(folder / "images"),
        "loss": {"name": "cel"},
        "n": IMAGES,
        "versions": {"opencv": "5.0"},
    }
    (run / "run.json").write_text(json.dumps(record))
    nothing = np.full(IMAGES, "")
    predictions = age_predictions(
        GROUPS,
        path=manifest["path"],
        subject=people,
        user=people,
        gender=nothing,
        age=np.full(IMAGES, np.nan),
        fold=fold,
        target=target,
        probs=probs,
    )
    predictions.write(run / "predictions.parquet")
    return run


def exported(run: Path, fold: int, *, seed: int | None = None, name: str = "", **changes: Any) -> Path:
    """Write the tiny model of a fold as if it had been exported from the run."""
    fingerprint = json.loads((run / "run.json").read_text())["manifest"]
    facts = replace(tiny_facts(title=f"fold {fold}"), data={"fold": fold, "manifest": fingerprint})
    seed = WEIGHTS.get(fold, 0) if seed is None else seed
    return write_tiny(run.parent / f"{name or fold}.onnx", replace(facts, **changes), seed=seed)


def own(run: Path, **changes: Any) -> EvaluateOnnxConfig:
    return EvaluateOnnxConfig(run=str(run), device="cpu", **changes)
