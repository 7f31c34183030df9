"""Two results side by side, as a page: compare.md with the paired tests, the gallery and the heat maps.

Every number and the conclusion come from the comparison (`finetune.experiments.compare.compare`); no sentence
here says that one result is better than the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.experiments.measures import Measure
from finetune.experiments.probabilities.scores import compared_section
from finetune.experiments.result import Result
from finetune.experiments.sections import warnings_section
from finetune.experiments.task import Task, measures_for
from finetune.figures.lettering import class_numbers
from finetune.figures.markdown import (
    NOT_MEASURED,
    escape,
    interval,
    number,
    p_text,
    page,
    points,
    show_pictures,
    table,
)
from finetune.runs.files import write_bytes

Comparison = Mapping[str, Any]
CONTROLLED = {
    "nothing": "No setting differs.",
    "loss": "Only the loss differs.",
    "head": "Only the head differs.",
}
UNCONTROLLED = (
    "**Not a controlled comparison**: more than the loss alone, or the head alone, differs, so no difference "
    "can be attributed to one of them."
)


def write_comparison(
    task: Task,
    a: Result,
    b: Result,
    comparison: Comparison,
    out: Path,
    *,
    pictures: bool = True,
    people: bool | None = None,
) -> Path:
    """Write compare.md and its figures into the folder `out`; return the page.

    Args:
        task: that both are results of.
        a, b: the two results; where several seeds were compared, one of each side, for the figures.
        comparison: what `compare_results` or `compare_seeds` returned for them.
        out: a folder; it is made if need be.
        pictures: draw the gallery of disagreements and the heat maps.
        people: whether figures may show people; None leaves it to the results.
    """
    out.mkdir(parents=True, exist_ok=True)
    if people is not None:
        a, b = a.showing_people(people), b.showing_people(people)
    with class_numbers(a.class_names, "the runs' report.json has the names"):
        drawn = task.draw_comparison(a, b, comparison["names"], out) if pictures else []
    first, second = map(escape, comparison["names"])
    sections = (
        ("Conclusion", escape(comparison["conclusion"])),
        ("Warnings", warnings_section(comparison)),
        ("Differences", differences(comparison, task)),
        ("Probabilities", compared_section(comparison.get("probabilities"), comparison["names"])),
        ("Folds", per_fold(comparison, task)),
        ("Seeds", per_seed(comparison, task)),
        ("What differs", what_differs(comparison)),
        ("Figures", show_pictures(drawn)),
    )
    file = out / "compare.md"
    write_bytes(file, page(f"{second} against {first}", sections).encode())
    return file


def differences(comparison: Comparison, task: Task) -> str:
    """Return the table of the accuracies of both results, with the paired difference and its test."""
    first, second = map(escape, comparison["names"])
    header = ["accuracy (%)", first, second, "difference (points)", "95 % interval", "p"]
    rows = []
    notes = _resampled(comparison, task)
    present = _present(comparison, task)
    if not all(measure.is_percent for measure, _ in present):
        header[0], header[3] = "score", "difference"
    for measure, found in present:
        rows += [[words, *_cells(kind)] for words, kind in _kinds(measure, found)]
        if found.get("reason"):
            notes += f" {found['method']} interval for the {measure.label}: {found['reason']}."
    concluded = _concluded(comparison, task)
    if len(concluded) < len(rows):
        about = " and ".join(measure.label for measure in concluded)
        notes += f" The conclusion is about {about}; p is not corrected for looking several times."
    test = comparison.get("mcnemar")
    if test:
        notes += (
            f" McNemar's exact test on {task.measures[0].label}: {test['b']:,} images only the first has "
            f"correct, {test['c']:,} only the second, p {p_text(test['p'], equals=True)}"
        )
        tied = "; it takes images as independent, which those of one subject are not."
        notes += tied if comparison["unit"] != "image" else "."
    return f"{table(header, rows)}\n\n{notes}"


def _resampled(comparison: Comparison, task: Task) -> str:
    """Return the sentences that say what is compared, and what is resampled how often."""
    unit = comparison["unit"]
    where = f"{comparison['n']:,} images of {comparison['classes']:,} classes"
    if "subjects" in comparison:
        equal = number(comparison["effective_subjects"], 0)
        where += f" and {comparison['subjects']:,} subjects (in effect {equal} of equal weight)"
    over = {measure.over for measure, _ in _present(comparison, task)}
    within = " within folds" if "folds" in over else "; for the mean over classes within each class"
    whole = "images" if unit == "image" else f"whole {unit}s"
    return (
        f"Second minus first on the same {where}. Intervals and p resample {whole}, paired, "
        f"{comparison['resamples']:,} times{within}. An interval that contains zero shows no difference."
    )


def _present(comparison: Comparison, task: Task) -> list[tuple[Measure, Mapping[str, Any]]]:
    measures = measures_for(task, "compare")
    return [(measure, comparison[measure.key]) for measure in measures if comparison[measure.key]]


def _concluded(comparison: Comparison, task: Task) -> list[Measure]:
    """Return the measures that the conclusion is about."""
    return [measure for measure in measures_for(task, "conclusion") if comparison[measure.key]]


def _kinds(measure: Measure, found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the rows of one measure: its words, with its unit unless it is percent, and its numbers."""
    words = measure.label if measure.is_percent else f"{measure.label} ({measure.unit})"
    if measure.over != "folds":
        return [(words, found)]
    rows = [(f"{words}, mean over folds", found), (f"{words}, pooled over images", found["pooled"])]
    if found["pooled"] is None:
        rows.pop()
    for key in found:
        if key.startswith("by_") and found[key]:
            unit = f"{found[key]['clusters']:,} {key.removeprefix('by_')}s resampled"
            rows.append((f"{words}, mean over folds, {unit}", {**found, **found[key]}))
    return rows


