"""How good age predictions are: exact and one-off accuracy, ordinal errors, intervals over subjects, slices.

Accuracies, recalls and their intervals are in percent; errors (MAE) in groups; the calibration error, the
ranked probability score and the log-likelihood keep their own units. What cannot be computed is None, never
0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from agecls.decoders import DECODERS
from finetune.experiments.measures import FEWEST_UNITS
from finetune.experiments.records.predictions import Predictions
from finetune.images.checks import known_count, subjects_known
from finetune.metrics import classification as metrics
from finetune.metrics.bootstrap import Statistic, cluster_bootstrap_interval, effective_clusters, summarise
from finetune.metrics.intervals import told_method
from finetune.metrics.reliability import calibration_errors
from finetune.metrics.selective import risk_coverage
from finetune.runs.files import json_text

# Below this many subjects a cell of a slice gets its counts and no conclusion.
FEWEST_SUBJECTS = FEWEST_UNITS
SUBJECT_SIZES = ((1, 1), (2, 4), (5, 9), (10, 49), (50, None))

Slice = Literal["group", "gender", "subject_count"]


def exact_accuracy(preds: np.ndarray, target: np.ndarray) -> float:
    """Return 100 mean(pred = target), in percent; NaN without an image."""
    return 100 * metrics.accuracy(preds, target)


def one_off_accuracy(preds: np.ndarray, target: np.ndarray) -> float:
    """Return 100 mean(|pred - target| <= 1) on group indices, in percent; NaN without an image.

    The ends do not wrap around, and this is not top-2 accuracy: the second guess plays no part.

    >>> one_off_accuracy(np.array([0, 1, 7]), np.array([1, 1, 0])).__round__(1)
    66.7
    """
    return 100 * metrics.accuracy(np.abs(preds - target) <= 1, np.ones(len(target), dtype=bool))


def ranked_probability_score(probs: np.ndarray, target: np.ndarray) -> float:
    """Return the mean over images of sum_{k < K-1} (P(y <= k) - [target <= k])^2 / (K - 1), in [0, 1].

    Zero for certainty in the true group; being far off costs more than being next to it.
    Source: Epstein, "A Scoring System for Probability Forecasts of Ranked Categories", J. Appl. Meteor. 8,
    1969.
    """
    steps = np.arange(probs.shape[1] - 1)
    gap = probs.cumsum(axis=1)[:, :-1] - (np.asarray(target)[:, None] <= steps)
    return float(np.square(gap).mean()) if gap.size else float("nan")


def age_scores(probs: np.ndarray, target: np.ndarray) -> dict[str, Any]:
    """Return every score of one set of images, pooled: a dictionary ready for JSON.

    Args:
        probs: float (N, K), rows sum to 1, groups young to old.
        target: int (N,), zero-based group indices.

    Returns exact and one_off (percent, argmax), decoders (exact, one_off and mae in groups of each decoder),
    mae_argmax and mae_expected (groups), balanced_accuracy and per_group_recall (percent, None for a group
    without an image), per_group_n, macro_f1 (percent), ece (15 bins), adaptive_ece (bins of equal count),
    threshold_ece (of P(y > k)), aurc (risk-coverage, exact), rps, nll (nats), brier and n.
    """
    num_classes = probs.shape[1]
    decoders = {name: _decoded(decode(probs), target) for name, decode in DECODERS.items()}
    recall = metrics.per_class_recall(probs, target, num_classes)
    scores = {
        "n": len(target),
        "decoder": "argmax",
        "exact": decoders["argmax"]["exact"],
        "one_off": decoders["argmax"]["one_off"],
        "mae_argmax": decoders["argmax"]["mae"],
        "mae_expected": decoders["expected"]["mae"],
        "decoders": decoders,
        "balanced_accuracy": 100 * metrics.balanced_accuracy(probs, target, num_classes),
        "per_group_recall": 100 * recall,
        "per_group_n": np.bincount(target, minlength=num_classes),
        "macro_f1": 100 * metrics.macro_f1(probs, target, num_classes),
        **calibration_errors(probs, target, ordered=True),
        "aurc": risk_coverage(probs.max(axis=1, initial=0.0), probs.argmax(axis=1) != target).area,
        "rps": ranked_probability_score(probs, target),
        "nll": metrics.negative_log_likelihood(probs, target),
        "brier": metrics.brier_score(probs, target),
    }
    return _for_json(scores)


def constant_baseline(
    train_labels: Mapping[int, np.ndarray], target: np.ndarray, fold: np.ndarray, num_classes: int
) -> dict[str, Any]:
    """Return the scores of predicting, in each fold, the most frequent group of its training images for
    everything.

    Args:
        train_labels: fold -> group indices of the images that fold's model was trained on.
        target: int (N,), the test images' groups.
        fold: int (N,), the fold each image was tested in.
        num_classes: K.

    Returns group_per_fold (the youngest of equally common ones), exact_ and one_off_per_fold, _mean, _pooled.
    """
    folds = np.unique(fold)
    group = {int(f): int(np.bincount(train_labels[int(f)], minlength=num_classes).argmax()) for f in folds}
    preds = np.array([group[int(f)] for f in fold])
    result: dict[str, Any] = {"group_per_fold": list(group.values())}
    for name, score in (("exact", exact_accuracy), ("one_off", one_off_accuracy)):
        per_fold = [score(preds[fold == f], target[fold == f]) for f in folds]
        result[f"{name}_per_fold"] = per_fold
        result[f"{name}_mean"] = summarise(per_fold).mean
        result[f"{name}_pooled"] = score(preds, target)
    return result


def score_cross_validation(
    predictions: Predictions,
    train_labels: Mapping[int, np.ndarray] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the scores of a cross-validation: per fold, mean and sd over folds, pooled, intervals, baseline.

    The sd over folds (ddof 1; None for one fold) mostly reflects how unlike the folds are; how certain the
    mean is stands in `intervals`: whole subjects resampled within folds, and in `intervals_by_user` whole
    albums (None where every user is one subject). Folds differ in size, so mean over folds and pooled
    accuracy differ.

    Args:
        predictions: the test images of all folds.
        train_labels: fold -> labels trained on, for the baseline; None takes the other folds' test images
            (None as baseline where there is one fold only).
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns `age_scores` of all images together (exact and one_off named exact_pooled and one_off_pooled), and
    folds, per_fold_n, subjects, users, effective_subjects (Kish), exact_ and one_off_per_fold, _mean, _sd,
    intervals {level, unit, clusters, exact_mean, one_off_mean, exact_pooled, one_off_pooled: [low, high]},
    baseline, subjects_in_several_folds (0 unless overlap was allowed). Where subjects are not known, what
    counts them is None. Where images are tested in several folds, no accuracy is pooled: these are None.
    """
    if not len(predictions):
        raise ValueError("there is no prediction to score")
    scores = age_scores(predictions.probs, predictions.target)
    scores["exact_pooled"], scores["one_off_pooled"] = scores.pop("exact"), scores.pop("one_off")
    if predictions.tested_again:
        scores["exact_pooled"] = scores["one_off_pooled"] = None
    folds, counts = np.unique(predictions.fold, return_counts=True)
    scores |= {"folds": folds, "per_fold_n": counts, **_over_folds(predictions, folds)}
    known = subjects_known(predictions)
    subject, user = predictions["subject"], predictions["user"]
    pairs = np.unique(np.stack([subject, predictions.fold.astype(str)]), axis=1)
    several = int((np.unique(pairs[0], return_counts=True)[1] > 1).sum())
    scores |= {
        "subjects": known_count(subject, known=known),
        "users": known_count(user, known=known or bool((user != predictions.path).any())),
        "effective_subjects": effective_clusters(subject) if known else None,
        "subjects_in_several_folds": several if known else None,
        "intervals": _intervals(predictions, "subject" if known else "image", resamples, seed),
        "intervals_by_user": None,
        "baseline": None,
    }
    if len(np.unique(user)) != len(np.unique(subject)):
        scores["intervals_by_user"] = _intervals(predictions, "user", resamples, seed)
    if train_labels is None and len(folds) > 1:
        train_labels = {int(f): predictions.target[predictions.fold != f] for f in folds}
    if train_labels is not None:
        scores["baseline"] = constant_baseline(
            train_labels, predictions.target, predictions.fold, len(predictions.class_names)
        )
        if predictions.tested_again:
            scores["baseline"] |= {"exact_pooled": None, "one_off_pooled": None}
    return _for_json(scores)


