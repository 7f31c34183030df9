"""How good ages in years are: mean absolute error, CS@k, bias, decades, and the score of whole distributions.

Errors are in years, answer minus truth, against completed years of age; CS@k and its intervals are in
percent. What cannot be computed is None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from agecls.data.years import Years, years_of
from agecls.scores import FEWEST_SUBJECTS, ranked_probability_score
from finetune.experiments.records.predictions import Predictions
from finetune.images.checks import known_count, subjects_known
from finetune.metrics.bootstrap import cluster_bootstrap_interval, summarise
from finetune.metrics.intervals import BOOTSTRAP, METHOD, told_method
from finetune.metrics.learning import NOTHING_USEFUL

WITHIN = (3, 5)  # the k of CS@k that tables tell
CURVE = tuple(range(16))  # the k of the curve
SLACK = 1e-6  # years: an error of k counts as within k however its sum was rounded


YEAR_DECODERS: Mapping[str, Callable[[np.ndarray, Years], np.ndarray]] = MappingProxyType(
    {
        "median": lambda probs, years: years.median(probs),
        "expected": lambda probs, years: years.expected(probs),
        "argmax": lambda probs, years: years.likeliest(probs),
    }
)


def true_years(found: Predictions, years: Years) -> np.ndarray:
    """Return the completed years of each image, (N,): its age where the table has it, else its class's."""
    of_class = np.asarray(years.ages[found.target])
    if "age" not in found:
        return of_class
    age = found["age"]
    return np.asarray(np.where(np.isfinite(age), np.floor(np.nan_to_num(age)), of_class))


def year_errors(found: Predictions, years: Years | None = None) -> np.ndarray:
    """Return each image's error in years, (N,): the median answer minus the truth.

    Raises ValueError where the classes are not years.
    """
    years = years or years_of(found.class_names)
    if years is None:
        raise ValueError(f"classes such as {', '.join(found.class_names[:3])} are not years")
    return np.asarray(years.median(found.probs) - true_years(found, years))


def within(errors: np.ndarray, k: float) -> np.ndarray:
    """Return which errors are of at most k years, bool (N,)."""
    return np.asarray(np.abs(errors) <= k + SLACK)


def crps_years(probs: np.ndarray, target: np.ndarray, years: Years) -> float:
    """Return the mean over images of sum_k (F_k - [target <= k])^2 width, in years; 0 for certain and right.

    It is the continuous ranked probability score of the distribution over classes: proper, and the absolute
    error where all probability lies on one class.
    """
    steps = probs.shape[1] - 1
    return float(ranked_probability_score(probs, target) * steps * years.width)


