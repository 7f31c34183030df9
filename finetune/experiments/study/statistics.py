"""The statistics of a study: what every arm scored, and how it differs from the baseline, seed by seed.

Arms are compared by the differences of cells with the same seed. Every repeat is a training seed on the same
training and test images, so intervals and tests are about seeds and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from finetune.experiments.study.arms import BASELINE, Arm
from finetune.experiments.study.cells import Cell
from finetune.experiments.study.conclusion import conclude
from finetune.metrics.bootstrap import holm, student_interval, summarise
from finetune.metrics.intervals import NO_WIDTH, is_shown
from finetune.metrics.paired_tests import SAME_TO, paired_t_test, wilcoxon_signed_rank

Pair = tuple[str, str]  # an arm, and the one it is compared with
ADAPTIVE = ("adam", "adamw", "rmsprop", "adadelta")
TESTS: dict[str, Callable[[Sequence[float], Sequence[float]], float | None]] = {
    "p_t": paired_t_test,
    "p_wilcoxon": wilcoxon_signed_rank,
}


@dataclass(frozen=True)
class Measure:
    """A score of the cells; the first one of a study is in per cent, higher being better.

    Args:
        key: its name in `Cell.scores`.
        label: its name in tables and figures, with its unit: "accuracy (%)".
    """

    key: str
    label: str


def summarise_study(
    cells: Sequence[Cell],
    arms: Sequence[Arm],
    measures: Sequence[Measure],
    *,
    level: float = 0.95,
    adaptive: bool = False,
) -> dict[str, Any]:
    """Return everything that the cells say about the arms, ready for JSON.

    Every arm is compared with cross-entropy (the arm "cel") by the differences of the seeds that both have:
    mean, Student's interval at `level`, the paired t-test and Wilcoxon's signed-rank test. Holm's correction
    is over all arms that are compared with cross-entropy, for each measure and each test separately; an arm
    whose test gives no p counts as one of them. An lr-matched control is compared with its own CRL in the
    same way, in a family of its own.

    Args:
        cells: the finished cells; of an arm there may be fewer than of others.
        arms: of the study, in the order of the tables.
        measures: at least one; the first one decides the conclusion.
        level: of the intervals, in (0, 1); a difference is "shown" at 1 - level.
        adaptive: the optimiser divides by the size of the gradient (`is_adaptive`), so a constant
            factor on a loss makes no longer steps; the sentences on lr-matched controls say so.

    Returns:
        `level`, `adaptive`, `baseline`, `measures`, `family` (arms compared with the baseline), `arms` (per
        arm `name`, `title`, `n`, `diverged`, `unscored` (trainings that say so; those without a finite first
        measure), `measures`, `error`, `seconds`, `devices`, `lr_factor`, `gradient_factor` and
        `gradient_ratio`), `controls` and `conclusion` (sentences). Per measure: `n`, `mean`, `sd` (divisor
        n - 1), `interval`, `values` by seed, and `difference` to the baseline: `n`, `mean`, `sd`, `interval`,
        `higher`, `equal` and `lower` (seeds), `p_t`, `p_t_holm`, `p_wilcoxon`, `p_wilcoxon_holm` and `shown`.

    Raises:
        ValueError: without a measure.
    """
    if not measures:
        raise ValueError("summarise_study needs at least one measure")
    cells = sorted(cells, key=lambda cell: cell.seed)  # sums of floats must not depend on the order
    scores = {measure.key: _scores(cells, measure.key) for measure in measures}
    pairs = [(arm.name, BASELINE) for arm in arms if arm.name != BASELINE]
    matched = [(arm.matches, arm.name) for arm in arms if arm.matches]
    against = {key: _compare(found, pairs, level) for key, found in scores.items()}
    controls = {key: _compare(found, matched, level) for key, found in scores.items()}
    titles = {arm.name: arm.title for arm in arms}
    by = {arm.name: arm.matches_by for arm in arms}
    summary: dict[str, Any] = {
        "level": level,
        "adaptive": adaptive,
        "baseline": BASELINE,
        "measures": [{"key": measure.key, "label": measure.label} for measure in measures],
        "family": sum(found is not None for found in against[measures[0].key].values()),
        "arms": [_arm_row(arm, cells, scores, against, level) for arm in arms],
        "controls": [
            {
                "arm": pair[0],
                "title": titles[pair[0]],
                "control": pair[1],
                "control_title": titles[pair[1]],
                "matches_by": by[pair[1]],
                "measures": {key: found[pair] for key, found in controls.items()},
            }
            for pair in matched
        ],
    }
    return summary | {"conclusion": conclude(summary)}


def is_adaptive(optimizer: str) -> bool:
    """Return whether an optimiser divides by the gradient's size: a factor on a loss changes nothing.

    >>> is_adaptive("sgd"), is_adaptive("adamw")
    (False, True)
    """
    return optimizer in ADAPTIVE


def _scores(cells: Sequence[Cell], key: str) -> dict[str, dict[int, float]]:
    """Return the finite scores of a measure by arm and seed."""
    found: dict[str, dict[int, float]] = {}
    for cell in cells:
        score = cell.scores.get(key)
        if score is not None and math.isfinite(score):
            found.setdefault(cell.arm, {})[cell.seed] = float(score)
    return found


def _arm_row(
    arm: Arm,
    cells: Sequence[Cell],
    scores: Mapping[str, Mapping[str, Mapping[int, float]]],
    against: Mapping[str, Mapping[Pair, Any]],
    level: float,
) -> dict[str, Any]:
    own = [cell for cell in cells if cell.arm == arm.name]
    measured = {}
    for key, found in scores.items():
        spread = _spread(found.get(arm.name, {}), level)
        if spread["sd"] is not None and spread["sd"] <= NO_WIDTH:  # all seeds score alike
            spread["interval"] = None
        measured[key] = spread | {"difference": against[key].get((arm.name, BASELINE))}
    return {
        "name": arm.name,
        "title": arm.title,
        "n": len(own),
        "diverged": sum(bool(cell.facts.get("diverged")) for cell in own),
        "unscored": len(own) - next(iter(measured.values()))["n"],
        "measures": measured,
        "error": _error(next(iter(measured.values()))),
        "seconds": _mean([cell.seconds for cell in own]),
        "devices": sorted({cell.device for cell in own}),
        "lr_factor": _mean([cell.lr_factor for cell in own]),
        "gradient_factor": _mean([cell.gradient_factor for cell in own]),
        "gradient_ratio": _mean([cell.gradient_ratio for cell in own]),
    }


def _spread(values: Mapping[int, float], level: float) -> dict[str, Any]:
    """Return n, mean, sd, interval and the values; None for what so few values do not have."""
    row: dict[str, Any] = {"n": len(values), "mean": None, "sd": None, "interval": None}
    if values:
        mean, sd, n = summarise(list(values.values()))
        row["mean"] = mean
        if n > 1:
            row |= {"sd": sd, "interval": list(student_interval(list(values.values()), level))}
    return row | {"values": {str(seed): values[seed] for seed in sorted(values)}}


def _error(measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean of 100 minus the first measure, and its interval."""
    mean, ends = measured["mean"], measured["interval"]
    return {
        "mean": None if mean is None else 100 - mean,
        "interval": None if ends is None else [100 - ends[1], 100 - ends[0]],
    }