def mean_of_folds(predictions: Predictions) -> dict[str, float]:
    """Return exact and one-off accuracy in percent, each the mean of the folds' own."""
    found = _over_folds(predictions, np.unique(predictions.fold))
    return {name: found[f"{name}_mean"] for name in ("exact", "one_off")}


def slice_scores(
    predictions: Predictions, by: Slice, *, resamples: int = 2000, seed: int = 0
) -> list[dict[str, Any]]:
    """Return one row per cell of a slice: name, images, subjects, exact, one_off and their intervals
    (percent).

    `by` is "group" (the true age group), "gender", or "subject_count" (how many test images the subject has).
    Accuracies are pooled, intervals resample whole subjects of the cell. A cell with fewer than 30 subjects
    has counts only: its accuracies and intervals are None. Empty cells of "group" are listed, with zero
    images. Where subjects are not known, images count in their place: rows have no `subjects`, and
    "subject_count" has none.
    """
    if by not in _CELLS:
        raise ValueError(f"by must be one of {', '.join(_CELLS)}; got {by!r}")
    known = subjects_known(predictions)
    if by == "subject_count" and not known:
        return []
    return [
        cell_scores(name, predictions.select(rows), known=known, resamples=resamples, seed=seed)
        for name, rows in _CELLS[by](predictions)
    ]