def _cells(found: Mapping[str, Any]) -> list[str]:
    size = [number(found["a"]), number(found["b"]), f"{found['difference']:+.2f}"]
    method = f" ({found['method']})" if "method" in found else ""
    return [*size, f"{points(found['interval'])}{method}", escape(p_text(found["p"]))]


def per_fold(comparison: Comparison, task: Task) -> str | None:
    """Return the table of differences per fold; None where there is one test part."""
    found = [(m, numbers) for m, numbers in _present(comparison, task) if "per_fold" in numbers]
    if not found:
        return None
    columns = zip(comparison["folds"], *(numbers["per_fold"] for _, numbers in found), strict=True)
    rows = [[str(fold), *(f"{value:+.2f}" for value in values)] for fold, *values in columns]
    return table(["fold", *(f"{measure.label}: difference" for measure, _ in found)], rows)


def per_seed(comparison: Comparison, task: Task) -> str | None:
    """Return a table per concluded measure: each seed, mean, sd and interval; None for one seed."""
    if not comparison.get("per_seed"):
        return None
    single = comparison["unit"] == "image"  # else images are not independent, as McNemar's test takes them
    tables = [
        _seed_table(comparison, measure, mcnemar=single and measure is task.measures[0])
        for measure in _concluded(comparison, task)
    ]
    notes = (
        f"Intervals are Student's over {len(comparison['seeds'])} seeds, for these test "
        f"{comparison['unit']}s; sd divides by n - 1. Seeds of both sides are paired."
    )
    return "\n\n".join([*tables, notes])


def _seed_table(comparison: Comparison, measure: Measure, *, mcnemar: bool) -> str:
    first, second = map(escape, comparison["names"])
    header = [f"{measure.label} ({measure.unit})", first, second, "difference"]
    rows = [[f"seed {row['seed']}", *_seed_cells(row[measure.key])] for row in comparison["per_seed"]]
    spread: list[str] = []
    if mcnemar:
        header.append("McNemar's p")
        rows = [
            [*cells, escape(p_text(row["mcnemar"]["p"]))]
            for cells, row in zip(rows, comparison["per_seed"], strict=True)
        ]
        spread = [""]
    scores = comparison["seed_scores"][measure.key]
    sides = [scores["a"], scores["b"], comparison["seed_difference"][measure.key]]
    rows += [
        ["mean ± sd", *(f"{number(side['mean'])} ± {number(side['sd'])}" for side in sides), *spread],
        ["95 % interval", *(interval(side["interval"], 2) for side in sides), *spread],
    ]
    return table(header, rows)


def _seed_cells(found: Mapping[str, float]) -> list[str]:
    return [number(found["a"]), number(found["b"]), f"{found['difference']:+.2f}"]


def what_differs(comparison: Comparison) -> str:
    """Return the settings that differ and whether the loss alone, or the head alone, does."""
    lead = CONTROLLED.get(comparison["changed"], UNCONTROLLED)
    first, second = map(escape, comparison["names"])
    items: Sequence[Mapping[str, Any]] = [*comparison["settings"], *comparison["environment"]]
    if not items:
        return lead
    rows = [[escape(item["field"]), *(_cell(item[side]) for side in ("a", "b"))] for item in items]
    return f"{lead}\n\n{table(['setting', first, second], rows, numbers_from=3)}"


def _cell(value: Any) -> str:
    return NOT_MEASURED if value is None else escape(value)
