"""Two results on the same images: what differs between them, by how much, and whether the data show it.

Accuracies and differences are in percent and points, always second minus first. What is resampled is the
task's to say: whole subjects where images of one subject are tied together, else single images. Where
nothing is recorded that ties images together although something does, the intervals are too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.cli.console import say
from finetune.errors import DataError, UsageError
from finetune.experiments.compare.alignment import aligned
from finetune.experiments.compare.conclusion import conclude
from finetune.experiments.compare.folder import place_comparison, write_record
from finetune.experiments.config import CompareConfig
from finetune.experiments.measures import Measure, Resampling
from finetune.experiments.probabilities.scores import compared_probabilities
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.run_settings import (
    check_comparable,
    environment_differences,
    is_loss,
    refuse_unlike_precision,
    setting_differences,
)
from finetune.experiments.result import Result, refuse_run_folder
from finetune.experiments.task import Task, measures_for
from finetune.metrics.bootstrap import (
    Statistic,
    mcnemar,
    paired_cluster_bootstrap,
    student_interval,
    summarise,
)
from finetune.metrics.intervals import NO_WIDTH, WILSON

NO_SPREAD = (
    "the difference is the same on all images that are resampled together, so resampling shows no spread"
)
SAME_HITS = "both predict the same images correctly"
UNCONTROLLED = "not a controlled comparison"  # how `setting_differences` begins the note

Pair = tuple[Predictions, Predictions]


def compare_folders(
    task: Task, first: Sequence[Path], second: Sequence[Path], config: CompareConfig
) -> dict[str, Any]:
    """Compare two result folders, or two lists of seeds; write comparison.json, compare.md and the figures.

    They go to `config.out`, or else beside the second result (see `finetune.experiments.compare.folder`).
    Figures show the lowest seed of each side. Returns the comparison with `page`, where compare.md lies, and
    `folders`, those of both sides as seen from there.

    Raises UsageError where that place holds the comparison of other results, or is a run's own folder;
    DataError for runs trained in different number formats, unless that is allowed.
    """
    from finetune.experiments.compare.page import write_comparison

    if config.out:
        refuse_run_folder(Path(config.out))
    a, b = ([Result.load(folder, task.form) for folder in side] for side in (first, second))
    refuse_unlike_precision([*a, *b], allowed=config.allow_precision)
    several = len(a) > 1 or len(b) > 1
    if several:
        a, b = (sorted(side, key=lambda result: result.seed) for side in (a, b))
    out, sides = place_comparison(config.out, [one.folder for one in a], [one.folder for one in b])
    if several:
        comparison = compare_seeds(task, a, b, resamples=config.resamples)
    else:
        comparison = compare_results(task, a[0], b[0], resamples=config.resamples)
    page = write_comparison(task, a[0], b[0], comparison, out, pictures=config.pictures, people=config.people)
    comparison = write_record(out, comparison, page, sides)
    say(f"{comparison['conclusion']}\nthe comparison lies in {page}")
    return comparison


def compare_results(
    task: Task, a: Result, b: Result, *, resamples: int = 5000, seed: int = 0
) -> dict[str, Any]:
    """Return how the second result differs from the first on the same images: a dictionary ready for JSON.

    Args:
        task: that both are results of.
        a, b: results of one manifest, policy and split.
        resamples: bootstrap resamples over the task's clusters.
        seed: of the resampling.

    Returns
        names: what the two are called; unit: what is resampled; n, classes, folds, seeds, resamples; where
            clusters hold several images also subjects, users and effective_subjects (Kish);
        a key for each of the task's compared measures (exact, one_off; top1, top5, per_class), None where
            there are too few classes for it, else: {a, b, difference, interval, p}, and over folds also
            per_fold, pooled {a, b, difference, interval, p} (None of images tested twice) and, where users
            hold several, by_user {difference, interval, p, clusters}; where resampling never moves it, it is
            by the `method` "Wilson" and `reason` says why; p is None where parts differ;
        probabilities: calibration errors and the area under the risk-coverage curve, {a, b} in percent;
        mcnemar: {b, c, p} on the headline measure: images only the first, only the second predicts correctly
            (where the classes have that measure);
        settings, environment: lists of {field, a, b} that differ; changed: "loss" or "head" where nothing
            else differs, "nothing" where no setting does, else "more"; controlled: whether at most the loss
            does;
        majority: the fraction of the images in the most frequent class, in percent: what guessing scores;
        warnings: what the runs warned of, each with the run's folder;
        notes, conclusion: sentences.

    Raises DataError, with both values, when manifest, policy, split, class names or tested images differ, or
    when nothing was tested.
    """
    comparison, pairs = _frame(task, [a], [b], resamples)
    first, second = pairs[0]
    if task.measures[0].applies(first.class_names):
        comparison["mcnemar"] = mcnemar(first.correct, second.correct)._asdict()
    comparison["probabilities"] = compared_probabilities(task, first, second, resamples=resamples, seed=seed)
    return _measured(comparison, task, pairs, seed)


def compare_seeds(
    task: Task,
    list_a: Sequence[Result],
    list_b: Sequence[Result],
    *,
    resamples: int = 5000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return how the second list of runs differs from the first, paired by seed.

    An image's correctness is averaged over a side's seeds before clusters are resampled, so that interval is
    about test images for these seeds; `seed_difference` summarises the differences of single seeds with
    Student's interval, which is about seeds for these images. A difference counts as shown when neither
    contains zero.

    Returns what `compare_results` does (without mcnemar), and per_seed [{seed, mcnemar, and by measure {a, b,
    difference}}], seed_scores {measure: {a, b: {mean, sd, n, interval}}} and seed_difference {measure: the
    same}; an interval is None where all seeds give the same value.
    Raises UsageError unless both sides hold the same seeds, each once, and at least two; DataError as
    `compare_results`.
    """
    seeds_a, seeds_b = (sorted(result.seed for result in side) for side in (list_a, list_b))
    if seeds_a != seeds_b or len(set(seeds_a)) < len(seeds_a) or len(seeds_a) < 2:
        raise UsageError(
            "runs are paired by seed: give both sides the same two seeds or more, each once; got "
            f"{seeds_a} and {seeds_b}"
        )
    sides = [sorted(side, key=lambda result: result.seed) for side in (list_a, list_b)]
    comparison, pairs = _frame(task, sides[0], sides[1], resamples)
    frame = pairs[0][0]
    rows = []
    for number, (first, second) in zip(comparison["seeds"], pairs, strict=True):
        test = mcnemar(first.correct, second.correct)._asdict()
        sizes = {m.key: _sizes(m, first, second) for m in _compared(task, frame)}
        rows.append({"seed": number, **sizes, "mcnemar": test})
    comparison |= {"per_seed": rows, "seed_scores": {}, "seed_difference": {}}
    for measure in _compared(task, frame):
        found = {
            key: _over_seeds([row[measure.key][key] for row in rows]) for key in ("a", "b", "difference")
        }
        comparison["seed_scores"][measure.key] = {"a": found["a"], "b": found["b"]}
        comparison["seed_difference"][measure.key] = found["difference"]
    return _measured(comparison, task, pairs, seed)


