"""What the report of an age result has of its own: scores over folds, slices, figures and sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agecls.data.read import images_of
from agecls.measures import MEASURES
from agecls.report import report_sections
from agecls.report.benchmark import benchmark_scores, benchmark_section, is_benchmark
from agecls.report.figures import draw_confusion, draw_group_bars, group_recalls
from agecls.report.years import draw_years, tell_years, year_record, year_sections
from agecls.scores import Slice, score_cross_validation, slice_scores
from agecls.slices import column_slices
from finetune.cli.console import table
from finetune.experiments.measures import Measure, shown_in
from finetune.experiments.result import Result
from finetune.experiments.sections import DATA_NOTE, FIGURES, NO_PEOPLE, figure
from finetune.experiments.task import Sections
from finetune.figures.gallery import draw_heat_maps
from finetune.figures.markdown import Picture, escape, number
from finetune.figures.selection import choose_typical
from finetune.metrics.classification import confusion_matrix

INTERVALS = ("exact_interval", "one_off_interval")
SLICES: tuple[Slice, ...] = ("group", "gender", "subject_count")


def report_scores(
    result: Result, train_labels: Mapping[int, np.ndarray] | None, *, resamples: int, seed: int
) -> dict[str, Any]:
    """Return the scores over folds, `slices` (name -> rows of `slice_scores`) and `confusion` (K, K).

    `train_labels` gives the labels trained on by fold, for the baseline; None takes the other folds' test
    images.
    """
    found = result.predictions
    slices: dict[str, Any] = {}
    slices |= {by: slice_scores(found, by, resamples=resamples, seed=seed) for by in SLICES}
    slices |= column_slices(found, resamples=resamples, seed=seed)
    confusion = confusion_matrix(found.probs, found.target, len(found.class_names))
    own = {"benchmark": benchmark_scores(found)} if is_benchmark(result) else {}
    scores = {
        **own,
        **score_cross_validation(found, train_labels, resamples=resamples, seed=seed),
        "slices": slices,
        "confusion": confusion.tolist(),
    }
    return scores | year_record(found, resamples=resamples, seed=seed)


def draw_figures(result: Result, record: Mapping[str, Any]) -> list[Picture]:
    """Draw the confusion matrix, the bars of the groups and a heat map into a result's folder.

    Of years it is the answers against the truth, and the errors by decade.
    """
    if "years" in record:
        return draw_years(result, record)
    found, names, place = result.predictions, result.class_names, result.folder / FIGURES
    confusion, groups = np.asarray(record["confusion"]), record["slices"]["group"]
    exact, one_off = group_recalls(confusion)
    ends = [np.array([cell[key] or (np.nan, np.nan) for cell in groups]) for key in INTERVALS]
    draw_confusion(confusion, names, place / "confusion.png")
    draw_group_bars(
        names,
        confusion.sum(axis=1),
        exact,
        one_off,
        place / "groups.png",
        exact_interval=ends[0],
        one_off_interval=ends[1],
    )
    rows = choose_typical(found.target, found.probs)
    draw_heat_maps(
        result.image_files(found.path[rows]),
        found.target[rows],
        {result.loss_text: found.probs[rows]},
        names,
        place / "heat_map.png",
        subtitle="per true group, the image of median probability of the true group",
        thumbnails=result.shows_people,
    )
    note = DATA_NOTE if result.shows_people else NO_PEOPLE.format(option="--evaluate.thumbnails true")
    unit = report_sections.units_of(groups)[-1]
    return [
        figure("confusion", "Confusion matrix", "All test images of all folds."),
        figure("groups", "Accuracy per group", f"Intervals from 30 {unit} on."),
        figure("heat_map", "Softmax heat map", note),
    ]


def sections(record: Mapping[str, Any], measures: Sequence[Measure] = MEASURES) -> Sections:
    """Return the first sections of a report: the result, the folds, the groups, other slices, calibration."""
    slices = record["slices"]
    if "years" in record:
        return year_sections(record)
    return [
        ("Result", report_sections.headline(record, measures)),
        ("CVPR 2024 benchmark", benchmark_section(record)),
        ("Folds", report_sections.per_fold(record)),
        ("Age groups", report_sections.per_group(record)),
        ("Gender", _other_slice(slices.get("gender"), "gender")),
        ("Images per subject", _other_slice(slices.get("subject_count"), "test images of the subject")),
        *(
            (f"Label in the column {escape(name)}", _other_slice(cells, name))
            for name, cells in slices.items()
            if name not in SLICES
        ),
        ("Other decoders and probabilities", report_sections.calibration(record)),
    ]


def _other_slice(cells: Sequence[Mapping[str, Any]] | None, name: str) -> str | None:
    if not cells or len(cells) < 2:
        return None
    return report_sections.per_slice(cells, name)


def tell(report: Mapping[str, Any], measures: Sequence[Measure] = MEASURES) -> None:
    """Print the headline: each score, its spread over folds, its interval and the constant predictor's."""
    if "years" in report:
        tell_years(report)
        return
    rows = []
    for name in (measure.key for measure in shown_in(measures, "report")):
        low, high = report["intervals"][f"{name}_mean"]
        spread = "-" if report[f"{name}_sd"] is None else f"{report[f'{name}_sd']:.2f}"
        baseline = "-" if report["baseline"] is None else f"{report['baseline'][f'{name}_mean']:.2f}"
        folds = " ".join(f"{value:.1f}" for value in report[f"{name}_per_fold"])
        pooled = number(report[f"{name}_pooled"])
        rows.append(
            [
                name,
                f"{report[f'{name}_mean']:.2f}",
                spread,
                f"[{low:.1f}, {high:.1f}]",
                pooled,
                baseline,
                folds,
            ]
        )
    header = ["%", "mean of folds", "sd", "95 % interval", "pooled", "majority class", "folds"]
    people = images_of(report["n"], report["subjects"], report.get("counts") or {})
    table(f"{people}, policy {report['policy']}", header, rows)
