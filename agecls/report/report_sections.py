"""The parts of a report, each a function from the report's record to Markdown; nothing here computes a score.

The record is what report.json holds: the run's settings (run.json), the loss in words, the scores
(`agecls.scores`), the slices and the confusion matrix in one mapping. Accuracies are in per cent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from agecls.data.groups import AgeGroups
from agecls.decoders import SERVES
from agecls.measures import MEASURES
from agecls.report.figures import group_recalls
from agecls.report.published import PAPER, TABLE_X
from finetune.errors import UsageError
from finetune.experiments import sections
from finetune.experiments.measures import Measure, shown_in
from finetune.experiments.same_content import DROPPED, grouped_line
from finetune.figures.markdown import NOT_MEASURED, code, escape, interval, method_mark, number, table
from finetune.images.checks import subjects_known

Record = Mapping[str, Any]


def headline(record: Record, measures: Sequence[Measure] = MEASURES) -> str:
    """Return the table of the accuracies: over folds, pooled, with intervals and the baseline."""
    intervals, albums, baseline = (record.get(key) for key in ("intervals", "intervals_by_user", "baseline"))
    header = ["accuracy (%)", "mean ± sd over folds", "pooled over images"]
    header += (
        [_interval_header(intervals, "subjects" if subjects_known(record.get("counts") or {}) else "images")]
        if intervals
        else []
    )
    header += [_interval_header(albums, "users")] if albums else []
    header += [f"always {escape(_baseline_groups(record))}"] if baseline else []
    rows = []
    for measure in shown_in(measures, "report"):
        key = measure.key
        mean, sd = record[f"{key}_mean"], record[f"{key}_sd"]
        spread = f"**{number(mean)}** (one fold)" if sd is None else f"**{number(mean)} ± {number(sd)}**"
        row = [measure.label_in("report"), spread, number(record[f"{key}_pooled"])]
        row += [_ends(kind, f"{key}_mean") for kind in (intervals, albums) if kind]
        row += [number(baseline[f"{key}_mean"])] if baseline else []
        rows.append(row)
    how = "images are resampled within folds, for subjects are not known."
    if subjects_known(record.get("counts") or {}):
        how = "whole subjects are resampled within folds, because images of one subject are not independent."
    notes = (
        "± is the standard deviation over folds (n - 1). It mostly reflects how unlike the folds are; how "
        f"certain the mean is, the interval shows: {how} Pooled counts every image once; "
        "folds differ in size."
    )
    return f"{table(header, rows)}\n\n{notes}"


def _interval_header(intervals: Record, unit: str) -> str:
    level = f"{100 * intervals['level']:g} % interval"
    return f"{level} of the mean ({intervals['clusters']:,} {unit} resampled)"


def _ends(row: Record, key: str) -> str:
    """Return an interval as words, and how it was made where resampling could not move."""
    return interval(row[key]) + escape(method_mark(row, key))


def _baseline_groups(record: Record) -> str:
    names = [str(record["class_names"][index]) for index in record["baseline"]["group_per_fold"]]
    return " / ".join(dict.fromkeys(names))


def per_fold(record: Record) -> str:
    """Return the table of folds."""
    baseline = record.get("baseline") or {}
    header = ["fold", "images", "exact", "one-off", "exact, majority class", "one-off, majority class"]
    rows = []
    for place, (fold, images) in enumerate(zip(record["folds"], record["per_fold_n"], strict=True)):
        scores = [record["exact_per_fold"], record["one_off_per_fold"]]
        constant = [baseline.get("exact_per_fold"), baseline.get("one_off_per_fold")]
        cells = [number(values[place]) if values else NOT_MEASURED for values in (*scores, *constant)]
        rows.append([str(fold), f"{images:,}", *cells])
    return table(header, rows)


def per_group(record: Record) -> str:
    """Return the table of true groups; intervals where there are enough subjects."""
    exact, one_off = group_recalls(np.asarray(record["confusion"]))
    rows = []
    for place, cell in enumerate(record["slices"]["group"]):
        found = [number(float(exact[place])), number(float(one_off[place]))]
        if not cell["images"]:
            found = ["no images", "no images"]
        ends = [_ends(cell, "exact_interval"), _ends(cell, "one_off_interval")]
        cells = [found[0], ends[0], found[1], ends[1]]
        rows.append([escape(cell["name"]), *counts_of(cell), *cells])
    counted = units_of(record["slices"]["group"])
    header = ["true group", *counted, "exact", "95 % interval", "one-off", "95 % interval"]
    rule = f"No interval, and no conclusion, for a group of fewer than 30 {counted[-1]}."
    return f"{table(header, rows)}\n\n{rule}"


def units_of(cells: Sequence[Record]) -> list[str]:
    """Return what the cells of a slice count: images, and subjects where they are known."""
    return ["images", *(["subjects"] if all("subjects" in cell for cell in cells) else [])]


def counts_of(cell: Record) -> list[str]:
    """Return a cell's counts as words, as `units_of` names them."""
    return [f"{cell[unit]:,}" for unit in units_of([cell])]


