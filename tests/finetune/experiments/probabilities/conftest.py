"""Results that no training made, whole enough to be calibrated: tables of images, and files for models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.experiments.data_checks import HASHES
from finetune.experiments.result import Result
from finetune.images.manifest import Manifest
from tests.agecls import results_by_hand
from tests.finegrained import made_results


def digests(count: int) -> np.ndarray:
    """Return a digest for each image, none twice."""
    return np.array([f"{row:064x}" for row in range(count)])


def age_result(folder: Path, validation: int = 0, **changes: Any) -> Result:
    """Write a cross-validation of 80 people in five folds, with the table of its images."""
    result = results_by_hand.make_result(folder, **changes)
    found = result.predictions.in_order()
    columns = {"path": found.path, "label": found.target, "fold": found.fold, "subject": found["subject"]}
    columns[HASHES] = digests(len(found))
    Manifest(folder, found.class_names, columns).save(folder / "manifest.parquet")
    for fold in result.folds:
        record = json.loads((folder / "run.json").read_text()) | {"kind": "age_fold", "fold": fold}
        record["n_validation"] = validation
        (folder / f"fold{fold}" / "run.json").write_text(json.dumps(record))
        (folder / f"fold{fold}" / "model.safetensors").write_bytes(b"weights of fold %d" % fold)
    return result


def fine_result(folder: Path, **changes: Any) -> Result:
    """Write a fine-grained run of 240 test images, with the table of its images."""
    result = made_results.make_result(folder, per_class=40, **({"n_validation": 12} | changes))
    found = result.predictions
    count, extra = len(found), 12
    path = np.r_[found.path, [f"train{row}.jpg" for row in range(2 * extra)]]
    part = np.r_[["test"] * count, ["train"] * extra, ["validation"] * extra]
    label = np.r_[found.target, np.arange(2 * extra) % 6]
    columns = {"path": path, "label": label, "part": part, HASHES: digests(len(path))}
    Manifest(folder, found.class_names, columns).save(folder / "manifest.parquet")
    (folder / "model.safetensors").write_bytes(b"weights")
    return result


@pytest.fixture
def ages(tmp_path: Path) -> Result:
    """A cross-validation of age groups that nothing calibrated yet."""
    return age_result(tmp_path / "ages")


@pytest.fixture
def birds(tmp_path: Path) -> Result:
    """A fine-grained run that nothing calibrated yet."""
    return fine_result(tmp_path / "birds", n_validation=0)
