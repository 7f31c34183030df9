"""The margin rules as their papers print them: angles by arccos, one example at a time, in float64."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

RULES = {
    "lsoftmax": {"margin": 4},
    "asoftmax": {"margin": 4},
    "cosface": {"margin": 0.35, "scale": 16.0},
    "arcface": {"margin": 0.5, "scale": 16.0},
}


def psi(name: str, theta: float, margin: float) -> float:
    """Return what stands in the place of cos(theta)."""
    if name == "cosface":
        return math.cos(theta) - margin
    if name == "arcface":
        beyond = theta > math.pi - margin
        return math.cos(theta) - margin * math.sin(margin) if beyond else math.cos(theta + margin)
    k = min(math.floor(margin * theta / math.pi), int(margin) - 1)
    return (-1) ** k * math.cos(margin * theta) - 2 * k


def logits(
    name: str,
    x: Tensor,
    w: Tensor,
    target: Tensor | None,
    margin: float,
    scale: float = 0.0,
    blend: float = 0.0,
) -> np.ndarray:
    """Return the logits (B, K) of embeddings (B, D) and class weights (K, D)."""
    rows, classes = x.detach().double().numpy(), w.detach().double().numpy()
    found = np.zeros((len(rows), len(classes)))
    for i, row in enumerate(rows):
        for j, own in enumerate(classes):
            lengths = float(np.linalg.norm(row)), float(np.linalg.norm(own))
            cosine = float(row @ own) / (lengths[0] * lengths[1]) if min(lengths) > 0 else 0.0
            reach = scale or (lengths[0] * (lengths[1] if name == "lsoftmax" else 1.0))
            found[i, j] = reach * cosine
            if target is not None and j == int(target[i]):
                theta = math.acos(min(1.0, max(-1.0, cosine)))
                found[i, j] = (blend * reach * cosine + reach * psi(name, theta, margin)) / (1 + blend)
    return found