def _frame(
    task: Task, side_a: Sequence[Result], side_b: Sequence[Result], resamples: int
) -> tuple[dict[str, Any], list[Pair]]:
    """Return what is known before anything is measured, and the aligned predictions of each pair."""
    for other in (*side_a[1:], *side_b):
        check_comparable(side_a[0], other)
    frame = side_a[0].predictions.in_order()
    if not len(frame):
        raise DataError(f"{side_a[0].folder} tested no image, so there is nothing to compare")
    first, second = ([aligned(frame, side_a[0], result) for result in side] for side in (side_a, side_b))
    settings, notes = setting_differences(side_a, side_b)
    changed = _changed(settings)
    if changed == "head":
        notes = [note for note in notes if not note.startswith(UNCONTROLLED)]
    comparison = {
        "names": _names(side_a[0], side_b[0]),
        "unit": task.resampling(frame).unit,
        "n": len(frame),
        "classes": len(frame.class_names),
        "majority": 100 * float(np.bincount(frame.target).max() / len(frame)),
        "warnings": _warnings([*side_a, *side_b]),
        **task.tested(frame),
        "folds": [int(fold) for fold in np.unique(frame.fold)],
        "seeds": [result.record.seed for result in side_a],
        "resamples": resamples,
        "settings": settings,
        "environment": environment_differences(side_a, side_b),
        "changed": changed,
        "controlled": changed in ("nothing", "loss"),
        "notes": notes,
    }
    return comparison, list(zip(first, second, strict=True))


def _warnings(results: Sequence[Result]) -> list[str]:
    """Return what the runs warned of; what all of them say stands without a name."""
    told: dict[str, list[str]] = {}
    for result in results:
        for text in result.record.warnings or ():
            told.setdefault(text, []).append(result.folder.name)
    return [text if len(own) == len(results) else f"{', '.join(own)}: {text}" for text, own in told.items()]


def _changed(settings: Sequence[Mapping[str, Any]]) -> str:
    """Return the one thing that differs: "loss", "head" or "nothing"; "more" where there are several."""
    fields = [str(item["field"]) for item in settings]
    if not fields:
        return "nothing"
    if all(is_loss(field) for field in fields):
        return "loss"
    return "head" if all(_is_head(field) for field in fields) else "more"


