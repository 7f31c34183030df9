"""Parts of a report that are the same whatever the task: each a function from the record to Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from finetune.figures.markdown import NOT_MEASURED, Picture, bullets, code, escape, number, table
from finetune.runs.folder import PICTURES

Record = Mapping[str, Any]
SETTINGS = ("image_size", "epochs", "batch_size", "seed")  # shown in rows of their own
FIGURES = PurePosixPath(PICTURES)  # the folder of a report's figures
CONFLICTS, FIRST_CONFLICTS = "same_content_labels", 3
CURVES_NOTE = (
    "Training accuracy is measured on augmented images while the weights still move. "
    "Values of different losses cannot be compared."
)
CALIBRATION_HEADER = ["over all test images", "value", "of a calibrated model, by chance"]
CALIBRATION_WORDS = {
    "ece": "expected calibration error, 15 bins (%)",
    "adaptive_ece": "the same over bins of equal count (%)",
    "threshold_ece": "the same of every threshold, mean (%)",
}
NO_PEOPLE = "No person is shown, so that the page can be passed on: {option} shows them."
DATA_NOTE = "It shows images of the data set: mind its terms before passing them on."


def figure(name: str, title: str, caption: str) -> Picture:
    """Return a figure of a report by its file's name without folder and ending."""
    return Picture(FIGURES / f"{name}.png", title, caption)


def what_ran(record: Record) -> str:
    """Return what is needed to run it again, and what it ran on."""
    device = record.get("device") or {}
    used, name, asked = (plain(device.get(key)) for key in ("used", "name", "asked"))
    options = record.get("head_options") or {}
    head = plain(record.get("head")) + (f" ({plain(options)})" if options else "")
    lines = [
        ("command", code(record.get("command", NOT_MEASURED))),
        ("head", escape(head)),
        ("loss", escape(record["loss_text"])),
        ("backbone", escape(plain(record.get("backbone")))),
        ("weights it started from", escape(plain(record.get("pretraining")))),
        ("protocol", escape(plain(record.get("protocol")))),
        ("preprocessing", escape(_preprocessing(record.get("preprocess")))),
        ("test crops", escape(plain(record.get("test_crops")))),
        *((key.replace("_", " "), escape(plain(record.get(key)))) for key in SETTINGS),
        ("training", escape(plain(record.get("train")))),
        ("device", escape(f"{used} ({name}), asked for {asked}")),
        ("precision", escape(plain(record.get("precision")))),
        ("minutes", number(record.get("minutes"), 1)),
        ("versions", escape(plain(record.get("versions")))),
    ]
    whole = "Everything that was chosen is in config.yaml."
    return f"{table(['what', 'this run'], lines, numbers_from=2)}\n\n{whole}"


def not_drawn(record: Record) -> str | None:
    """Return which figures could not be drawn and why; None where all were."""
    return "\n".join(f"- {escape(note)}" for note in record.get("not_drawn", ())) or None


def _preprocessing(values: Mapping[str, Any] | None) -> str:
    """Return a PreprocessSpec's values, and what is done to an image that shrinks or grows."""
    from finetune.images.preprocess import PreprocessSpec

    if not values:
        return NOT_MEASURED
    return f"{PreprocessSpec.from_dict(values).describe()} ({plain(values)})"


def warnings_section(record: Record) -> str | None:
    """Return what the run warned of, a line each; None for nothing."""
    return bullets(record.get("warnings") or ())


def same_data(record: Record, policy: str) -> str:
    """Return the hashes that two comparable runs share; `policy` is what the task calls its label rule."""
    return (
        f"Manifest {code(record.get('manifest', NOT_MEASURED))}, split "
        f"{code(record.get('split', NOT_MEASURED))}. Only results with the same {policy}, manifest and split "
        "can be compared."
    )


def conflicts_text(conflicts: Mapping[str, Any]) -> str:
    """Return in a sentence how many sets of equal files carry different labels; empty where none does.

    >>> conflicts_text({"sets": 375, "classes": 205, "ages": 0, "subjects": 3, "first": []})
    '375 sets of images are the same bytes: 205 of them under different classes, 3 under different subjects'
    """
    kinds = [(conflicts["classes"], "classes"), (conflicts["ages"], "ages within a class")]
    kinds += [(conflicts["subjects"], "subjects")]
    parts = [f"{count} {{}}under different {what}" for count, what in kinds if count]
    if not parts:
        return ""
    told = ", ".join([parts[0].format("of them "), *(part.format("") for part in parts[1:])])
    return f"{conflicts['sets']} sets of images are the same bytes: {told}"


def conflicts_line(counts: Record) -> str:
    """Return what `counts` of a run say of equal files with different labels, with examples; else nothing."""
    found = counts.get(CONFLICTS) or {"first": [], "classes": 0, "ages": 0, "subjects": 0}
    told = conflicts_text(found)
    shown = [" = ".join(map(str, one)) for one in found["first"][:FIRST_CONFLICTS]]
    return f"{told}: {'; '.join(shown)}" if shown else told


def error_rows(record: Record) -> list[tuple[str, str, str]]:
    """Return the calibration errors of a report: words, per cent, and what chance alone shows."""
    references = record.get("calibration_reference") or {}
    rows = []
    for name, words in CALIBRATION_WORDS.items():
        if record.get(name) is None:
            continue
        chance = references.get(name)
        told = f"{number(100 * chance['mean'])} (below {number(100 * chance['upper'])})" if chance else ""
        rows.append((words, number(100 * record[name]), told))
    return rows


def plain(value: Any) -> str:
    """Return a setting's value as words: "not measured" for none, mappings and lists spelled out."""
    if value is None or value in ("", [], {}):
        return NOT_MEASURED
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(item)}" for key, item in value.items() if item not in (None, ""))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(plain(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
