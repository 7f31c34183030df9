"""Predictions on held-out images -> an entry per model: its temperature, its sets, what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from finetune.experiments.config import CalibrateConfig
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.task import Task, measures_for
from finetune.images.checks import subjects_known
from finetune.metrics import conformal
from finetune.metrics.calibration import Scaling, fit_temperature, fit_vector, log_probs
from finetune.seeding import numpy_generator

PARTS = 5  # of the people of one test part, for scores that no fitting has seen
Entry = dict[str, Any]


@dataclass(frozen=True)
class Rules:
    """How a task's probabilities are fitted: what was asked for, and whether its classes are ordered."""

    task: Task
    config: CalibrateConfig

    @property
    def score(self) -> str:
        """The name of the sets' score."""
        if self.config.score != "auto":
            return self.config.score
        return "oaps" if self.task.ordered else "raps"

    def people(self, found: Predictions) -> tuple[np.ndarray, str]:
        """Return who each image shows, (N,), and what one is called: person, user, or image."""
        if self.config.unit == "user" and "user" in found:
            return found["user"], "user"
        known = "subject" in found and subjects_known(found)
        return (found["subject"], "person") if known else (np.arange(len(found)), "image")

    def fit(self, found: Predictions, probs: np.ndarray | None = None) -> Scaling:
        """Return what makes these images' probabilities honest; `probs` (M, N, K) are several models'."""
        people, unit = self.people(found)
        weights = None
        if self.config.weigh == "people":
            _, person, counts = np.unique(people, return_inverse=True, return_counts=True)
            weights = 1 / counts[person]
        logits = log_probs(found.probs if probs is None else probs)
        if self.config.method == "vector":
            return fit_vector(logits, found.target, weights, people=None if unit == "image" else people)
        return fit_temperature(logits, found.target, weights)

    def quantiles(self, probs: np.ndarray, found: Predictions) -> tuple[float, np.ndarray | None]:
        """Return the sets' quantile for calibrated probs (N, K), and one per true class where asked for."""
        people, _ = self.people(found)
        scores = conformal.SCORES[self.score](probs)
        own = conformal.own_scores(scores, found.target)
        level, classes = self.config.level, probs.shape[1]
        groups = None
        if self.config.per_group:
            groups = conformal.group_quantiles(scores, found.target, people, classes, level)
        return conformal.person_quantile(own, people, level), groups

    def sets(self, probs: np.ndarray, quantile: float | np.ndarray) -> np.ndarray:
        """Return the sets of calibrated probs, bool (N, K)."""
        scores = conformal.SCORES[self.score](probs)
        return conformal.prediction_sets(scores, quantile, probs, ordered=self.task.ordered)


@dataclass(frozen=True, eq=False)
class Measured:
    """Calibrated probabilities and sets of images that neither was fitted on, and how that was arranged.

    `probs` (N, K); `sets` and, where each class has a quantile, `group_sets`, bool (N, K). `found` has the
    stated probabilities.
    """

    found: Predictions
    probs: np.ndarray
    sets: np.ndarray
    group_sets: np.ndarray | None
    how: str

    def of_fold(self, fold: int) -> Measured:
        """Return what was measured on the images of one fold."""
        rows = self.found.fold == fold
        groups = None if self.group_sets is None else self.group_sets[rows]
        return Measured(self.found.select(rows), self.probs[rows], self.sets[rows], groups, self.how)


Fitted = Callable[[np.ndarray], tuple[Predictions, np.ndarray | None]]


def measured_on(
    rules: Rules,
    found: Predictions,
    parts: np.ndarray,
    fitted: Fitted,
    how: str,
    members: np.ndarray | None = None,
) -> Measured:
    """Return the images, each part of them calibrated by what was fitted on other images.

    Args:
        rules: how it is fitted.
        found: the N images.
        parts: (N,), which are calibrated together.
        fitted: rows of a part (bool (N,)) -> the predictions to fit on, and of an average of models their
            probabilities (M, n, K).
        how: in words.
        members: of an average of models their probabilities (M, N, K).
    """
    stated = found.probs if members is None else members
    probs = np.array(found.probs)
    sets, groups = np.zeros(probs.shape, dtype=bool), np.zeros(probs.shape, dtype=bool)
    for part in np.unique(parts):
        rows = parts == part
        own, own_members = fitted(rows)
        scaling = rules.fit(own, own_members)
        quantile, by_class = rules.quantiles(
            scaling.apply(own.probs if own_members is None else own_members), own
        )
        probs[rows] = scaling.apply(stated[..., rows, :])
        sets[rows] = rules.sets(probs[rows], quantile)
        if by_class is not None:
            groups[rows] = rules.sets(probs[rows], by_class)
    return Measured(found, probs, sets, groups if rules.config.per_group else None, how)


