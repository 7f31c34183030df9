"""What probabilities are worth, whatever the task: calibration beside chance, and risk against coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune.experiments.measures import Measure
from finetune.experiments.probabilities.set_text import range_text, sets_text
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.sections import CALIBRATION_WORDS, FIGURES, figure
from finetune.experiments.task import Task, measures_for
from finetune.figures.markdown import Picture, escape, interval, method_mark, number, table
from finetune.metrics.bootstrap import Interval
from finetune.metrics.calibration import fit_temperature, log_probs
from finetune.metrics.intervals import told_method
from finetune.metrics.reliability import calibration_errors, calibration_references
from finetune.metrics.selective import COVERAGES, RiskCoverage, area_difference, risk_coverage, risk_intervals

Record = Mapping[str, Any]
CURVES = "risk_coverage"


def selective_measures(task: Task, found: Predictions) -> list[Measure]:
    """Return the measures whose misses are the risk: means over images, that these classes have."""
    names = found.class_names
    shown = measures_for(task, "report", names) or measures_for(task, "conclusion", names)
    asked = (one for one in shown if one.applies(names))
    return [one for one in asked if one.hits and one.is_percent and one.over != "classes"]


def confidence_of(found: Predictions) -> np.ndarray:
    """Return the largest probability of each image, (N,)."""
    return np.asarray(found.probs.max(axis=1))


def losses_of(measure: Measure, found: Predictions) -> np.ndarray:
    """Return 1.0 for each image that misses a measure, else 0.0, (N,)."""
    assert measure.hits is not None
    return 1.0 - np.asarray(measure.hits(found), dtype=np.float64)


def curve_of(measure: Measure, found: Predictions) -> RiskCoverage:
    """Return how often the most confident images miss a measure."""
    return risk_coverage(confidence_of(found), losses_of(measure, found))


def probability_scores(task: Task, found: Predictions, *, resamples: int, seed: int) -> dict[str, Any]:
    """Return what a report says of a result's probabilities, ready for JSON.

    Returns
        adaptive_ece, and for ordered classes threshold_ece (fractions);
        calibration_reference: of each error, ece too, {mean, upper} of a perfectly calibrated model;
        temperature: {T, before, after (nats), at_end}, which fits these very images best: a description;
        selective: per measure {label, aurc, excess_aurc (fractions), at: rows of coverage, risk, interval
            (percent), images' clusters}; clusters are the task's.
    """
    errors = calibration_errors(found.probs, found.target, ordered=task.ordered)
    references = calibration_references(found.probs, ordered=task.ordered, seed=seed)
    fitted = fit_temperature(log_probs(found.probs), found.target)
    return {
        **{name: value for name, value in errors.items() if name != "ece"},
        "calibration_reference": {name: vars(one) for name, one in references.items()},
        "temperature": {
            "T": fitted.temperature,
            "before": fitted.before,
            "after": fitted.after,
            "at_end": fitted.at_end,
        },
        "selective": {
            one.key: _selective(task, one, found, resamples, seed) for one in selective_measures(task, found)
        },
    }


def _selective(task: Task, measure: Measure, found: Predictions, resamples: int, seed: int) -> dict[str, Any]:
    drawn, curve = task.resampling(found), curve_of(measure, found)
    ends = risk_intervals(
        confidence_of(found),
        losses_of(measure, found),
        drawn.clusters,
        drawn.strata,
        resamples=resamples,
        seed=seed,
    )
    rows = [_row(part, one) for part, one in zip(COVERAGES, ends, strict=True)]
    return {"label": measure.label, "aurc": curve.area, "excess_aurc": curve.excess, "at": rows}


def selective_facts(task: Task, found: Predictions, *, resamples: int = 1000) -> dict[str, Any]:
    """Return "selective" of `probability_scores` alone, for the card of an exported model."""
    return {one.key: _selective(task, one, found, resamples, 0) for one in selective_measures(task, found)}


def _row(part: float, ends: Interval) -> dict[str, Any]:
    row = {"coverage": part, "risk": ends.estimate, "interval": [ends.low, ends.high]}
    return row | told_method("interval", ends.method) | {"clusters": ends.clusters}


def confidence_section(record: Record) -> str | None:
    """Return how often the surest answers are wrong; None in a report of a former release."""
    found = record.get("selective")
    if not found:
        return None
    parts = [selective_table(one["label"], one["at"]) for one in found.values()]
    areas = "; ".join(
        f"{escape(one['label'])}: {number(100 * one['aurc'])}, of which {number(100 * one['excess_aurc'])} "
        "could be won by a better order"
        for one in found.values()
    )
    return "\n\n".join(
        [
            "The images are put in order of their largest probability, and only the surest are answered. "
            f"The mean error over all such parts, in % (area under the risk-coverage curve): {areas}.",
            *parts,
            temperature_line(record),
        ]
    )


def selective_table(label: str, rows: Sequence[Record]) -> str:
    """Return the table of a measure's errors among the surest images."""
    cells = [
        [f"{100 * row['coverage']:g} %", number(row["risk"]), interval(row["interval"]) + _mark(row)]
        for row in rows
    ]
    return table([f"{escape(label)}: answered", "wrong (%)", "95 % interval"], cells)


def _mark(row: Record) -> str:
    return escape(method_mark(row, "interval"))


def temperature_line(record: Record) -> str:
    """Return which temperature would fit the test images best, in a sentence."""
    told = record.get("temperature") or {}
    if told.get("T") is None:
        return ""
    how = "too sure" if told["T"] > 1 else "not sure enough"
    return (
        f"The temperature that fits these images best is {number(told['T'])}: the probabilities are {how}. "
        f"It would take the negative log-likelihood from {number(told['before'], 3)} to "
        f"{number(told['after'], 3)}. `calibrate` fits one for use, on images held out."
    )


def calibration_section(record: Record) -> str | None:
    """Return what calibrates each model and what that is worth; None where nothing calibrated the run."""
    found = record.get("calibration")
    if not found:
        return None
    rows = [
        [
            escape(name),
            "per class" if entry["T"] is None else number(entry["T"], 3),
            f"{entry['n']:,}",
            f"{entry['persons']:,} {escape(entry['unit'])}s",
            "-" if entry["sets"]["q"] is None else number(entry["sets"]["q"], 3),
            range_text(entry),
            escape(entry["from"]),
        ]
        for name, entry in found["models"].items()
    ]
    measured = found["measured"]
    raw, after = measured["raw"], measured["calibrated"]
    told = {"nll": "negative log-likelihood (nats)", **CALIBRATION_WORDS}
    scores = [
        [words, *(number(side[name] if name == "nll" else _hundred(side[name]), 3) for side in (raw, after))]
        for name, words in told.items()
        if name in raw
    ]
    head = ["model", "temperature", "images", "of", "quantile", "range (of 100)", "fitted on"]
    return "\n\n".join(
        [
            table(head, rows),
            table([f"{raw['n']:,} images", "as stated", "calibrated"], scores),
            f"Measured {escape(measured['how'])}. {sets_text(found)}",
        ]
    )


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value


def draw_confidence(task: Task, found: Predictions, folder: Any) -> list[Picture]:
    """Draw risk against coverage of the task's measures into a result's folder."""
    from finetune.figures.risk_coverage import draw_risk_coverage

    curves = {one.label: curve_of(one, found) for one in selective_measures(task, found)}
    if not curves:
        return []
    draw_risk_coverage(curves, folder / FIGURES / f"{CURVES}.png")
    return [figure(CURVES, "Risk and coverage", "All test images, the surest first; ties share their error.")]


def compared_probabilities(
    task: Task, first: Predictions, second: Predictions, *, resamples: int, seed: int
) -> dict[str, Any]:
    """Return both sides' calibration errors and area, {a, b}, and the paired difference of the area.

    Both must hold the same images in one order. Returns rows by name: ece, adaptive_ece, threshold_ece, and
    aurc with {label, difference, interval} besides, of the task's first measure; in percent.
    """
    sides = [calibration_errors(side.probs, side.target, ordered=task.ordered) for side in (first, second)]
    rows: dict[str, Any] = {name: {"a": 100 * sides[0][name], "b": 100 * sides[1][name]} for name in sides[0]}
    measures = selective_measures(task, first)
    if measures:
        drawn, measure = task.resampling(first), measures[0]
        pairs = [(confidence_of(side), losses_of(measure, side)) for side in (first, second)]
        ends = area_difference(
            pairs[0], pairs[1], drawn.clusters, drawn.strata, resamples=resamples, seed=seed
        )
        areas = [100 * risk_coverage(*pair).area for pair in pairs]
        rows["aurc"] = {"label": measure.label, "a": areas[0], "b": areas[1]}
        rows["aurc"] |= {"difference": 100 * ends.estimate, "interval": [100 * ends.low, 100 * ends.high]}
    return rows


def compared_section(found: Record | None, names: Sequence[str]) -> str | None:
    """Return the table of two results' probabilities; None where nothing was compared."""
    if not found:
        return None
    first, second = map(escape, names)
    rows = []
    for name, words in {**CALIBRATION_WORDS, "aurc": "area under the risk-coverage curve (%)"}.items():
        if (row := found.get(name)) is None:
            continue
        ends = interval(row["interval"], 2) if "interval" in row else ""
        change = f"{row['b'] - row['a']:+.2f}"
        rows.append([words, number(row["a"]), number(row["b"]), change, ends])
    area = f"The area is of the {escape(found['aurc']['label'])}. " if "aurc" in found else ""
    return (
        table(["0 is best", first, second, "difference", "95 % interval"], rows)
        + f"\n\n{area}Calibration errors are of the probabilities as the models state them, and are never 0 "
        "by chance alone."
    )
