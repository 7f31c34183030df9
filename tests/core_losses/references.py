"""Slow, plain versions of the losses in float64, straight from the papers' formulas in p."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

OfPosterior = Callable[[list[float], int], float]


def cel(p: list[float], c: int) -> float:
    return -math.log(p[c])


def nllr(p: list[float], c: int, clamp: float = 1e-7) -> float:
    held = _held(p[c], clamp)
    return math.log((1 - held) / held)


def crl(p: list[float], c: int, alpha: float = 1.5, beta: float = 1.0, clamp: float = 0.0) -> float:
    held = _held(p[c], clamp)
    return beta * math.log(alpha + 1 - held) - math.log(held)


def _held(p: float, clamp: float) -> float:
    return min(max(p, clamp), 1 - clamp)


def focal(p: list[float], c: int, gamma: float = 2.0) -> float:
    return -float((1 - p[c]) ** gamma) * math.log(p[c])


def tce(p: list[float], c: int, a: float = 0.8) -> float:
    base = 1 - math.log(p[c])
    return math.log(base) if a == 1 else (float(base ** (1 - a)) - 1) / (1 - a)


def cce(p: list[float], c: int) -> float:
    return -math.log(p[c]) - sum(math.log(1 - q) for k, q in enumerate(p) if k != c)


def dualce(p: list[float], c: int, alpha: float = 1.0, beta: float = 1.0) -> float:
    return -math.log(p[c]) + beta * sum(math.log(alpha + q) for k, q in enumerate(p) if k != c)


def olog(p: list[float], c: int) -> float:
    cuts = range(len(p) - 1)
    return -sum(math.log(sum(p[k + 1 :]) if c > k else sum(p[: k + 1])) for k in cuts)


def mean_variance(p: list[float], c: int, mean: float = 0.2, variance: float = 0.05) -> float:
    expected = sum(k * q for k, q in enumerate(p))
    spread = sum((k - expected) ** 2 * q for k, q in enumerate(p))
    return -math.log(p[c]) + mean * (expected - c) ** 2 / 2 + variance * spread


REFERENCES: dict[str, Callable[..., float]] = {
    "cel": cel,
    "nllr": nllr,
    "crl": crl,
    "focal": focal,
    "tce": tce,
    "cce": cce,
    "dualce": dualce,
    "olog": olog,
    "mean_variance": mean_variance,
}


def posteriors(row: list[float]) -> list[float]:
    top = max(row)
    exponentials = [math.exp(z - top) for z in row]
    total = sum(exponentials)
    return [e / total for e in exponentials]


def per_example(name: str, logits: Tensor, target: Tensor, **settings: Any) -> Tensor:
    """One loss value per row of (B, K) logits, in float64."""
    rows = logits.double().tolist()
    values = [
        REFERENCES[name](posteriors(row), c, **settings) for row, c in zip(rows, target.tolist(), strict=True)
    ]
    return torch.tensor(values, dtype=torch.float64)


def per_class(name: str, logits: Tensor, **settings: Any) -> Tensor:
    """The loss of every class as the target, (B, K), in float64."""
    columns = [
        per_example(name, logits, torch.full((logits.shape[0],), k), **settings)
        for k in range(logits.shape[1])
    ]
    return torch.stack(columns, dim=1)
