"""The parts of a report, each a function from the report's record to Markdown; nothing here computes a score.

The record is what report.json holds: the run's settings (run.json), the loss in words, the scores
(`finegrained.scores`) and the confused pairs in one mapping. Accuracies are in per cent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finegrained.class_accuracy import ranked
from finegrained.class_tables import display_name
from finegrained.published import FULL_TEST, PAPER, TABLE_IX
from finetune.markdown import NOT_MEASURED, code, escape, interval, number, table

Record = Mapping[str, Any]
ALL_CLASSES = 24  # up to so many classes the table has them all
WORST, BEST, PAIRS = 12, 5, 12  # rows of the tables


def headline(record: Record) -> str:
    """Return the table of the scores over all test images, with the interval and the baseline."""
    ends = record["top1_interval"]
    baseline = record.get("baseline") or {}
    level = f"{100 * ends['level']:g} % interval"
    rows = [["top-1 accuracy", f"**{number(record['top1'])}**", interval((ends["low"], ends["high"]))]]
    if record["top5"] is not None:
        rows.append(["top-5 accuracy", number(record["top5"]), ""])
    rows.append(["mean of the per-class accuracies", number(record["balanced_accuracy"]), ""])
    rows.append(["macro F1", number(record["macro_f1"]), ""])
    if baseline:
        name = escape(display_name(str(baseline["class"])))
        rows.append([f"top-1 of always answering {name}", number(baseline["top1"]), ""])
    notes = (
        f"{record['n']:,} test images of {record['classes_tested']:,} classes, tested once, when training "
        f"had ended, with the {_plain(record.get('selected'))} weights. Interval: {escape(ends['method'])}. "
        "It tells how sure the accuracy is for other test images of these classes, not for other seeds."
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
        shown = [*order[:WORST], *order[-BEST:]]
        lead = f"The {WORST} least and the {BEST} most accurate of {len(order)} classes."
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
    ece = record["ece"]
    rows = [
        ("expected calibration error, 15 bins (%)", number(None if ece is None else 100 * ece)),
        ("negative log-likelihood (nats)", number(record["nll"], 3)),
    ]
    return table(["over all test images", "value"], rows)


def not_drawn(record: Record) -> str | None:
    """Return which pictures could not be drawn and why; None where all were."""
    return "\n".join(f"- {escape(note)}" for note in record.get("not_drawn", ())) or None


def data_line(record: Record) -> str:
    """Return which images were used, and the hashes that two comparable runs share."""
    crop = record.get("crop") or {}
    cut = f", cut to their boxes with a margin of {crop['margin']:g}" if crop.get("kind") == "box" else ""
    counts = record.get("counts") or {}
    notices = "".join(f"\n- {escape(notice)}" for notice in _texts(counts.get("notices")))
    return (
        f"Layout {code(record.get('policy', NOT_MEASURED))}: {_count(record, 'n_train')} training, "
        f"{_count(record, 'n_validation')} validation and {record['n']:,} test images of "
        f"{record['classes']:,} classes{cut}.{notices and chr(10)}{notices}\n\n"
        f"Manifest {code(record.get('manifest', NOT_MEASURED))}, split "
        f"{code(record.get('split', NOT_MEASURED))}. Only results with the same layout, manifest and split "
        "can be compared."
    )


def _count(record: Record, key: str) -> str:
    return NOT_MEASURED if record.get(key) is None else f"{record[key]:,}"


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def what_ran(record: Record) -> str:
    """Return what is needed to run it again, and what it ran on."""
    device = record.get("device") or {}
    used, name, asked = (_plain(device.get(key)) for key in ("used", "name", "asked"))
    options = record.get("head_options") or {}
    head = _plain(record.get("head")) + (f" ({_plain(options)})" if options else "")
    lines = [
        ("command", code(record.get("command", NOT_MEASURED))),
        ("head", escape(head)),
        ("loss", escape(record["loss_text"])),
        ("backbone", escape(_plain(record.get("backbone")))),
        ("weights it started from", escape(_plain(record.get("pretraining")))),
        ("preprocessing", escape(_plain(record.get("preprocess")))),
        ("test crops", escape(_plain(record.get("test_crops")))),
        ("epochs", escape(_plain(record.get("epochs")))),
        ("batch size", escape(_plain(record.get("batch_size")))),
        ("seed", escape(_plain(record.get("seed")))),
        ("device", escape(f"{used} ({name}), asked for {asked}")),
        ("precision", escape(_plain(record.get("precision")))),
        ("minutes", number(record.get("minutes"), 1)),
        ("versions", escape(_plain(record.get("versions")))),
    ]
    whole = "Everything that was chosen is in config.yaml."
    return f"{table(['what', 'this run'], lines, numbers_from=2)}\n\n{whole}"


def reported_by_others(record: Record) -> str | None:
    """Return the published numbers, or None unless the whole official test part was tested, uncut."""
    data_set = str(record.get("data_set"))
    tested = (record["n"], record["classes"])
    whole = not record.get("subset") and FULL_TEST.get(data_set) == tested
    if not whole or (record.get("crop") or {}).get("kind") == "box":
        return None
    rows = []
    for row in TABLE_IX:
        score, rerun = (row.cub, row.rerun and row.rerun[0]) if data_set == "cub" else _cars(row)
        rows.append([row.method, row.network, row.loss, f"{score:.2f}", f"{rerun:.2f}" if rerun else ""])
    header = ["method", "network", "loss", "reported", "rerun there"]
    return (
        f'Reported by {PAPER}; not measured here. "Reported" repeats each method\'s own paper (for CRL that '
        'paper itself), "rerun there" is its authors\' own run. Each is a single run without spread, with '
        "other training lengths, image sizes and test crops, so a difference from the table above is not a "
        f"finding.\n\n{table(header, rows, numbers_from=3)}"
    )


def _cars(row: Any) -> tuple[float, float | None]:
    return row.cars, row.rerun and row.rerun[1]


def _plain(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return NOT_MEASURED
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item not in (None, ""))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(_plain(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