def per_slice(cells: Sequence[Record], name: str) -> str:
    """Return the table of another slice: counts always, accuracies where there are enough subjects."""
    rows = [
        [
            escape(cell["name"]),
            *counts_of(cell),
            number(cell["exact"]),
            _ends(cell, "exact_interval"),
            number(cell["one_off"]),
            _ends(cell, "one_off_interval"),
            *(number(cell[key]) for key in ("mae", "bias") if key in cell),
        ]
        for cell in cells
    ]
    further = ["MAE (groups)", "bias (groups)"] if "mae" in cells[0] else []
    header = [escape(name), *units_of(cells), "exact", "95 % interval", "one-off", "95 % interval", *further]
    unit = units_of(cells)[-1]
    fewest = 200 if further and unit == "images" else 30  # agecls.slices: images stand for people there
    return f"{table(header, rows)}\n\nCells of fewer than {fewest} {unit} have counts only."


def calibration(record: Record) -> str:
    """Return the tables of ordinal errors per decoder and of how far the probabilities can be trusted."""
    decoders = [
        [
            escape(name) + (" (headline)" if name == record["decoder"] else ""),
            escape(SERVES.get(name, "")),
            number(row["exact"]),
            number(row["one_off"]),
            number(row["mae"], 3),
        ]
        for name, row in record["decoders"].items()
    ]
    measures = (
        *sections.error_rows(record),
        ("negative log-likelihood (nats)", number(record["nll"], 3), ""),
        ("Brier score", number(record["brier"], 3), ""),
        ("ranked probability score", number(record["rps"], 4), ""),
        ("balanced accuracy (%)", number(record["balanced_accuracy"]), ""),
        ("macro F1 (%)", number(record["macro_f1"]), ""),
    )
    header = ["group read from the probabilities by", "best for", "exact", "one-off", "mean error in groups"]
    return f"{table(header, decoders, numbers_from=2)}\n\n{table(sections.CALIBRATION_HEADER, measures)}"


def data_line(record: Record) -> str:
    """Return which images were tested, by which label rule, and the hashes that two comparable runs share."""
    shared = record.get("shared_people", record.get("subjects_in_several_folds"))
    known, images = subjects_known(record.get("counts") or {}), f"{record['n']:,} test images"
    exclusive = {None: "", 0: " No subject is in both training and test."}.get(
        shared, f" **{shared} subjects are in both training and test: accuracies are too high to compare.**"
    )
    if not known:
        exclusive = " **Subjects are not known**: each image counts as one, and a subject may be in both."
    else:
        images += f" of {record['subjects']:,} subjects, in effect "
        images += f"{number(record.get('effective_subjects'), 0)} of equal weight"
    cells, kind = record["slices"]["group"], "group"
    if "years" in record:
        cells, kind = record["years"]["decades"], "decade"
    counts = ", ".join(f"{escape(c['name'])}: {c['images']:,}" for c in cells)
    counted = record.get("counts") or {}
    told = filter(None, (sections.conflicts_line(counted), grouped_line(counted)))
    flaws = "".join(f" {escape(one)}." for one in told)
    return (
        f"Label policy {code(record.get('policy', NOT_MEASURED))}: {images}.{exclusive} Images per {kind}: "
        f"{counts}.{left_out(record.get('counts') or {})}{flaws}\n\n"
        f"{sections.same_data(record, 'policy')}"
    )


