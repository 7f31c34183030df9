"""Two results on the same images: what differs between them, by how much, and whether the data can tell.

Accuracies and differences are in percent and points, always second minus first. Single images are resampled:
the data sets record nothing that ties images together. Where several show one bird or one car, the intervals
are too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finegrained.conclusion import conclude
from finegrained.results import FineResult, Predictions, refuse_run_folder
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
    mcnemar,
    paired_cluster_bootstrap,
    student_interval,
    summarise,
)

if TYPE_CHECKING:
    from finegrained.config import CompareConfig

TOP = 5
NO_WIDTH = 1e-9  # points: a bootstrap interval no wider than rounding has not seen any spread
NO_SPREAD = (
    "the difference is the same on all images that are resampled together, so resampling shows no spread"
)
UNCONTROLLED = "not a controlled comparison"  # how `setting_differences` begins the note


def compare_folders(first: Sequence[Path], second: Sequence[Path], config: CompareConfig) -> dict[str, Any]:
    """Compare two run folders, or two lists of seeds; write comparison.json, compare.md and the pictures.

    They go to `config.out`, or else beside the second result (see `finetune.experiments.compare.folder`).
    Pictures show the lowest seed of each side. Returns the comparison with `page`, the place of compare.md,
    and `folders`, those of both sides as seen from there.

    Raises UsageError where that place holds the comparison of other results.
    """
    from finegrained.compare_report import write_comparison

    if config.out:
        refuse_run_folder(Path(config.out))
    a, b = [FineResult.load(folder) for folder in first], [FineResult.load(folder) for folder in second]
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


def compare_results(a: FineResult, b: FineResult, *, resamples: int = 5000, seed: int = 0) -> dict[str, Any]:
    """Return how the second result differs from the first on the same images: a dictionary ready for JSON.

    Args:
        a, b: results of one manifest, layout and split.
        resamples: bootstrap resamples over images.
        seed: of the resampling.

    Returns
        names: what the two are called; n, classes, seeds;
        top1, top5 (None where K <= 5), per_class (mean of the per-class accuracies; images are resampled
            within their class): each {a, b, difference, interval, p}; where resampling never moves the
            difference, interval and p are None and `reason` says why;
        mcnemar: {b, c, p} on top-1: images only the first, only the second has right;
        settings, environment: lists of {field, a, b} that differ; changed: "loss" or "head" where nothing
            else differs, "nothing" where no setting does, else "more";
        notes, conclusion: sentences.

    Raises DataError, with both values, when manifest, layout, split, class names or tested images differ, or
    when the two tested no image.
    """
    comparison = _compare([a], [b], resamples)
    first, second = comparison.pop("pairs")[0]
    comparison["mcnemar"] = mcnemar(first.correct, second.correct)._asdict()
    return _measured(comparison, [(first, second)], resamples, seed)


def compare_seeds(
    list_a: Sequence[FineResult], list_b: Sequence[FineResult], *, resamples: int = 5000, seed: int = 0
) -> dict[str, Any]:
    """Return how the second list of runs differs from the first, paired by seed.

    An image's correctness is averaged over a side's seeds before images are resampled, so that interval is
    about test images for these seeds; `seed_difference` summarises the differences of single seeds with
    Student's interval, which is about seeds for these images. A difference counts as shown when neither holds
    zero.

    Returns what `compare_results` does (without mcnemar), and per_seed [{seed, top1: {a, b, difference},
    mcnemar}], seed_scores {a, b: {mean, sd, n, interval}} of top-1, and seed_difference of the same form; an
    interval is None where all seeds give the same value.
    Raises UsageError unless both sides hold the same seeds, each once, and at least two; DataError as
    `compare_results`.
    """
    seeds_a, seeds_b = (sorted(_seed(result) for result in side) for side in (list_a, list_b))
    if seeds_a != seeds_b or len(set(seeds_a)) < len(seeds_a) or len(seeds_a) < 2:
        raise UsageError(
            "runs are paired by seed: give both sides the same two seeds or more, each once; got "
            f"{seeds_a} and {seeds_b}"
        )
    comparison = _compare(sorted(list_a, key=_seed), sorted(list_b, key=_seed), resamples)
    pairs = comparison.pop("pairs")
    comparison["per_seed"] = [
        {"seed": number, "top1": _single(first, second)}
        | {"mcnemar": mcnemar(first.correct, second.correct)._asdict()}
        for number, (first, second) in zip(comparison["seeds"], pairs, strict=True)
    ]
    columns = {key: [row["top1"][key] for row in comparison["per_seed"]] for key in ("a", "b", "difference")}
    comparison["seed_scores"] = {key: _over_seeds(columns[key]) for key in ("a", "b")}
    comparison["seed_difference"] = _over_seeds(columns["difference"])
    return _measured(comparison, pairs, resamples, seed)


Pair = tuple[Predictions, Predictions]


def _compare(side_a: Sequence[FineResult], side_b: Sequence[FineResult], resamples: int) -> dict[str, Any]:
    """Return what is known before anything is measured; `pairs` holds the aligned predictions."""
    for other in (*side_a[1:], *side_b):
        check_comparable(side_a[0], other)
    frame = side_a[0].predictions.in_order()
    if not len(frame):
        raise DataError(f"{side_a[0].folder} tested no image, so there is nothing to compare")
    aligned = [[_aligned(frame, side_a[0], result) for result in side] for side in (side_a, side_b)]
    settings, notes = setting_differences(side_a, side_b)
    changed = _changed(settings)
    if changed == "head":
        notes = [note for note in notes if not note.startswith(UNCONTROLLED)]
    return {
        "names": _names(side_a[0], side_b[0]),
        "n": len(frame),
        "classes": len(frame.class_names),
        "seeds": [result.run.get("seed") for result in side_a],
        "resamples": resamples,
        "settings": settings,
        "environment": environment_differences(side_a, side_b),
        "changed": changed,
        "notes": notes,
        "pairs": list(zip(*aligned, strict=True)),
    }


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


def _measured(comparison: dict[str, Any], pairs: Sequence[Pair], resamples: int, seed: int) -> dict[str, Any]:
    """Add the measures, each with its paired bootstrap, and the conclusion."""
    target, everyone = pairs[0][0].target, np.arange(len(pairs[0][0]))
    few = len(pairs[0][0].class_names) <= TOP

    def measure(k: int, statistic: Statistic) -> dict[str, Any]:
        first, second = (
            100.0 * np.mean([_hits(p, k) for p in side], axis=0) for side in zip(*pairs, strict=True)
        )
        strata = target if statistic == "mean_of_strata" else None
        tested = paired_cluster_bootstrap(
            first, second, everyone, strata, statistic=statistic, resamples=resamples, seed=seed
        )
        left, right = (_statistic(values, target, statistic) for values in (first, second))
        sizes = {"a": left, "b": right, "difference": tested.difference}
        if np.isclose(tested.low, tested.high, rtol=0, atol=NO_WIDTH):
            same = "they are right and wrong on the same images" if (first == second).all() else NO_SPREAD
            return {**sizes, "interval": None, "p": None, "reason": same}
        return {**sizes, "interval": [tested.low, tested.high], "p": tested.p}

    comparison["top1"] = measure(1, "pooled")
    comparison["top5"] = None if few else measure(TOP, "pooled")
    comparison["per_class"] = measure(1, "mean_of_strata")
    comparison["conclusion"] = conclude(comparison)
    return comparison


def _hits(found: Predictions, k: int) -> np.ndarray:
    """Return whether the target is among the k most probable classes, bool (N,); ties by class order."""
    if k == 1:
        return found.correct
    best = np.argsort(-found.probs, axis=1, kind="stable")[:, :k]
    return np.asarray((best == found.target[:, None]).any(axis=1))


def _statistic(values: np.ndarray, target: np.ndarray, statistic: Statistic) -> float:
    if statistic == "pooled":
        return float(values.mean())
    return float(np.mean([values[target == index].mean() for index in np.unique(target)]))


def _single(first: Predictions, second: Predictions) -> dict[str, float]:
    left, right = (100 * float(side.correct.mean()) for side in (first, second))
    return {"a": left, "b": right, "difference": right - left}


def _over_seeds(values: Sequence[float]) -> dict[str, Any]:
    found = summarise(values)
    flat = found.sd <= NO_WIDTH
    return {**found._asdict(), "interval": None if flat else list(student_interval(values))}


def _aligned(frame: Predictions, owner: FineResult, result: FineResult) -> Predictions:
    """Return a result's predictions in the frame's order; DataError unless they are of the same images."""
    rows = result.predictions.in_order()
    if len(rows) != len(frame) or (rows.path != frame.path).any():
        sides = [set(side.path.tolist()) for side in (frame, rows)]
        lines = [f"{path} only in {owner.folder}" for path in sorted(sides[0] - sides[1])]
        lines += [f"{path} only in {result.folder}" for path in sorted(sides[1] - sides[0])]
        raise DataError(f"not the same test images: {len(frame)} and {len(rows)} rows\n{listing(lines)}")
    bad = np.flatnonzero(frame.target != rows.target)
    if len(bad):
        names = frame.class_names
        lines = [f"{frame.path[i]}: {names[frame.target[i]]} and {names[rows.target[i]]}" for i in bad]
        raise DataError(f"{owner.folder} and {result.folder} differ in the true class:\n{listing(lines)}")
    return rows


def _names(a: FineResult, b: FineResult) -> list[str]:
    """Return the shortest pair of names that tells the two apart: by loss, head, both, folder, or place."""
    heads = [str(result.run.get("head", "unknown head")) for result in (a, b)]
    same_head = heads[0] == heads[1]
    pairs = (
        (a.loss_text, b.loss_text) if same_head else ("", ""),
        (heads[0], heads[1]) if a.loss_text == b.loss_text else ("", ""),
        ("", "") if same_head else (f"{heads[0]} with {a.loss_text}", f"{heads[1]} with {b.loss_text}"),
        (a.folder.name, b.folder.name),
        (str(a.folder), str(b.folder)),
    )
    return list(next(((left, right) for left, right in pairs if left != right), ("A", "B")))


def _seed(result: FineResult) -> int:
    if not isinstance(result.run.get("seed"), int):
        raise DataError(f"{result.folder / 'run.json'} tells no seed, so its run cannot be paired by seed")
    return int(result.run["seed"])
