"""Where the models of a request looked: from their own maps where they carry some, else for a few crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from apps.runtime.session import OnnxClassifier

MOST_COVERED = 16  # crops of one request; each costs some fifty answers of a model that carries no maps


def most_looks(models: Sequence[OnnxClassifier]) -> int | None:
    """Return of how many crops each model without maps is explained; None where all models carry maps."""
    bare = sum(not model.has_maps for model in models)
    return max(1, MOST_COVERED // bare) if bare else None


def look_at(
    model: OnnxClassifier, crop: np.ndarray, class_index: int, maps: np.ndarray | None
) -> tuple[np.ndarray, str]:
    """Return the crop under a map of where the model looked, uint8 (S, S, 3), and how the map was made.

    Args:
        model: the model.
        crop: uint8 (S, S, 3), what it was shown.
        class_index: the class to be explained.
        maps: (K, h, w) the class activation maps that came with its answer; None for a model without.
    """
    from apps.runtime.occlusion import CAM, explain_onnx
    from finetune.figures.evidence import evidence_map, overlay

    if maps is not None:
        return overlay(crop, evidence_map(maps[class_index], model.size)), CAM
    evidence, method = explain_onnx(model, crop, class_index)
    return overlay(crop, evidence), method
