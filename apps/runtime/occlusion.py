"""Where an exported model looked: a map of evidence for one class over the crop, and an image of it.

No torch is needed. `finetune.models.grad_cam` does the same for a checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from finetune.errors import UsageError
from finetune.figures.evidence import evidence_map

if TYPE_CHECKING:
    from apps.runtime.session import OnnxClassifier

CAM = "class activation map: what each place adds to the class's score"
OCCLUSION = "occlusion: how far the class's log-odds fall when a grey square covers the place"
CELLS, SQUARE = 8, 2  # occlusion: cells along a side, and the square's side in cells
BATCH = 32


def explain_onnx(model: OnnxClassifier, crop: np.ndarray, class_index: int) -> tuple[np.ndarray, str]:
    """Return the evidence for a class over the crop that the network saw, and how it was found, in words.

    A model that carries class activation maps gives them (Zhou et al., Learning Deep Features for
    Discriminative Localization, 2016, Eq. 2). Of any other, grey squares cover one place after the other and
    the fall of the class's log-odds is measured (after Zeiler and Fergus, Visualizing and Understanding
    Convolutional Networks, 2014, Section 4.2).

    Only what speaks for the class is kept: places that speak against it are 0. The map is relative: 1 is the
    strongest place of this crop, however little that is; a map of zeros found no evidence anywhere.

    Args:
        model: the loaded model.
        crop: uint8 (S, S, 3) RGB, as `model.prepare` makes it.
        class_index: of the class to be explained.

    Returns:
        float32 (S, S) in 0-1, and one sentence.

    Raises:
        UsageError: another crop than the model expects, or a class that it does not have.
    """
    if not 0 <= class_index < len(model.class_names):
        raise UsageError(f"class_index must lie in 0..{len(model.class_names) - 1}, got {class_index}")
    if model.has_maps:
        maps = model.run(crop[None], maps=True).maps
        if maps is not None:
            return evidence_map(maps[0, class_index], model.size), CAM
    return _occlusion_map(model, crop, class_index), OCCLUSION


def _occlusion_map(model: OnnxClassifier, crop: np.ndarray, class_index: int) -> np.ndarray:
    covered, places, edges = _covered_crops(crop, model.facts.preprocess.mean)
    logits = [model.run(crop[None]).logits]
    logits += [model.run(covered[start : start + BATCH]).logits for start in range(0, len(covered), BATCH)]
    odds = log_odds(np.concatenate(logits), class_index)
    falls = odds[0] - odds[1:]
    cells = len(edges) - 1
    total, times = np.zeros((cells, cells)), np.zeros((cells, cells))
    for fall, (row, column) in zip(falls, places, strict=True):
        total[row : row + SQUARE, column : column + SQUARE] += fall
        times[row : row + SQUARE, column : column + SQUARE] += 1
    return evidence_map(total / times, len(crop))


def _covered_crops(
    crop: np.ndarray, mean: tuple[float, ...]
) -> tuple[np.ndarray, list[tuple[int, int]], np.ndarray]:
    """Return the crop with a square in every place, the squares' upper left cells, and the cells' edges (px).

    The squares have the colour that preprocessing turns to zero, and each overlaps the next by half.
    """
    size = len(crop)
    cells = max(min(CELLS, size), SQUARE)
    edges = np.round(np.linspace(0, size, cells + 1)).astype(int)
    places = [(row, column) for row in range(cells - SQUARE + 1) for column in range(cells - SQUARE + 1)]
    covered = np.repeat(crop[None], len(places), axis=0)
    grey = np.round(255 * np.asarray(mean)).astype(np.uint8)
    for picture, (row, column) in zip(covered, places, strict=True):
        picture[edges[row] : edges[row + SQUARE], edges[column] : edges[column + SQUARE]] = grey
    return covered, places, edges


def log_odds(logits: np.ndarray, class_index: int) -> np.ndarray:
    """Return z_c - log(sum over k != c of exp z_k), float64 (N,), for logits (N, K).

    >>> log_odds(np.log([[0.75, 0.25]]), 0).round(6).tolist() == [round(float(np.log(3)), 6)]
    True
    """
    others = np.delete(logits.astype(np.float64), class_index, axis=1)
    top = others.max(axis=1)
    rest = top + np.log(np.exp(others - top[:, None]).sum(axis=1))
    return np.asarray(logits[:, class_index] - rest)
