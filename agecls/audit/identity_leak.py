"""Whether a model's outputs tell one person from another: identity that leaks through an age model."""

from __future__ import annotations

from typing import Any

import numpy as np

from finetune.metrics.bootstrap import cluster_bootstrap_interval
from finetune.seeding import numpy_generator

AGE_GAP = 5.0  # years between the two images of a pair, so that age alone makes no two images alike
MOST_IMAGES = 3000  # whose pairs are compared


def ranked_auc(same: np.ndarray, other: np.ndarray) -> float:
    """Return P(same > other) + P(same = other) / 2, the area under the ROC curve; NaN without either.

    >>> ranked_auc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
    0.875
    """
    if not len(same) or not len(other):
        return float("nan")
    _, place, counts = np.unique(np.concatenate([same, other]), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]  # equal values share their mean rank
    return float((ranks[: len(same)].sum() - len(same) * (len(same) + 1) / 2) / (len(same) * len(other)))


def identity_leak(
    outputs: np.ndarray,
    person: np.ndarray,
    age: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return how well the cosine of two images' outputs tells the same from a different person.

    Pairs lie at least five years of age apart. `auc` pools all pairs; `auc_by_person` is the mean over the
    people who have such a pair (their own pairs against theirs with others), with its interval over people.
    50 % is chance.

    Args:
        outputs: (N, D) embeddings or logits; their mean is taken off before the cosine.
        person: (N,) who each image shows.
        age: (N,) true ages in years.
        groups: (N,) the fold whose model answered: pairs are of one model. None is one model.
        resamples: bootstrap resamples.
        seed: of the resampling, and of the choice where there are more than 3,000 images.
    """
    rows = np.arange(len(age))
    if len(rows) > MOST_IMAGES:
        rows = np.sort(numpy_generator(seed, "leak").choice(rows, MOST_IMAGES, replace=False))
    centred = outputs[rows] - outputs[rows].mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    name = np.unique(person[rows], return_inverse=True)[1]
    cosine = unit @ unit.T
    apart = np.abs(age[rows][:, None] - age[rows][None]) >= AGE_GAP
    if groups is not None:
        apart &= groups[rows][:, None] == groups[rows][None]
    alike = name[:, None] == name[None]
    upper = np.triu(np.ones_like(apart), 1)
    same, other = cosine[apart & alike & upper], cosine[apart & ~alike & upper]
    own = []
    for index in range(int(name.max()) + 1):
        mine = name == index
        pairs = apart[mine]
        own.append(ranked_auc(cosine[mine][pairs & alike[mine]], cosine[mine][pairs & ~alike[mine]]))
    found = 100 * np.array([value for value in own if np.isfinite(value)])
    result: dict[str, Any] = {
        "auc": 100 * ranked_auc(same, other) if len(same) and len(other) else None,
        "same_pairs": len(same),
        "other_pairs": len(other),
        "people": len(found),
        "age_gap": AGE_GAP,
        "auc_by_person": None,
        "interval": None,
    }
    if len(found) > 1:
        made = cluster_bootstrap_interval(found, np.arange(len(found)), resamples=resamples, seed=seed)
        result |= {"auc_by_person": made.estimate, "interval": [made.low, made.high]}
    return result