LEFT_OUT = (
    ("duplicates", "repeated rows in the lists"),
    ("dropped", "rows without an age group"),
    ("in_gaps", "rows aged between two groups"),
    ("known_dropped", "faces that the set's own rules drop"),
    ("missing_images", "listed images that are missing"),
    ("bad_images", "unreadable images"),
    (DROPPED, "images with the bytes of an earlier one"),
)


def left_out(counts: Record) -> str:
    """Return, as one sentence, which edition of the lists was read and what the reader met beside the images.

    >>> left_out({"edition": "older", "duplicates": 117, "dropped": {"None": 748, "35": 293}})
    ' Edition older; 117 repeated rows in the lists, 1,041 rows without an age group.'
    """
    found = [(_count(counts.get(key)), words) for key, words in LEFT_OUT]
    met = ", ".join(f"{count:,} {words}" for count, words in found if count)
    edition = f"Edition {escape(counts['edition'])}" if counts.get("edition") else ""
    sentence = "; ".join(part for part in (edition, met) if part)
    return f" {sentence}." if sentence else ""


def _count(value: Any) -> int:
    """Return a count as it is, the sum of a mapping of counts, or how many files a list or mapping names."""
    if isinstance(value, Mapping):
        return sum(_count(item) for item in value.values())
    if isinstance(value, list | tuple):
        return len(value)
    return 1 if isinstance(value, str) else int(value or 0)


def reported_by_others(record: Record) -> str | None:
    """Return the published numbers, or None where the data are not one of Adience's two editions."""
    if (record.get("counts") or {}).get("edition") not in ("older", "current"):
        return None
    rows = [[r.network, r.pretraining, r.loss, f"{r.exact:.2f}", f"{r.one_off:.2f}"] for r in TABLE_X]
    return (
        f"Reported by {PAPER}; not measured here. Each is a single run without spread; label rule, test "
        "images and test crops are not reported, so a difference from the table above is not a finding.\n\n"
        + table(["network", "pretrained on", "loss", "exact", "one-off"], rows, numbers_from=3)
    )


def responsible_use(record: Record) -> str:
    """Return what the model says, what it cannot know, and what it must not be used for."""
    gaps = age_gaps([str(name) for name in record["class_names"]])
    forced = (
        f" Ages between the groups ({', '.join(gaps)}) are not covered: a neighbour is named." if gaps else ""
    )
    named, parts = f"age group, one of {len(record['class_names'])}", "group to group"
    if "years" in record:
        named, parts = f"age in years, from {record['class_names'][0]} on", "decade to decade"
    return (
        f"The model names an *apparent* {named}.{forced} Accuracy differs from {parts} (see above). What the "
        "data do not record, such as skin tone, was not measured. Not for age verification, for admission or "
        "sale, for surveillance, for profiling minors, or for any decision about an individual."
    )


def age_gaps(class_names: Sequence[str]) -> list[str]:
    """Return the ages that lie between the groups; none where the names are not ranges of years.

    >>> age_gaps(["0-2", "4-6", "8-12", "15+"])
    ['3', '7', '13-14']
    """
    try:
        bounds = AgeGroups.parse(",".join(class_names)).bounds
    except UsageError:
        return []
    pairs = pairwise(bounds)
    ends = [(upper + 1, lower - 1) for (_, upper), (lower, _) in pairs if upper is not None]
    return [f"{low}" if low == high else f"{low}-{high}" for low, high in ends if low <= high]
