"""Rates and means with intervals over units (people, else images)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from finetune.metrics.bootstrap import cluster_bootstrap_interval
from finetune.metrics.intervals import EXACT, clopper_pearson


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: bootstrap resamples and their seed."""

    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class Rate:
    """A rate in percent with its 95 % interval.

    `images` and `units` count what it is of, `hits` the images and `hit_units` the units counted in it; None
    for the rate and its ends where there is no image.
    """

    percent: float | None
    low: float | None
    high: float | None
    images: int
    units: int
    hits: int
    hit_units: int
    method: str

    def to_dict(self) -> dict[str, Any]:
        """Return the rate as plain numbers and words."""
        return asdict(self)


def rate(hits: np.ndarray, units: np.ndarray, how: Resampling) -> Rate:
    """Return mean(hits) in percent with an interval over units.

    The interval resamples whole units. Where no image or every image is a hit it is Clopper and Pearson's
    over the units, each counting once.

    Args:
        hits: bool (N,).
        units: (N,) whose image each is.
        how: resamples and seed.
    """
    count, people = len(hits), len(np.unique(units))
    found = int(hits.sum())
    touched = len(np.unique(units[hits]))
    if not count:
        return Rate(None, None, None, 0, 0, 0, 0, "")
    if found in (0, count):
        low, high = clopper_pearson(people if found else 0, people)
        return Rate(100.0 * found / count, low, high, count, people, found, touched, EXACT)
    made = cluster_bootstrap_interval(
        100.0 * hits, units, resamples=how.resamples, seed=how.seed, percent=True
    )
    return Rate(made.estimate, made.low, made.high, count, people, found, touched, made.method)


def mean_with_interval(
    values: np.ndarray, units: np.ndarray, how: Resampling, cells: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the mean of values (N,) with its interval over units; with `cells` (N,) that of cell means."""
    if not len(values):
        return {"mean": None, "interval": None, "images": 0, "units": 0}
    made = cluster_bootstrap_interval(
        values,
        units,
        cells,
        statistic="pooled" if cells is None else "mean_of_strata",
        resamples=how.resamples,
        seed=how.seed,
    )
    return {
        "mean": made.estimate,
        "interval": [made.low, made.high] if made.clusters > 1 else None,
        "images": len(values),
        "units": made.clusters,
    }
