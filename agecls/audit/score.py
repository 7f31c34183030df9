"""Answers -> every number of an age audit, with intervals, counts, and what the counts can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agecls.audit import definitions
from agecls.audit.answers import Answers
from agecls.audit.config import AuditConfig
from agecls.audit.fairness import fairness
from agecls.audit.notes import what_n_shows
from agecls.audit.rates import Rate, Resampling, mean_with_interval, rate
from finetune.metrics.bootstrap import effective_clusters

WIDER = 10  # years above the highest challenge age to which pass rates go


def score_answers(answers: Answers, config: AuditConfig) -> dict[str, Any]:
    """Return the audit's numbers: rates in percent, errors in years, None for what has no image."""
    how = Resampling(config.resamples, config.seed)
    minors = definitions.in_band(answers.years, definitions.minor_band(config.legal))
    adults = definitions.in_band(answers.years, definitions.adult_band(config.legal))
    challenge = [_at_challenge(answers, minors, adults, config, age, how) for age in config.ages]
    return {
        "name": answers.name,
        "source": answers.source,
        "legal": config.legal,
        "headline": config.headline,
        "challenge": list(config.ages),
        "unit": answers.units,
        "images": len(answers),
        "units": len(np.unique(answers.unit)),
        "effective_units": effective_clusters(answers.unit),
        "minors": _counts(answers, minors),
        "adults": _counts(answers, adults),
        "minor_band": list(definitions.minor_band(config.legal)),
        "adult_band": list(definitions.adult_band(config.legal)),
        "errors": _errors(answers, adults, config, how),
        "challenge_ages": challenge,
        "child_band": child_band(answers, how),
        "pass_rates": pass_rates(answers, config, how),
        "fairness": fairness(answers, config),
        "notices": list(answers.notices),
    }


def _counts(answers: Answers, rows: np.ndarray) -> dict[str, int]:
    return {"images": int(rows.sum()), "units": len(np.unique(answers.unit[rows]))}


def _errors(answers: Answers, adults: np.ndarray, config: AuditConfig, how: Resampling) -> dict[str, Any]:
    """Return MAE over all and over cells, CS@k, bias, and the mean absolute error of each decoder."""
    error = answers.predicted - answers.age
    cells = definitions.error_cells(
        answers.years, answers.age, answers.predicted, answers.sex, definitions.adult_band(config.legal)
    )
    kept = {(cell.sex, cell.age) for cell in cells if cell.averaged}
    keys = list(zip(answers.sex.tolist(), answers.years.tolist(), strict=True))
    inside = np.array([key in kept for key in keys], dtype=bool)
    place = np.unique([f"{sex}{age}" for sex, age in keys], return_inverse=True)[1]
    over_cells = mean_with_interval(np.abs(error)[inside], answers.unit[inside], how, place[inside])
    scores = {
        f"within_{k}": rate(
            definitions.within(answers.age, answers.predicted, k), answers.unit, how
        ).to_dict()
        for k in definitions.SCORES_AT
    }
    scores |= {
        f"within_{k}_adults": rate(
            definitions.within(answers.age, answers.predicted, k)[adults], answers.unit[adults], how
        ).to_dict()
        for k in definitions.SCORES_AT
    }
    return {
        "mae": mean_with_interval(np.abs(error), answers.unit, how),
        "bias": mean_with_interval(error, answers.unit, how),
        "mae_cells": {**over_cells, "mean": definitions.mean_over_cells(cells), "cells": len(kept)},
        "cells": [
            {
                "sex": cell.sex,
                "age": cell.age,
                "images": cell.images,
                "mae": cell.mae,
                "bias": cell.bias,
                "averaged": cell.averaged,
            }
            for cell in cells
        ],
        "without_sex": int((answers.sex[adults] == "").sum()) if answers.has_sex else 0,
        "by_decoder": {
            name: float(np.abs(ages - answers.age).mean()) for name, ages in answers.decoded.items()
        },
        **scores,
    }


def _at_challenge(
    answers: Answers,
    minors: np.ndarray,
    adults: np.ndarray,
    config: AuditConfig,
    age: int,
    how: Resampling,
) -> dict[str, Any]:
    """Return FPR, burden and severity at one challenge age, and what the number of minors can show."""
    above = definitions.appears(answers.predicted, age)
    false = rate(above[minors], answers.unit[minors], how)
    return {
        "challenge": age,
        "fpr": false.to_dict(),
        "burden": rate(~above[adults], answers.unit[adults], how).to_dict(),
        "severity": definitions.severity(answers.age, answers.predicted, config.legal, age),
        "shows": what_n_shows(false.hit_units, false.units, answers.units),
    }


def child_band(answers: Answers, how: Resampling) -> dict[str, Any]:
    """Return how many of the children of 13 to 16 are taken for such, and how many of those around them."""
    taken = definitions.in_child_band(answers.predicted)

    def among(band: tuple[int, int]) -> Mapping[str, Any]:
        rows = definitions.in_band(answers.years, band)
        found: Rate = rate(taken[rows], answers.unit[rows], how)
        return {"ages": list(band), **found.to_dict()}

    return {
        "tpr": among(definitions.CHILD_BAND),
        "fpr_younger": among(definitions.YOUNGER),
        "fpr_older": among(definitions.OLDER),
    }


def pass_rates(answers: Answers, config: AuditConfig, how: Resampling) -> list[dict[str, Any]]:
    """Return for each integer age how many are taken for at least each challenge age.

    The headline's rate has an interval; `at` holds the rate in percent for every challenge age.
    """
    first, last = max(0, config.legal - definitions.ADULT_YEARS), max(config.ages) + WIDER
    rows = []
    for year in range(first, last + 1):
        own = answers.years == year
        if not own.any():
            continue
        above = definitions.appears(answers.predicted[own], config.headline)
        at = _shares(answers.predicted[own], config.ages)
        rows.append({"true_age": year, **rate(above, answers.unit[own], how).to_dict(), "at": at})
    return rows


def _shares(predicted: np.ndarray, ages: Sequence[int]) -> dict[str, float]:
    return {str(age): 100 * float((predicted >= age).mean()) for age in ages}