def _compare(
    scores: Mapping[str, Mapping[int, float]], pairs: Sequence[Pair], level: float
) -> dict[Pair, dict[str, Any] | None]:
    """Return every pair's difference (first minus second), corrected over all; None without a common seed."""
    found = {pair: _difference(scores.get(pair[0], {}), scores.get(pair[1], {}), level) for pair in pairs}
    rows = [row for row in found.values() if row is not None]
    for test in TESTS:
        given = [row[test] for row in rows]
        adjusted = holm([1.0 if p is None else p for p in given])
        for row, p, corrected in zip(rows, given, adjusted, strict=True):
            row[f"{test}_holm"] = None if p is None else float(corrected)
    for row in rows:
        row["shown"] = _is_shown(row, 1 - level)
    return found


def _difference(
    first: Mapping[int, float], second: Mapping[int, float], level: float
) -> dict[str, Any] | None:
    seeds = sorted(set(first) & set(second))
    if not seeds:
        return None
    a, b = [second[seed] for seed in seeds], [first[seed] for seed in seeds]
    differences = {seed: round(first[seed] - second[seed], SAME_TO) for seed in seeds}
    row = _spread(differences, level)
    row |= {
        "higher": sum(each > 0 for each in differences.values()),
        "equal": sum(each == 0 for each in differences.values()),
        "lower": sum(each < 0 for each in differences.values()),
    }
    return row | {test: run(a, b) if len(seeds) > 1 else None for test, run in TESTS.items()}


def _is_shown(row: Mapping[str, Any], limit: float) -> bool:
    return is_shown(row["interval"], row["p_t_holm"], limit)


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return fmean(finite) if finite else None