def epsilon_error(answer: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> tuple[float, int]:
    """Return mean(1 - exp(-(answer - mean)^2 / (2 sd^2))), and for how many images sd is 0.

    Where the raters agreed (sd 0), an answer counts 0 within half a year and 1 otherwise.

    Args:
        answer: ages in years, (N,).
        mean: of the ages that people gave, (N,).
        sd: their standard deviation, (N,), >= 0.

    >>> round(epsilon_error(np.array([30.0]), np.array([26.0]), np.array([4.6]))[0], 6)
    0.314819

    Source: Escalera et al., ChaLearn Looking at People 2015, apparent age.
    """
    flat = sd <= 0
    square = np.square(answer - mean)
    spread = 1 - np.exp(-square / (2 * np.square(np.where(flat, 1.0, sd))))
    errors = np.where(flat, (np.abs(answer - mean) >= 0.5).astype(float), spread)
    return (float(errors.mean()) if len(errors) else float("nan")), int(flat.sum())


def score_years(found: Predictions, *, resamples: int = 2000, seed: int = 0) -> dict[str, Any] | None:
    """Return every score in years, plain values; None where the classes are not years.

    The answer is the median of the probabilities, which serves the mean absolute error; `decoders` has the
    others. Intervals resample whole subjects within folds, and images where subjects are not known.

    Returns
        n, width (years per class), decoder, unit (what is resampled); mae, bias, cs3, cs5 over all images,
        and of each _mean, _sd, _per_fold over folds and the mean's _interval; balanced_mae (mean over
        decades), crps (years), decoders {name: {mae, bias, cs3, cs5}}, curve {k: CS@k}, decades (rows of
        `decade_rows`), and where people rated ages epsilon {error, agreed, n}.
    """
    years = years_of(found.class_names)
    if years is None or not len(found):
        return None
    known = subjects_known(found)
    errors = year_errors(found, years)
    truth = true_years(found, years)

    rows = decade_rows(found, years, resamples=resamples, seed=seed)
    scores: dict[str, Any] = {
        "n": len(found),
        "width": years.width,
        "decoder": "median",
        "unit": "subject" if known else "image",
        "balanced_mae": float(np.mean([row["mae"] for row in rows])),
        "crps": crps_years(found.probs, found.target, years),
        "decoders": {
            name: _summary(decode(found.probs, years) - truth) for name, decode in YEAR_DECODERS.items()
        },
        "curve": {k: 100 * float(within(errors, k).mean()) for k in CURVE},
        "decades": rows,
    }
    for name, values, percent in _measured(errors):
        scores |= _over_folds(name, values, found, percent=percent, resamples=resamples, seed=seed)
    if "apparent_sd" in found and np.isfinite(found["apparent_sd"]).any():
        rated = np.isfinite(found["apparent_sd"])
        answer = years.expected(found.probs[rated])
        error, agreed = epsilon_error(answer, truth[rated], found["apparent_sd"][rated])
        scores["epsilon"] = {"error": error, "agreed": agreed, "n": int(rated.sum())}
    return scores


def plain_year_scores(found: Predictions) -> dict[str, float]:
    """Return mae_years, bias_years and cs5 (percent) over all images; {} where the classes are no years."""
    years = years_of(found.class_names)
    if years is None or not len(found):
        return {}
    told = _summary(year_errors(found, years))
    return {"mae_years": told["mae"], "bias_years": told["bias"], "cs5": told["cs5"]}


def year_facts(found: Predictions) -> dict[str, Any]:
    """Return cs5 and mae_years as other measures have them: _mean, _sd, _per_fold, _pooled and _interval.

    {} where the classes are not years.
    """
    scores = score_years(found) or {}
    told: dict[str, Any] = {}
    for key, own in (("cs5", "cs5"), ("mae_years", "mae")):
        if own in scores:
            parts = ("mean", "sd", "per_fold", "interval")
            told |= {key: scores[own], f"{key}_pooled": scores[own]}
            told |= {f"{key}_{part}": scores[f"{own}_{part}"] for part in parts}
            told |= told_method(f"{key}_interval", scores.get(f"{own}_interval{METHOD}", BOOTSTRAP))
    return told


def guessed_years(found: Predictions, train_labels: np.ndarray) -> list[str] | None:
    """Return a warning where the errors are not below those of one answer for everybody: None of groups.

    That answer is the median age of the training images, `train_labels` int (M,), by their classes.
    """
    years = years_of(found.class_names)
    if years is None or not len(found) or not len(train_labels):
        return None if years is None else []
    constant = float(np.median(years.ages[train_labels]))
    own = float(np.abs(year_errors(found, years)).mean())
    guessed = float(np.abs(constant - true_years(found, years)).mean())
    if own < guessed:
        return []
    return [
        f"the mean absolute error of {own:.2f} years is not below that of always answering {constant:g} "
        f"({guessed:.2f} years): {NOTHING_USEFUL}"
    ]


def decade_rows(
    found: Predictions, years: Years, *, resamples: int = 2000, seed: int = 0
) -> list[dict[str, Any]]:
    """Return a row for each decade of true age that has images: name, images, subjects, mae, bias, intervals.

    Intervals stand from 30 subjects on (images where subjects are not known), which then also is said of
    `subjects`, None.
    """
    known, errors = subjects_known(found), year_errors(found, years)
    decades = (true_years(found, years) // 10).astype(int)
    rows = []
    for decade in np.unique(decades):
        chosen = decades == decade
        subjects = found["subject"][chosen]
        row: dict[str, Any] = {
            "name": f"{10 * decade}-{10 * decade + 9}",
            "images": int(chosen.sum()),
            "subjects": known_count(subjects, known=known),
            "mae": float(np.abs(errors[chosen]).mean()),
            "bias": float(errors[chosen].mean()),
            "mae_interval": None,
            "bias_interval": None,
        }
        if len(np.unique(subjects)) >= FEWEST_SUBJECTS:
            for name, values in (("mae", np.abs(errors)), ("bias", errors)):
                told = cluster_bootstrap_interval(
                    values[chosen], subjects, found.fold[chosen], resamples=resamples, seed=seed
                )
                row[f"{name}_interval"] = [told.low, told.high]
        rows.append(row)
    return rows


def known_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of `decade_rows` without the count of subjects where these are not known."""
    return {key: value for key, value in row.items() if key != "subjects" or value is not None}


def _measured(errors: np.ndarray) -> tuple[tuple[str, np.ndarray, bool], ...]:
    shares = tuple((f"cs{k}", 100.0 * within(errors, k), True) for k in WITHIN)
    return (("mae", np.abs(errors), False), ("bias", errors, False), *shares)


def _over_folds(
    name: str, values: np.ndarray, found: Predictions, *, percent: bool, resamples: int, seed: int
) -> dict[str, Any]:
    """Return one score over all images, per fold, and as the mean of folds with its interval."""
    per_fold = [float(values[found.fold == fold].mean()) for fold in np.unique(found.fold)]
    mean, sd, _ = summarise(per_fold)
    told = cluster_bootstrap_interval(
        values,
        found["subject"],
        found.fold,
        statistic="mean_of_strata",
        resamples=resamples,
        seed=seed,
        percent=percent,
    )
    return {
        name: float(values.mean()),
        f"{name}_mean": mean,
        f"{name}_sd": sd if len(per_fold) > 1 else None,
        f"{name}_per_fold": per_fold,
        f"{name}_interval": [told.low, told.high],
        **told_method(f"{name}_interval", told.method),
    }


def _summary(errors: np.ndarray) -> dict[str, float]:
    return {name: float(values.mean()) for name, values, _ in _measured(errors)}
