"""The parts of a report, each a function from the report's record to Markdown; nothing here computes a score.

The record is what report.json holds: the run's settings (run.json), the loss in words, the scores
(`finegrained.scores`) and the confused pairs in one mapping. Accuracies are in per cent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from finegrained.figures.class_accuracy import ranked
from finegrained.measures import MEASURES
from finegrained.published import FULL_TEST, PAPER, TABLE_IX, TEST_LISTS, Reported
from finetune.experiments import sections
from finetune.experiments.measures import Measure, shown_in
from finetune.experiments.same_content import DROPPED, grouped_line
from finetune.figures.markdown import NOT_MEASURED, code, escape, interval, number, table
from finetune.images.class_names import display_name

Record = Mapping[str, Any]
ALL_CLASSES = 24  # up to so many classes the table has them all
WORST, BEST, PAIRS = 12, 5, 12  # rows of the tables
FIRST = 3  # names given of images that were left out or stand twice
SAME = (
    ("same_content", "learned from and tested, which flatters the scores,"),
    ("same_content_validation", "in training and validation"),
    ("same_content_classes", "in two classes"),
)


def headline(record: Record, measures: Sequence[Measure] = MEASURES) -> str:
    """Return the table of the scores over all test images, with the interval and the baseline."""
    first, *others = shown_in(measures, "report")
    ends = record[f"{first.report_name}_interval"]
    baseline = record.get("baseline") or {}
    level = f"{100 * ends['level']:g} % interval"
    best = f"**{number(record[first.report_name])}**"
    rows = [[first.label_in("report"), best, interval((ends["low"], ends["high"]))]]
    rows += [
        [measure.label_in("report"), number(record[measure.report_name]), ""]
        for measure in others
        if record["classes"] >= measure.fewest_classes
    ]
    if baseline:
        name = escape(display_name(str(baseline["class"])))
        rows.append([f"top-1 of always predicting {name}", number(baseline["top1"]), ""])
    notes = (
        f"{record['n']:,} test images of {record['classes_tested']:,} classes, tested once, when training "
        f"had ended, with the {sections.plain(record.get('selected'))} weights. Interval: "
        f"{escape(ends['method'])}. "
        "It shows how certain the accuracy is for other test images of these classes, not for other seeds."
    )
    untested = record["classes"] - record["classes_tested"]
    if untested:
        notes += f" {untested:,} of {record['classes']:,} classes have no test image."
    return f"{table(['over all test images (%)', 'value', level], rows)}\n\n{notes}"


def per_class(record: Record) -> str:
    """Return the table of classes, least accurate first: all where they are few, else both ends."""
    order = ranked(record["per_class"])
    shown, lead = order, "All classes, the least accurate first."
    if len(order) > ALL_CLASSES:
        best = [row for row in order[-BEST:] if row["right"]]
        shown = [*order[:WORST], *best]
        most = f" and the {len(best)} most" if best else ""
        lead = f"The {WORST} least{most} accurate of {len(order)} classes."
        if len(best) < BEST:
            lead += (
                " No other class has a correct prediction." if best else " No class has a correct prediction."
            )
    rows = [
        [
            escape(display_name(str(row["name"]))),
            _taken_for(row),
            f"{row['n']:,}",
            f"{row['right']:,}",
            number(row["accuracy"], 1),
        ]
        for row in shown
    ]
    header = ["true class", "most often taken for", "images", "right", "accuracy (%)"]
    few = "With few images a class, most of the spread between classes is chance."
    return f"{lead} Every class is in [per_class.csv](per_class.csv). {few}\n\n" + table(
        header, rows, numbers_from=2
    )


def _taken_for(row: Record) -> str:
    if not row["taken_for_n"]:
        return ""
    return f"{escape(display_name(str(row['taken_for'])))} ({row['taken_for_n']:,})"


def confusions(record: Record) -> str:
    """Return the table of the most confused pairs of classes."""
    pairs = record["confused_pairs"]
    if not pairs:
        return "No test image was taken for another class."
    rows = [
        [
            escape(display_name(pair["first"])),
            escape(display_name(pair["second"])),
            f"{pair['first_as_second']:,} of {pair['first_n']:,}",
            f"{pair['second_as_first']:,} of {pair['second_n']:,}",
        ]
        for pair in pairs[:PAIRS]
    ]
    header = ["class A", "class B", "A taken for B", "B taken for A"]
    lead = f"The {len(rows)} pairs with the most images taken for the other"
    return f"{lead}; every kind of mistake is in [confusions.csv](confusions.csv).\n\n" + table(
        header, rows, numbers_from=2
    )


def calibration(record: Record) -> str:
    """Return the table of how far the probabilities can be trusted."""
    rows = [
        *sections.error_rows(record),
        ("negative log-likelihood (nats)", number(record["nll"], 3), ""),
    ]
    return table(sections.CALIBRATION_HEADER, rows)


def data_line(record: Record) -> str:
    """Return which images were used, and the hashes that two comparable runs share."""
    crop = record.get("crop") or {}
    cut = f", cut to their boxes with a margin of {crop['margin']:g}" if crop.get("kind") == "box" else ""
    counts = record.get("counts") or {}
    told = [*_texts(counts.get("notices")), *_flaws(counts)]
    notices = "".join(f"\n- {escape(notice)}" for notice in told)
    return (
        f"Layout {code(record.get('policy', NOT_MEASURED))}: {_count(record, 'n_train')} training, "
        f"{_count(record, 'n_validation')} validation and {record['n']:,} test images of "
        f"{record['classes']:,} classes{cut}.{notices and chr(10)}{notices}\n\n"
        f"{sections.same_data(record, 'layout')}"
    )


def _flaws(counts: Record) -> list[str]:
    """Return sentences about images that were left out, and about equal files in training and test."""
    found = []
    missing = counts.get("missing_images") or 0
    if missing:
        first = _first(_texts(counts.get("missing_first")), missing)
        found.append(f"{missing:,} listed images are not there and were left out{first}")
    bad = counts.get("bad_images") or {}
    if bad:
        names = [PurePath(file).name for file in bad]
        found.append(f"{len(bad):,} images cannot be read and were left out{_first(names, len(bad))}")
    if dropped := counts.get(DROPPED):
        found.append(f"{dropped:,} images have the bytes of an earlier one and were left out")
    if told := grouped_line(counts):
        found.append(told)
    for key, words in SAME:
        same = counts.get(key) or []
        if same:
            pairs = [" = ".join(map(str, pair)) for pair in same]
            noun = "pair" if len(same) == 1 else "pairs"
            found.append(
                f"{len(same):,} {noun} of images {words} with the same bytes{_first(pairs, len(same))}"
            )
    if told := sections.conflicts_line(counts):
        found.append(told)
    return found


def _first(names: Sequence[str], count: int) -> str:
    shown = list(names[:FIRST])
    if not shown:
        return ""
    return f": {', '.join(shown)}{', ...' if count > len(shown) else ''}"


def _count(record: Record, key: str) -> str:
    return NOT_MEASURED if record.get(key) is None else f"{record[key]:,}"


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def reported_by_others(record: Record) -> str | None:
    """Return the published numbers, or None unless the whole official test part was tested, uncut."""
    data_set = _official_test(record)
    if not data_set or (record.get("crop") or {}).get("kind") == "box":
        return None
    header = [
        "method",
        "network",
        "loss",
        "reported by the method's own paper",
        "reported by Zhang et al.",
    ]
    checked = (
        "The tested images are those of the official list."
        if data_set in TEST_LISTS
        else "The counts of the tested images are the official ones; the list itself was not checked."
    )
    rows = [_reported(row, data_set) for row in TABLE_IX]
    return (
        f"The numbers of {PAPER}; not measured here. It repeats each method's own paper and gives its "
        "authors' own runs. Each is a single run without spread, with other training lengths, image sizes "
        "and test crops, so a difference from the table above is not a finding. "
        f"{checked}\n\n{table(header, rows, numbers_from=3)}"
    )


def _official_test(record: Record) -> str:
    """Return cub or cars where the whole official test part was tested as its own lists name it, else ""."""
    layout = str(record.get("policy"))
    data_set = "cars" if layout.startswith("cars-") else layout
    whole = (record.get("counts") or {}).get("official") is True and not record.get("subset")
    if not whole or FULL_TEST.get(data_set) != (record["n"], record["classes"]):
        return ""
    return data_set if TEST_LISTS.get(data_set) in (None, record.get("test_list")) else ""


def _reported(row: Reported, data_set: str) -> list[str]:
    """Return a published row's cells; of CRL the paper that proposes it is the only source."""
    on_cars = data_set == "cars"
    score = f"{row.cars if on_cars else row.cub:.2f}"
    rerun = f"{row.rerun[on_cars]:.2f}" if row.rerun else ""
    network = f"{row.network} ({row.on_cars})" if on_cars and row.on_cars else row.network
    cells = ["", score] if row.loss == "CRL" else [score, rerun]
    return [row.method, network, row.loss, *cells]