def cell_scores(
    name: str, cell: Predictions, *, known: bool = True, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Return the row of one cell of any slice, as in `slice_scores`: counts, and scores from 30 subjects on.

    `cell` holds the images of the cell alone; `known` is whether their subjects are.
    """
    subjects = len(np.unique(cell["subject"]))
    row: dict[str, Any] = {"name": name, "images": len(cell), **({"subjects": subjects} if known else {})}
    for measure, hits in (("exact", cell.correct), ("one_off", cell.one_off)):
        row[measure], row[f"{measure}_interval"] = None, None
        if subjects >= FEWEST_SUBJECTS:
            interval = cluster_bootstrap_interval(
                100.0 * hits, cell["subject"], resamples=resamples, seed=seed, percent=True
            )
            row[measure], row[f"{measure}_interval"] = interval.estimate, [interval.low, interval.high]
            row |= told_method(f"{measure}_interval", interval.method)
    return row


def _for_json(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain Python values, NaN as None."""
    result: dict[str, Any] = json.loads(json_text(scores))
    return result


def _decoded(preds: np.ndarray, target: np.ndarray) -> dict[str, float]:
    exact, one_off = exact_accuracy(preds, target), one_off_accuracy(preds, target)
    assert not one_off < exact, "one-off accuracy counts every exact hit"
    mae = float(np.abs(preds - target).mean()) if len(target) else float("nan")
    return {"exact": exact, "one_off": one_off, "mae": mae}


def _over_folds(predictions: Predictions, folds: np.ndarray) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, hits in (("exact", predictions.correct), ("one_off", predictions.one_off)):
        per_fold = [100 * float(hits[predictions.fold == f].mean()) for f in folds]
        mean, sd, _ = summarise(per_fold)
        result |= {f"{name}_per_fold": per_fold, f"{name}_mean": mean, f"{name}_sd": sd}
    return result


def _intervals(predictions: Predictions, unit: str, resamples: int, seed: int) -> dict[str, Any]:
    clusters = predictions["user" if unit == "user" else "subject"]
    result: dict[str, Any] = {"unit": unit, "resamples": resamples, "seed": seed}
    estimates: tuple[tuple[str, Statistic], ...] = (("mean", "mean_of_strata"), ("pooled", "pooled"))
    for measure, hits in (("exact", predictions.correct), ("one_off", predictions.one_off)):
        for name, statistic in estimates:
            interval = cluster_bootstrap_interval(
                100.0 * hits,
                clusters,
                predictions.fold,
                statistic=statistic,
                resamples=resamples,
                seed=seed,
                percent=True,
            )
            result |= {"level": interval.level, "clusters": interval.clusters}
            if name == "pooled" and predictions.tested_again:
                result[f"{measure}_{name}"] = None
                continue
            result |= {f"{measure}_{name}": [interval.low, interval.high]}
            result |= told_method(f"{measure}_{name}", interval.method)
    return result


Cells = list[tuple[str, np.ndarray]]


def _group_cells(predictions: Predictions) -> Cells:
    return [(name, predictions.target == index) for index, name in enumerate(predictions.class_names)]


def _gender_cells(predictions: Predictions) -> Cells:
    genders = np.where(predictions["gender"] == "", "not recorded", predictions["gender"])
    return [(str(name), genders == name) for name in np.unique(genders)]


def _subject_count_cells(predictions: Predictions) -> Cells:
    _, subject, counts = np.unique(predictions["subject"], return_inverse=True, return_counts=True)
    images = counts[subject]
    cells = []
    for low, high in SUBJECT_SIZES:
        name = f"{low}+ images" if high is None else f"{low}-{high} images" if high > low else f"{low} image"
        cells.append((name, (images >= low) & (images <= (high or images.max(initial=0)))))
    return [(name, rows) for name, rows in cells if rows.any()]


_CELLS: Mapping[str, Callable[[Predictions], Cells]] = MappingProxyType(
    {"group": _group_cells, "gender": _gender_cells, "subject_count": _subject_count_cells}
)
