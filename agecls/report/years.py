"""What the report of ages in years has of its own: errors in years, decades, CS@k, and two figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agecls.data.read import images_of
from agecls.data.years import years_of
from agecls.report import report_sections
from agecls.report.benchmark import benchmark_section
from agecls.report.year_figures import draw_answers, draw_decades, draw_year_curves, spread
from agecls.year_scores import WITHIN, known_row, score_years
from finetune.cli.console import table as print_table
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.experiments.sections import DATA_NOTE, FIGURES, NO_PEOPLE, error_rows, figure
from finetune.experiments.task import Sections
from finetune.figures.markdown import (
    NOT_MEASURED,
    Picture,
    escape,
    interval,
    method_mark,
    number,
    signed,
    table,
)
from finetune.figures.selection import choose_typical
from finetune.images.checks import subjects_known

Record = Mapping[str, Any]
LABELS = {
    "mae": "mean absolute error (years)",
    "bias": "bias, answer minus truth (years)",
    **{f"cs{k}": f"CS@{k}: within {k} years (%)" for k in WITHIN},
}
READ_BY = {
    "median": "median: serves the mean absolute error (headline)",
    "expected": "expected value: serves the squared error",
    "argmax": "most probable year: serves exact hits",
}


def year_record(found: Predictions, *, resamples: int, seed: int) -> dict[str, Any]:
    """Return `years`, the scores in years, and beside it the means over folds that studies read.

    {} where the classes are not years.
    """
    scores = score_years(found, resamples=resamples, seed=seed)
    if scores is None:
        return {}
    return {"years": scores, "mae_years_mean": scores["mae_mean"], "cs5_mean": scores["cs5_mean"]}


def year_sections(record: Record) -> Sections:
    """Return the first sections of a report of years, from the result to its probabilities."""
    return [
        ("Result", _headline(record)),
        ("CVPR 2024 benchmark", benchmark_section(record)),
        ("Folds", _folds(record)),
        ("Decades of true age", _decades(record)),
        ("Share of answers within k years", _curve(record)),
        ("Other ways to read a year", _decoders(record)),
        ("Probabilities", _probabilities(record)),
    ]


def _headline(record: Record) -> str:
    years = record["years"]
    header = [
        "score",
        "mean ± sd over folds",
        "over all images",
        f"95 % interval of the mean ({_unit(record)})",
    ]
    rows = []
    for key, words in LABELS.items():
        mean, sd = years[f"{key}_mean"], years[f"{key}_sd"]
        spread = f"**{number(mean)}** (one fold)" if sd is None else f"**{number(mean)} ± {number(sd)}**"
        ends = interval(years[f"{key}_interval"], 2) + escape(method_mark(years, f"{key}_interval"))
        pooled = NOT_MEASURED if "benchmark" in record else number(years[key])  # some images are tested twice
        rows.append([words, spread, pooled, ends])
    rows.append(
        ["mean absolute error, each decade counted alike (years)", "", number(years["balanced_mae"]), ""]
    )
    rows.append(["CRPS: error of the whole distribution (years)", "", number(years["crps"]), ""])
    if "epsilon" in years:
        rated = years["epsilon"]
        words = f"epsilon-error beside {rated['n']:,} rated ages ({rated['agreed']:,} without spread)"
        rows.append([words, "", number(rated["error"], 3), ""])
    notes = (
        "The answer is the median of the probabilities. Errors count completed years. ± is the standard "
        "deviation over folds (n - 1). Bias stands beside the mean error because answers that are drawn to "
        "the middle hide in it."
    )
    if years["width"] > 1:
        notes += f" A class holds {years['width']} years and stands for its middle."
    return f"{table(header, rows)}\n\n{notes}"


def _unit(record: Record) -> str:
    if subjects_known(record.get("counts") or {}):
        return "whole subjects resampled"
    return "images as people: subjects are not known"


def _folds(record: Record) -> str:
    years, keys = record["years"], list(LABELS)
    rows = [
        [str(fold), f"{images:,}", *(number(years[f"{key}_per_fold"][place]) for key in keys)]
        for place, (fold, images) in enumerate(zip(record["folds"], record["per_fold_n"], strict=True))
    ]
    return table(["fold", "images", *LABELS.values()], rows)


def _decades(record: Record) -> str:
    counted = report_sections.units_of([known_row(row) for row in record["years"]["decades"]])
    rows = []
    for row in record["years"]["decades"]:
        cells = [number(row["mae"]), interval(row["mae_interval"], 2)]
        cells += [signed(row["bias"]), interval(row["bias_interval"], 2)]
        rows.append([f"{row['name']} years", *report_sections.counts_of(known_row(row)), *cells])
    header = ["true age", *counted, "MAE (years)", "95 % interval", "bias (years)", "95 % interval"]
    return f"{table(header, rows)}\n\nNo interval, and no conclusion, for fewer than 30 {counted[-1]}."


def _curve(record: Record) -> str:
    found = {int(k): value for k, value in record["years"]["curve"].items()}
    shown = [k for k in (0, 1, 2, 3, 5, 7, 10, 15) if k in found]
    return table(["k (years)", *map(str, shown)], [["CS@k (%)", *(number(found[k], 1) for k in shown)]])


def _decoders(record: Record) -> str:
    rows = [
        [READ_BY[name], *(number(found[key]) for key in LABELS)]
        for name, found in record["years"]["decoders"].items()
    ]
    return table(["year read from the probabilities by", *LABELS.values()], rows)


def _probabilities(record: Record) -> str:
    rows = [
        *error_rows(record),
        ("negative log-likelihood (nats)", number(record["nll"], 3), ""),
        ("Brier score", number(record["brier"], 3), ""),
        ("exactly the year (%)", number(record["exact_pooled"]), ""),
    ]
    return table(["over all images", "value", "of a perfectly calibrated model"], rows)


def tell_years(report: Record) -> None:
    """Print the scores in years: mean and spread over folds, interval, and each fold."""
    years, rows = report["years"], []
    for key, words in LABELS.items():
        low, high = years[f"{key}_interval"]
        sd = years[f"{key}_sd"]
        folds = " ".join(f"{value:.1f}" for value in years[f"{key}_per_fold"])
        spread = "-" if sd is None else f"{sd:.2f}"
        pooled = "n/a" if "benchmark" in report else f"{years[key]:.2f}"
        rows.append([words, f"{years[f'{key}_mean']:.2f}", spread, f"[{low:.2f}, {high:.2f}]", pooled, folds])
    people = images_of(report["n"], report["subjects"], report.get("counts") or {})
    print_table(people, ["years", "mean of folds", "sd", "95 % interval", "pooled", "folds"], rows)


def draw_years(result: Result, record: Record) -> list[Picture]:
    """Draw the answers against the truth, and the errors by decade, into a result's folder."""
    found, place = result.predictions, result.folder / FIGURES
    years = years_of(found.class_names)
    assert years is not None, "a record has `years` where the classes are"
    draw_answers(found, years, place / "years.png")
    draw_decades(record["years"]["decades"], record["years"]["unit"], place / "decades.png")
    rows = spread(choose_typical(found.target, found.probs))
    files, probs = result.image_files(found.path[rows]), {result.loss_text: found.probs[rows]}
    shown = result.shows_people
    draw_year_curves(files, found.select(rows), probs, years, place / "heat_map.png", thumbnails=shown)
    note = DATA_NOTE if shown else NO_PEOPLE.format(option="--evaluate.thumbnails true")
    return [
        figure("years", "Answers against true ages", "Median answers; the band holds the middle 80 of 100."),
        figure("decades", "Error by decade", "Bars: mean absolute error; points: bias."),
        figure("heat_map", "Probabilities of the years", note),
    ]
