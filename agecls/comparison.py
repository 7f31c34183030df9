"""Two results on the same images: what differs between them, by how much, and whether the data can tell.

Accuracies and differences are in percent and points, always second minus first. The unit that is resampled is
the person; where persons come in albums, whole albums are resampled as a second, more cautious look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agecls.results import AgeResult, Predictions
from finetune.cli.console import say
from finetune.errors import DataError, UsageError, listing
from finetune.experiments.compare.folder import place_comparison, write_record
from finetune.experiments.run_settings import (
    check_comparable,
    environment_differences,
    is_loss,
    setting_differences,
)
from finetune.metrics.bootstrap import (
    Statistic,
    effective_clusters,
    mcnemar,
    paired_cluster_bootstrap,
    student_interval,
    summarise,
)

if TYPE_CHECKING:
    from agecls.config import CompareConfig


def compare_folders(first: Sequence[Path], second: Sequence[Path], config: CompareConfig) -> dict[str, Any]:
    """Compare two result folders, or two lists of seeds; write comparison.json, compare.md and the pictures.

    They go to `config.out`, or else beside the second result (see `finetune.experiments.compare.folder`).
    Pictures show the lowest seed of each side. Returns the comparison with `page`, the place of compare.md,
    and `folders`, those of both sides as seen from there.

    Raises UsageError where that place holds the comparison of other results.
    """
    from agecls.compare_report import write_comparison

    a, b = [AgeResult.load(folder) for folder in first], [AgeResult.load(folder) for folder in second]
    several = len(a) > 1 or len(b) > 1
    if several:
        a, b = sorted(a, key=_seed), sorted(b, key=_seed)
    out, sides = place_comparison(config.out, [one.folder for one in a], [one.folder for one in b])
    if several:
        comparison = compare_seeds(a, b, resamples=config.resamples)
    else:
        comparison = compare_results(a[0], b[0], resamples=config.resamples)
    page = write_comparison(a[0], b[0], comparison, out, pictures=config.pictures)
    comparison = write_record(out, comparison, page, sides)
    say(f"{comparison['conclusion']}\nthe comparison lies in {page}")
    return comparison


def compare_results(a: AgeResult, b: AgeResult, *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Return how the second result differs from the first on the same images: a dictionary ready for JSON.

    Args:
        a, b: results of one manifest, label policy and split.
        resamples: bootstrap resamples over subjects within folds.
        seed: of the resampling.

    Returns
        names: what the two are called; n, subjects, users, effective_subjects (Kish), folds, seeds;
        exact, one_off: each {a, b, difference, interval, p (mean over folds; subjects resampled), per_fold,
            pooled {a, b, difference, interval, p}, by_user {difference, interval, p, clusters} or None};
        mcnemar: {b, c, p} on exact: images only the first, only the second has right; images as independent;
        settings, environment: lists of {field, a, b} that differ; controlled: whether only the loss does;
        notes, conclusion: sentences.

    Raises DataError, with both values, when manifest, policy, split, class names or tested images differ.
    """
    comparison = _compare([a], [b], resamples, seed)
    first, second = comparison.pop("pairs")[0]
    return comparison | {"mcnemar": mcnemar(first.correct, second.correct)._asdict()}


