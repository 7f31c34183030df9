"""How far errors and rates of a label's cells lie apart, at equal ages, beside what chance alone gives."""

from __future__ import annotations

from typing import Any

import numpy as np

from agecls.audit import definitions
from agecls.audit.answers import Answers
from agecls.audit.config import AuditConfig
from finetune.experiments.measures import FEWEST_UNITS
from finetune.seeding import numpy_generator

STEP = 5  # years: cells are compared within ages of so many years for errors, within single years for rates
LEVEL = 0.95


def fairness(answers: Answers, config: AuditConfig) -> list[dict[str, Any]]:
    """Return a row per label (sex, each given column, each pair): its cells, and the gaps between them.

    A gap is the largest less the smallest value over the cells with at least 30 minors (people, else images):
    of MAE and bias in years over all ages, of FPR at the headline age in percent over minors alone. Cells
    below have counts only, also of errors: an audit at a legal age concludes nothing about them.
    """
    return [_one_label(name, values, answers, config) for name, values in answers.slices().items()]


def _one_label(name: str, label: np.ndarray, answers: Answers, config: AuditConfig) -> dict[str, Any]:
    minors = definitions.in_band(answers.years, definitions.minor_band(config.legal)) & (label != "")
    error = answers.predicted - answers.age
    above = 100.0 * definitions.appears(answers.predicted, config.headline)
    cells = [
        _cell(value, label, answers, minors, error, above) for value in np.unique(label[label != ""]).tolist()
    ]
    known = np.isin(label, [cell["value"] for cell in cells if cell["minor_units"] >= FEWEST_UNITS])
    minors &= known
    steps, each = answers.years // STEP, answers.years
    measures: tuple[tuple[str, np.ndarray, np.ndarray, np.ndarray], ...] = (
        ("mae", np.abs(error), known, steps),
        ("bias", error, known, steps),
        ("fpr", above, minors, each),
    )
    return {
        "label": name,
        "cells": cells,
        "gaps": {
            key: gap(values[rows], label[rows], strata[rows], answers.unit[rows], config)
            for key, values, rows, strata in measures
        },
    }


def _cell(
    value: str,
    label: np.ndarray,
    answers: Answers,
    minors: np.ndarray,
    error: np.ndarray,
    above: np.ndarray,
) -> dict[str, Any]:
    """Return the counts of a cell, and its values where it has minors enough."""
    own = label == value
    young = own & minors
    units, minor_units = (len(np.unique(answers.unit[rows])) for rows in (own, young))
    row: dict[str, Any] = {
        "value": value,
        "images": int(own.sum()),
        "units": units,
        "minor_images": int(young.sum()),
        "minor_units": minor_units,
        **{"mae": None, "bias": None, "fpr": None},
    }
    if minor_units >= FEWEST_UNITS:
        row |= {"mae": float(np.abs(error[own]).mean()), "bias": float(error[own].mean())}
        row["fpr"] = float(above[young].mean())
    return row


def gap(
    values: np.ndarray, label: np.ndarray, strata: np.ndarray, units: np.ndarray, config: AuditConfig
) -> dict[str, Any] | None:
    """Return the raw and the age-standardised gap of the cells' means, with an interval and a permutation.

    The interval resamples units and takes the extremes again in each resample: gaps are never below zero, so
    it lies too high. `shuffled` is the mean gap and `shuffled_high` its 95th percentile when labels are dealt
    out to units at random; p = (1 + #{shuffled >= observed}) / (permutations + 1). None for fewer than two
    cells.
    """
    kept, cell = np.unique(label, return_inverse=True)
    if len(kept) < 2:
        return None
    stratum = np.unique(strata, return_inverse=True)[1]
    shape = (len(kept), int(stratum.max()) + 1)
    means = standardised_means(values, cell, stratum, shape)
    observed = spread(means)
    person = np.unique(units, return_inverse=True)[1]
    shuffled = _shuffled_gaps(values, cell, stratum, shape, person, config)
    drawn = _resampled_gaps(values, cell, stratum, shape, person, config)
    ends = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if np.isfinite(drawn).any() else None
    chance = shuffled[np.isfinite(shuffled)]
    return {
        "cells": [str(name) for name in kept],
        "raw": spread(np.array([values[cell == index].mean() for index in range(len(kept))])),
        "standardised": observed,
        "means": means.tolist(),
        "interval": None if ends is None else ends.tolist(),
        "shuffled": float(chance.mean()) if len(chance) else None,
        "shuffled_high": float(np.quantile(chance, LEVEL)) if len(chance) else None,
        "p": _p(chance, observed) if len(chance) and np.isfinite(observed) else None,
    }


def _p(chance: np.ndarray, observed: float) -> float:
    return float((1 + (chance >= observed - 1e-12).sum()) / (len(chance) + 1))


def spread(means: np.ndarray) -> float:
    """Return the largest less the smallest of the means; NaN where any is not known."""
    return float(means.max() - means.min())


def standardised_means(
    values: np.ndarray,
    cell: np.ndarray,
    stratum: np.ndarray,
    shape: tuple[int, int],
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Return each cell's mean at the pooled age distribution, float64 (C,).

    A cell's mean is sum_s w_s m_s, with m_s its mean in the ages s and w_s the share of these ages in all
    cells together. Ages that a cell lacks are left out for every cell; NaN where none is left.

    Args:
        values: (N,).
        cell: int (N,), 0 to C - 1.
        stratum: int (N,), 0 to S - 1.
        shape: (C, S).
        weights: how often each image counts, (N,); None is once.

    >>> values, cell, ages = np.array([1.0, 3.0, 5.0, 2.0]), np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0])
    >>> standardised_means(values, cell, ages, (2, 2)).tolist()
    [2.0, 2.0]
    """
    place = np.ravel_multi_index((cell, stratum), shape)
    once = np.ones(len(values)) if weights is None else weights
    counts = np.bincount(place, once, shape[0] * shape[1]).reshape(shape)
    sums = np.bincount(place, once * values, shape[0] * shape[1]).reshape(shape)
    common = (counts > 0).all(axis=0)
    if not common.any():
        return np.full(shape[0], np.nan)
    share = counts[:, common].sum(axis=0)
    means = sums[:, common] / counts[:, common]
    return np.asarray(means @ share / share.sum())


def _shuffled_gaps(
    values: np.ndarray,
    cell: np.ndarray,
    stratum: np.ndarray,
    shape: tuple[int, int],
    person: np.ndarray,
    config: AuditConfig,
) -> np.ndarray:
    """Return the gaps with labels dealt out to units at random; a unit of several labels deals its images."""
    generator = numpy_generator(config.seed, "permutation")
    first = np.unique(person, return_index=True)[1]
    one_label = bool((cell[first][person] == cell).all())
    found = []
    for _ in range(config.permutations):
        dealt = generator.permutation(cell[first])[person] if one_label else generator.permutation(cell)
        found.append(spread(standardised_means(values, dealt, stratum, shape)))
    return np.array(found)


def _resampled_gaps(
    values: np.ndarray,
    cell: np.ndarray,
    stratum: np.ndarray,
    shape: tuple[int, int],
    person: np.ndarray,
    config: AuditConfig,
) -> np.ndarray:
    generator, count = numpy_generator(config.seed, "gap"), int(person.max()) + 1
    found = []
    for _ in range(min(config.resamples, config.permutations)):
        drawn = np.bincount(generator.integers(0, count, count), minlength=count).astype(np.float64)
        found.append(spread(standardised_means(values, cell, stratum, shape, drawn[person])))
    return np.array(found)
