"""A result on the splits of the CVPR 2024 benchmark: its measures, its files, and its part of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agecls.data.overlapping import FAEB, PARTS_COLUMN, listed_splits
from agecls.data.years import years_of
from agecls.decoders import decode_median
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.figures.markdown import code, escape, number, table
from finetune.images.manifest import Manifest
from finetune.runs.csv_file import csv_text
from finetune.runs.files import write_bytes

FOLDER = "faeb"
CLOSE = 5  # years: an error of at most so many is close (CS@5)
# Mean absolute error in years of cross-entropy with ImageNet weights, as a user of the benchmark quotes the
# paper's table. The table in its README is of weights from IMDB-WIKI, and no match for ImageNet's.
REPORTED_CE = {"AgeDB": 7.20, "CACD": 4.59, "ChaLearn2016": 5.96, "MORPH": 2.96, "UTKFace": 4.75}


def benchmark_scores(predictions: Predictions) -> dict[str, Any]:
    """Return the benchmark's measures of each split, their mean, and their sd over splits (ddof 0).

    The class is read from the probabilities by the median, which is the benchmark's rule: the answer of least
    expected error. `mae` is in `unit`: years where every class is a year, else classes; `cs5` (the share with
    an error of at most five years) is there for years alone; `error` is the share of wrong classes.
    """
    years = years_of(predictions.class_names)
    scale = np.arange(len(predictions.class_names)) if years is None else years.ages
    preds = decode_median(predictions.probs)
    off = np.abs(scale[preds] - scale[predictions.target])
    values: dict[str, np.ndarray] = {"mae": off, "error": preds != predictions.target}
    if years is not None:
        values["cs5"] = off <= CLOSE
    folds = np.unique(predictions.fold)
    per_split = {
        name: [float(value[predictions.fold == fold].mean()) for fold in folds]
        for name, value in values.items()
    }
    return {
        "unit": "classes" if years is None else "years",
        "splits": [int(fold) for fold in folds],
        "n": [int((predictions.fold == fold).sum()) for fold in folds],
        "per_split": per_split,
        "mean": {name: float(np.mean(found)) for name, found in per_split.items()},
        "sd": {name: float(np.std(found)) for name, found in per_split.items()},
    }


def write_benchmark(result: Result) -> None:
    """Write the result in the benchmark's form into the folder faeb of a result.

    tst.csv has its table of errors: a row for the database, and mean(sd) over splits by measure, with two
    decimals. splitK/evaluation.csv has of each test image id, img_path, folder (2, the test part),
    true_label and predicted_label. data_splitK.csv has, without a header, its lists of parts: face_id,
    img_path, folder (0 train, 1 validation, 2 test) and label. The probabilities are in predictions.parquet.
    """
    found, folder = result.predictions, result.folder / FOLDER
    scores = benchmark_scores(found)
    columns = {"mae": "age[mae]", "cs5": "age[cs5]", "error": "age[0/1]"}
    there = [name for name in columns if name in scores["mean"]]
    cells = [f"{scores['mean'][name]:.2f}({scores['sd'][name]:.2f})" for name in there]
    database = str(result.record.counted.get("database") or "")
    _write(folder / "tst.csv", ["", *(columns[name] for name in there)], [[database, *cells]])
    _write_answers(folder, found, result.manifest)
    if result.manifest is not None and PARTS_COLUMN in result.manifest:
        _write_parts(folder, result.manifest)


def _write_answers(folder: Path, found: Predictions, manifest: Manifest | None) -> None:
    preds, paths = decode_median(found.probs), [] if manifest is None else manifest["path"].tolist()
    ids = {path: row for row, path in enumerate(paths)}
    header = ["id", "img_path", "folder", "true_label", "predicted_label"]
    for split in np.unique(found.fold).tolist():
        rows = np.flatnonzero(found.fold == split).tolist()
        lines = [
            [ids.get(str(found.path[row]), ""), found.path[row], 2, found.target[row], preds[row]]
            for row in rows
        ]
        _write(folder / f"split{split}" / "evaluation.csv", header, lines)


def _write_parts(folder: Path, manifest: Manifest) -> None:
    for split in listed_splits(manifest):
        parts = sorted((int(row), part) for part, (_, rows) in enumerate(split.parts()) for row in rows)
        lines = [[row, manifest["path"][row], part, manifest.label[row]] for row, part in parts]
        _write(folder / f"data_split{split.fold}.csv", list(map(str, lines[0])), lines[1:])


def _write(file: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, csv_text(header, rows).encode())


def benchmark_section(record: Mapping[str, Any]) -> str | None:
    """Return the benchmark's table, or None for a result of other splits."""
    scores = record.get("benchmark")
    if not scores:
        return None
    unit = scores["unit"]
    words = {
        "mae": f"mean absolute error ({unit})",
        "cs5": "error of at most 5 years (share)",
        "error": "wrong class (share)",
    }
    rows = [
        [
            words[name],
            f"**{number(scores['mean'][name])}**"
            if len(scores["splits"]) == 1
            else f"**{number(scores['mean'][name])} ± {number(scores['sd'][name])}**",
            *(number(value) for value in scores["per_split"][name]),
        ]
        for name in words
        if name in scores["mean"]
    ]
    header = ["measure", "mean ± sd (n)", *(f"split {split}" for split in scores["splits"])]
    overlapping = (
        "The benchmark's own splits: some images are tested in two splits and some in none, so nothing is "
        "counted over all images together, and the intervals above, which take the splits for independent, "
        "are too narrow. "
    )
    disjoint = "Disjoint splits, which are not the benchmark's own: each image is tested once. "
    told = (
        f"{overlapping if record.get('protocol') == FAEB else disjoint}The class is the median of the "
        "probabilities. The standard deviation divides by the number of splits, as the benchmark's does. The "
        f"same in its own form is in {code(FOLDER)}."
    )
    database = str((record.get("counts") or {}).get("database") or "")
    if unit == "years" and database in REPORTED_CE:
        told += (
            f" Reported by others with ImageNet weights and cross-entropy on {escape(database)}: "
            f"{REPORTED_CE[database]:.2f} years (quoted by a user of the benchmark; not measured here)."
        )
    return f"{table(header, rows)}\n\n{told}"


def is_benchmark(result: Result) -> bool:
    """Return whether a result is of a list of the benchmark, on its own splits or on disjoint ones."""
    return bool(result.record.counted.get("faeb"))