def compare_seeds(
    list_a: Sequence[AgeResult], list_b: Sequence[AgeResult], *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Return how the second list of runs differs from the first, paired by seed.

    An image's correctness is averaged over a side's seeds before subjects are resampled, so that interval is
    about test subjects for these seeds; `seed_difference` summarises the differences of single seeds with
    Student's interval, which is about seeds for these subjects. A difference counts as shown when neither
    holds zero.

    Returns what `compare_results` does (without mcnemar), and per_seed [{seed, exact, one_off, mcnemar}]
    (mean over folds) and seed_difference {exact, one_off: {mean, sd, n, interval}} (of two seeds or more).
    Raises UsageError unless both sides hold the same seeds, each once; DataError as `compare_results`.
    """
    seeds_a, seeds_b = (sorted(_seed(result) for result in side) for side in (list_a, list_b))
    if seeds_a != seeds_b or len(set(seeds_a)) < len(seeds_a) or not seeds_a:
        raise UsageError(
            f"runs are paired by seed: give both sides the same seeds, each once; got {seeds_a} and {seeds_b}"
        )
    comparison = _compare(sorted(list_a, key=_seed), sorted(list_b, key=_seed), resamples, seed)
    per_seed = []
    for number, (first, second) in zip(comparison["seeds"], comparison.pop("pairs"), strict=True):
        differences = {
            name: float(np.mean(values)) for name, values in _fold_differences(first, second).items()
        }
        test = mcnemar(first.correct, second.correct)._asdict()
        per_seed.append({"seed": number, **differences, "mcnemar": test})
    return comparison | {"per_seed": per_seed}


def _compare(
    side_a: Sequence[AgeResult], side_b: Sequence[AgeResult], resamples: int, seed: int
) -> dict[str, Any]:
    """Compare two sides run by run; `pairs` holds the aligned predictions."""
    for other in (*side_a[1:], *side_b):
        check_comparable(side_a[0], other)
    frame = side_a[0].predictions.in_order()
    aligned = [[_aligned(frame, side_a[0], result) for result in side] for side in (side_a, side_b)]
    settings, notes = setting_differences(side_a, side_b)
    result: dict[str, Any] = {
        "names": _names(side_a[0], side_b[0]),
        "n": len(frame),
        "subjects": len(np.unique(frame.subject)),
        "users": len(np.unique(frame.user)),
        "effective_subjects": effective_clusters(frame.subject),
        "folds": [int(fold) for fold in np.unique(frame.fold)],
        "seeds": [result.run.get("seed") for result in side_a],
        "settings": settings,
        "environment": environment_differences(side_a, side_b),
        "controlled": all(is_loss(item["field"]) for item in settings),
        "notes": notes,
        "pairs": list(zip(*aligned, strict=True)),
    }
    hits = {
        "exact": [[p.correct for p in side] for side in aligned],
        "one_off": [[p.one_off for p in side] for side in aligned],
    }
    for measure, (first, second) in hits.items():
        result[measure] = _measure(np.mean(first, axis=0), np.mean(second, axis=0), frame, resamples, seed)
    if len(side_a) > 1:
        per_seed = [_fold_differences(first, second) for first, second in result["pairs"]]
        result["seed_difference"] = {
            measure: _over_seeds([float(np.mean(values[measure])) for values in per_seed]) for measure in hits
        }
    result["conclusion"] = conclude(result)
    return result


def _measure(
    first: np.ndarray, second: np.ndarray, frame: Predictions, resamples: int, seed: int
) -> dict[str, Any]:
    """Compare two columns of (mean) hits, float (N,)."""
    first, second = 100.0 * first, 100.0 * second

    def tested(clusters: np.ndarray, statistic: Statistic) -> dict[str, Any]:
        paired = paired_cluster_bootstrap(
            first, second, clusters, frame.fold, statistic=statistic, resamples=resamples, seed=seed
        )
        return {"difference": paired.difference, "interval": [paired.low, paired.high], "p": paired.p}

    folds = [frame.fold == fold for fold in np.unique(frame.fold)]
    means = [[float(side[rows].mean()) for rows in folds] for side in (first, second)]
    by_user = None
    if len(np.unique(frame.user)) != len(np.unique(frame.subject)):
        by_user = tested(frame.user, "mean_of_strata") | {"clusters": len(np.unique(frame.user))}
    pooled = {"a": float(first.mean()), "b": float(second.mean()), **tested(frame.subject, "pooled")}
    return {
        "a": float(np.mean(means[0])),
        "b": float(np.mean(means[1])),
        **tested(frame.subject, "mean_of_strata"),
        "per_fold": [right - left for left, right in zip(*means, strict=True)],
        "pooled": pooled,
        "by_user": by_user,
    }


def _fold_differences(first: Predictions, second: Predictions) -> dict[str, list[float]]:
    folds = [first.fold == fold for fold in np.unique(first.fold)]
    columns = {"exact": (first.correct, second.correct), "one_off": (first.one_off, second.one_off)}
    return {
        measure: [100 * float(right[rows].mean() - left[rows].mean()) for rows in folds]
        for measure, (left, right) in columns.items()
    }


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    return {**summarise(values)._asdict(), "interval": list(student_interval(values))}


def _aligned(frame: Predictions, owner: AgeResult, result: AgeResult) -> Predictions:
    """Return a result's predictions in the frame's order; DataError unless they are of the same images."""
    rows = result.predictions.in_order()
    if len(rows) != len(frame) or (rows.path != frame.path).any() or (rows.fold != frame.fold).any():
        sides = [set(zip(p.path.tolist(), p.fold.tolist(), strict=True)) for p in (frame, rows)]
        lines = [f"{path} (fold {fold}) only in {owner.folder}" for path, fold in sorted(sides[0] - sides[1])]
        lines += [
            f"{path} (fold {fold}) only in {result.folder}" for path, fold in sorted(sides[1] - sides[0])
        ]
        raise DataError(f"not the same test images: {len(frame)} and {len(rows)} rows\n{listing(lines)}")
    for name, left, right in (
        ("target", frame.target, rows.target),
        ("subject", frame.subject, rows.subject),
        ("user", frame.user, rows.user),
    ):
        bad = np.flatnonzero(left != right)
        if len(bad):
            lines = [f"{frame.path[row]}: {left[row]} and {right[row]}" for row in bad]
            raise DataError(f"{owner.folder} and {result.folder} differ in {name}:\n{listing(lines)}")
    return rows


def conclude(comparison: Mapping[str, Any]) -> str:
    """Return, in plain words, what the data support: exact, then one-off accuracy, then the limits."""
    sentences = [_sentence(comparison, "exact"), _sentence(comparison, "one_off")]
    if len(comparison["seeds"]) < 2:
        sentences.append(
            "One seed a side: the intervals tell of other test subjects, not of other training seeds."
        )
    sentences += [f"{note[0].upper()}{note[1:]}." for note in comparison["notes"]]
    return " ".join(sentences)


def _sentence(comparison: Mapping[str, Any], measure: str) -> str:
    (first, second), found = comparison["names"], comparison[measure]
    what = {"exact": "exact accuracy", "one_off": "one-off accuracy"}[measure]
    low, high = found["interval"]
    size = (
        f"{found['difference']:+.2f} points (95 % interval {low:+.2f} to {high:+.2f}, p = {found['p']:.2g})"
    )
    where = f"{comparison['n']} images of {comparison['subjects']} subjects"
    if _holds_zero(found["interval"]):
        return f"No difference in {what} was shown: {second} minus {first} is {size} on {where}."
    doubts = []
    if found["by_user"] and _holds_zero(found["by_user"]["interval"]):
        doubts.append(f"{found['by_user']['clusters']} whole albums instead of subjects are resampled")
    seeds = comparison.get("seed_difference", {}).get(measure)
    if seeds and _holds_zero(seeds["interval"]):
        doubts.append(f"the {seeds['n']} seeds are taken as the sample (sd {seeds['sd']:.2f})")
    direction = "higher" if found["difference"] > 0 else "lower"
    claim = f"{second} is {direction} than {first} in {what} by {size} on {where}"
    if doubts:
        when = " and when ".join(doubts)
        return f"No difference in {what} was shown: {claim}, but the interval holds zero when {when}."
    return f"{claim}."


def _holds_zero(interval: Sequence[float]) -> bool:
    return bool(interval[0] <= 0 <= interval[1])


def _names(a: AgeResult, b: AgeResult) -> list[str]:
    """Return the shortest pair of names that tells the two apart: by loss, by folder, or by place."""
    pairs = ((a.loss_text, b.loss_text), (a.folder.name, b.folder.name), (str(a.folder), str(b.folder)))
    return list(next(((left, right) for left, right in pairs if left != right), ("A", "B")))


def _seed(result: AgeResult) -> int:
    if not isinstance(result.run.get("seed"), int):
        raise DataError(f"{result.folder / 'run.json'} tells no seed, so its run cannot be paired by seed")
    return int(result.run["seed"])