def cross_measured(
    rules: Rules, found: Predictions, parts: np.ndarray, how: str, members: np.ndarray | None = None
) -> Measured:
    """Return the images, each part of them calibrated by what was fitted on the other parts.

    Where people or images are in several parts, those of a part are left out of the others for it.
    """
    people, _ = rules.people(found)

    def others(rows: np.ndarray) -> tuple[Predictions, np.ndarray | None]:
        kept = ~rows & ~np.isin(people, people[rows]) & ~np.isin(found.path, found.path[rows])
        return found.select(kept), None if members is None else members[:, kept]

    return measured_on(rules, found, parts, others, how, members)


def parts_of_people(people: np.ndarray, parts: int = PARTS) -> np.ndarray:
    """Return a part for each image, 0..parts-1, so that no person is in two; people are dealt at random.

    >>> sorted(set(parts_of_people(np.array(["a", "a", "b", "c", "b"])).tolist()))
    [0, 1, 2]
    """
    names, person = np.unique(people, return_inverse=True)
    dealt = numpy_generator(0, "calibration parts").permutation(len(names)) % parts
    return np.asarray(dealt[person])


def model_scores(task: Task, found: Predictions, probs: np.ndarray) -> Entry:
    """Return what an exported model's facts say of these probabilities: n, and each measure by its name."""
    own = replace(found, probs=probs)
    scores = task.scores(own)
    measures = measures_for(task, "facts", own.class_names)
    return {"n": len(own), **{one.facts_name: scores[one.score_name] for one in measures}}


def measured_facts(rules: Rules, measured: Measured) -> Entry:
    """Return what calibrated probabilities and sets were worth on images that neither was fitted on."""
    people, _ = rules.people(measured.found)
    return {
        "how": measured.how,
        "raw": model_scores(rules.task, measured.found, measured.found.probs),
        "calibrated": model_scores(rules.task, measured.found, measured.probs),
        "people": len(np.unique(people)),
        "sets": set_facts(measured.sets, measured.found.target, people),
        "per_group": None
        if measured.group_sets is None
        else _group_facts(measured.group_sets, measured.found, people),
    }


def set_facts(sets: np.ndarray, target: np.ndarray, people: np.ndarray) -> Entry:
    """Return how often sets held the true class, percent of new people and of pictures, and their size."""
    per_person, per_picture = conformal.coverage(sets, target, people)
    sizes = sets.sum(axis=1)
    return {
        "coverage": {"persons": 100 * per_person, "pictures": 100 * per_picture},
        "mean_size": float(sizes.mean()) if len(sizes) else None,
        "single": 100 * float((sizes == 1).mean()) if len(sizes) else None,
        "whole": 100 * float((sizes == sets.shape[1]).mean()) if len(sizes) else None,
    }


def _group_facts(sets: np.ndarray, found: Predictions, people: np.ndarray) -> list[Entry]:
    rows = []
    for index, name in enumerate(found.class_names):
        of_class = found.target == index
        facts = set_facts(sets[of_class], found.target[of_class], people[of_class])
        rows.append({"name": name, "people": len(np.unique(people[of_class])), **facts["coverage"]})
    return rows


def fitted_entry(
    rules: Rules, found: Predictions, told: str, note: str = "", members: np.ndarray | None = None
) -> Entry:
    """Return what an exported model is calibrated by: the entry of its facts, but for what was measured.

    Args:
        rules: how it is fitted.
        found: the predictions that fit it.
        told: which images these are, in words.
        note: what else a reader must know of them.
        members: of an average of models their probabilities (M, N, K).
    """
    people, unit = rules.people(found)
    scaling = rules.fit(found, members)
    probs = scaling.apply(found.probs if members is None else members)
    quantile, groups = rules.quantiles(probs, found)
    persons = len(np.unique(people))
    by_class = [len(np.unique(people[found.target == k])) for k in range(probs.shape[1])]
    sets = {
        "score": rules.score,
        "level": rules.config.level,
        "q": finite(quantile),
        "unit": unit,
        "range": list(conformal.coverage_range(persons, rules.config.level)),
    }
    per_group = None
    if groups is not None:
        per_group = {"q": [finite(one) for one in groups.tolist()], "people": by_class}
    return {
        "method": rules.config.method,
        "T": scaling.temperature,
        **(scaling_values(scaling) if scaling.temperature is None else {}),
        "at_end": scaling.at_end,
        "n": len(found),
        "persons": persons,
        "unit": unit,
        "weigh": rules.config.weigh,
        "from": told,
        "note": note,
        "nll": {"before": scaling.before, "after": scaling.after},
        "sets": sets,
        "per_group": per_group,
        "refusal": None,
    }


def scaling_values(scaling: Scaling) -> Mapping[str, list[float]]:
    """Return a scale and a shift per class as plain numbers."""
    return {"scale": scaling.scale.tolist(), "shift": scaling.shift.tolist()}


def finite(value: float) -> float | None:
    """Return a quantile as JSON holds it: None for infinity, the whole set."""
    return value if np.isfinite(value) else None