def _is_head(field: str) -> bool:
    return field.partition(".")[0] in ("head", "head_options")


def _compared(task: Task, frame: Predictions) -> list[Measure]:
    """Return the measures of this comparison that these classes have."""
    names = frame.class_names
    return [m for m in measures_for(task, "compare", names) if m.hits and m.applies(names)]


def _measured(comparison: dict[str, Any], task: Task, pairs: Sequence[Pair], seed: int) -> dict[str, Any]:
    """Add the measures, each with its paired bootstrap, and the conclusion."""
    frame, compared = pairs[0][0], _compared(task, pairs[0][0])
    resampling = task.resampling(frame)
    for measure in measures_for(task, "compare"):
        if measure not in compared:
            comparison[measure.key] = None
            continue
        first, second = (
            np.mean([_hits(measure, p) for p in side], axis=0) for side in zip(*pairs, strict=True)
        )
        comparison[measure.key] = _measure(
            measure, first, second, frame, resampling, comparison["resamples"], seed
        )
    told = measures_for(task, "conclusion")
    comparison["conclusion"] = conclude(comparison, told, task.measures[0])
    return comparison


def _measure(
    measure: Measure,
    first: np.ndarray,
    second: np.ndarray,
    frame: Predictions,
    resampling: Resampling,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Compare two columns of (mean) hits in percent, or of values in the measure's unit, float (N,)."""
    strata = _strata(measure, frame)
    statistic: Statistic = "pooled" if strata is None else "mean_of_strata"
    within = strata if measure.over == "classes" else resampling.strata

    def tested(clusters: np.ndarray, how: Statistic) -> dict[str, Any]:
        paired = paired_cluster_bootstrap(
            first,
            second,
            clusters,
            within,
            statistic=how,
            resamples=resamples,
            seed=seed,
            percent=measure.is_percent,
        )
        p = paired.p if np.isfinite(paired.p) else None
        test = {"difference": paired.difference, "interval": [paired.low, paired.high], "p": p}
        if paired.method != WILSON:
            return test
        why = SAME_HITS if np.abs(second - first).max() <= NO_WIDTH else NO_SPREAD
        return test | {"method": WILSON, "reason": why}

    found = {
        "a": _mean(first, strata),
        "b": _mean(second, strata),
        **tested(resampling.clusters, statistic),
    }
    if measure.over != "folds":
        return found
    folds = [frame.fold == fold for fold in np.unique(frame.fold)]
    pooled = {"a": float(first.mean()), "b": float(second.mean()), **tested(resampling.clusters, "pooled")}
    found |= {
        "per_fold": [float(second[rows].mean()) - float(first[rows].mean()) for rows in folds],
        "pooled": None if frame.tested_again else pooled,
    }
    for unit, clusters in resampling.further.items():
        found[f"by_{unit}"] = tested(clusters, statistic) | {"clusters": len(np.unique(clusters))}
    return found


def _strata(measure: Measure, frame: Predictions) -> np.ndarray | None:
    """Return the parts whose means are averaged, (N,); None where all images count alike."""
    return {"folds": frame.fold, "classes": frame.target, "images": None}[measure.over]


def _hits(measure: Measure, found: Predictions) -> np.ndarray:
    assert measure.hits is not None
    return np.asarray((100.0 if measure.is_percent else 1.0) * measure.hits(found))


def _mean(values: np.ndarray, strata: np.ndarray | None) -> float:
    if strata is None:
        return float(values.mean())
    return float(np.mean([values[strata == level].mean() for level in np.unique(strata)]))


def _sizes(measure: Measure, first: Predictions, second: Predictions) -> dict[str, float]:
    left, right = (_mean(_hits(measure, side), _strata(measure, side)) for side in (first, second))
    return {"a": left, "b": right, "difference": right - left}


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    found = summarise(values)
    flat = found.sd <= NO_WIDTH
    return {**found._asdict(), "interval": None if flat else list(student_interval(values))}


def _names(a: Result, b: Result) -> list[str]:
    """Return the shortest pair of names that tells the two apart: by loss, head, both, folder, or place."""
    heads = [str(result.record.head or "unknown head") for result in (a, b)]
    same_head = heads[0] == heads[1]
    pairs = (
        (a.loss_text, b.loss_text) if same_head else ("", ""),
        (heads[0], heads[1]) if a.loss_text == b.loss_text else ("", ""),
        ("", "") if same_head else (f"{heads[0]} with {a.loss_text}", f"{heads[1]} with {b.loss_text}"),
        (a.folder.name, b.folder.name),
        (str(a.folder), str(b.folder)),
    )
    return list(next(((left, right) for left, right in pairs if left != right), ("A", "B")))
