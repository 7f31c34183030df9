"""`crl age audit`: answers in, a folder with the page, every number, tables and figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agecls.audit.answers import Answers, read_answers
from agecls.audit.config import AuditConfig
from agecls.audit.cross import cross_matrix
from agecls.audit.models import OpenModel, ShownModel
from agecls.audit.notes import NOTES_OF, notes_for
from agecls.audit.page import audit_page, mean_text, rate_text
from agecls.audit.rates import Resampling
from agecls.audit.score import score_answers
from finetune.cli.console import say, table
from finetune.errors import DataError, UsageError
from finetune.figures.markdown import number
from finetune.runs.csv_file import csv_text
from finetune.runs.files import check_writable, write_bytes
from finetune.runs.folder import write_json

RECORD, PAGE = "audit.json", "audit.md"
MODEL = ".onnx"


def audit(source: Path, config: AuditConfig, open_model: OpenModel | None = None) -> dict[str, Any]:
    """Audit a run folder, a predictions.parquet, a CSV, or an exported model on a table; write the folder.

    Args:
        source: what is audited.
        config: the options.
        open_model: loads an exported model; None refuses models.

    Returns what audit.json holds, and the `page`.

    Raises UsageError, DataError or ModelFileError for what cannot be audited, and for a folder that holds
    something else.
    """
    out = Path(config.out) if config.out else _beside(source)
    _claim(out)
    shown = _shown(source, config, open_model)
    answers = read_answers(source, config) if shown is None else shown.answers
    scored = score_answers(answers, config)
    scored["notes"], scored["notes_of"] = notes_for([answers.source, str(config.data.table or "")]), NOTES_OF
    if shown is not None and config.robustness:
        scored["robustness"] = _robustness(shown, config)
    if config.identity_leak:
        scored["identity_leak"] = _leak(source, answers, config)
    if config.cross is not None:
        scored["cross"] = cross_matrix(
            Path(config.cross), lambda file, faces: _other(file, faces, config, open_model)
        )
    return _write(out, scored)


def _shown(source: Path, config: AuditConfig, open_model: OpenModel | None) -> ShownModel | None:
    if source.suffix.lower() != MODEL:
        return None
    if open_model is None:
        raise UsageError(
            f"{source}: exported models are audited by the program crl: crl age audit {source.name}"
        )
    return ShownModel(open_model(source, config), config)


def _other(file: Path, faces: str | None, config: AuditConfig, open_model: OpenModel | None) -> Answers:
    """Return the answers of one place of the matrix."""
    own = replace(config, name=None, data=replace(config.data, table=faces or config.data.table))
    shown = _shown(file, own, open_model)
    return read_answers(file, own) if shown is None else shown.answers


def _robustness(shown: ShownModel, config: AuditConfig) -> dict[str, Any]:
    from agecls.audit.robustness import robustness

    how = Resampling(config.resamples, config.seed)
    return robustness(shown.answers, shown.images, shown.ages, config.robustness, how)


def _leak(source: Path, answers: Answers, config: AuditConfig) -> dict[str, Any]:
    """Return how much identity is in the outputs, and in a run's embeddings beside those it began with."""
    from agecls.audit.identity_leak import identity_leak

    if not answers.people:
        raise DataError("--identity_leak needs people: these answers name none (--data.subject_column)")
    if answers.outputs is None:
        raise DataError(
            "--identity_leak needs outputs: this table has predicted ages alone, no probabilities"
        )
    found = identity_leak(
        answers.outputs,
        answers.unit,
        answers.age,
        groups=answers.fold,
        resamples=config.resamples,
        seed=config.seed,
    )
    rows = [{"what": "log-probabilities", **found}]
    note = "The file gives probabilities and no embedding, so these are what it can leak."
    if source.is_dir():
        from agecls.audit.embeddings import embedding_leaks

        more = embedding_leaks(source, answers, config)
        rows += more
        note = (
            "The embedding is what the network's head reads; the goal is less than the starting backbone's."
        )
    return {"note": note, "rows": rows}


def _beside(source: Path) -> Path:
    return source / "audit" if source.is_dir() else source.with_name(f"{source.stem}-audit")


def _claim(out: Path) -> None:
    """Raise UsageError where the folder holds something that is no audit."""
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).is_file():
        raise UsageError(f"{out} holds something else than an audit: give --out another folder")
    check_writable(out)


def _write(out: Path, scored: Mapping[str, Any]) -> dict[str, Any]:
    from agecls.audit.figures import draw_figures

    out.mkdir(parents=True, exist_ok=True)
    pictures = draw_figures(scored, out)
    for name, (header, rows) in tables_of(scored).items():
        write_bytes(out / f"{name}.csv", csv_text(header, rows).encode())
    write_bytes(out / PAGE, audit_page(scored, pictures).encode())
    write_json(out / RECORD, {**scored, "pictures": [one.file.as_posix() for one in pictures]})
    _tell(scored)
    say(f"audit: {out / PAGE}")
    return {**scored, "page": str(out / PAGE)}


Rows = tuple[Sequence[str], list[list[Any]]]
RATE = ("percent", "low", "high", "images", "units", "hits", "hit_units", "method")


def tables_of(scored: Mapping[str, Any]) -> dict[str, Rows]:
    """Return the audit's tables by file name: header and rows."""
    challenge_header = [
        "challenge",
        *(f"{kind}_{key}" for kind in ("fpr", "burden") for key in RATE),
        *(f"severity_{key}" for key in ("images", "mean", "p95")),
    ]
    challenge = [
        [
            row["challenge"],
            *(row[kind][key] for kind in ("fpr", "burden") for key in RATE),
            *(row["severity"][key] for key in ("images", "mean", "p95")),
        ]
        for row in scored["challenge_ages"]
    ]
    ages = list(map(str, scored["challenge"]))
    passing = [
        [row["true_age"], *(row[key] for key in RATE), *(row["at"][age] for age in ages)]
        for row in scored["pass_rates"]
    ]
    cell_keys = ("sex", "age", "images", "mae", "bias", "averaged")
    slice_keys = ("value", "images", "units", "minor_images", "minor_units", "mae", "bias", "fpr")
    return {
        "challenge_ages": (challenge_header, challenge),
        "pass_rates": (["true_age", *RATE, *(f"taken_for_{age}" for age in ages)], passing),
        "cells": (cell_keys, [[cell[key] for key in cell_keys] for cell in scored["errors"]["cells"]]),
        "slices": (
            ("label", *slice_keys),
            [
                [label["label"], *(cell[key] for key in slice_keys)]
                for label in scored["fairness"]
                for cell in label["cells"]
            ],
        ),
    }


def _tell(scored: Mapping[str, Any]) -> None:
    """Print the headline, what n can show, and the notes."""
    row = next(one for one in scored["challenge_ages"] if one["challenge"] == scored["headline"])
    errors, severe = scored["errors"], row["severity"]
    minors, adults = ("{}-{}".format(*scored[key]) for key in ("minor_band", "adult_band"))
    lines = [
        [f"FPR at {row['challenge']} (minors {minors})", rate_text(row["fpr"])],
        [f"burden at {row['challenge']} (adults {adults})", rate_text(row["burden"])],
        ["severity, mean and 95th percentile (years)", f"{number(severe['mean'])}, {number(severe['p95'])}"],
        ["MAE over all (years)", mean_text(errors["mae"])],
        [f"MAE over {errors['mae_cells']['cells']} cells {adults}", mean_text(errors["mae_cells"])],
        ["CS@3, CS@5", f"{rate_text(errors['within_3'])}, {rate_text(errors['within_5'])}"],
    ]
    counts = f"{scored['images']} images, {scored['units']} {scored['unit']}"
    table(f"{scored['name']}: {counts}", ["what", "value"], lines)
    say(f"what n can show: {row['shows']}")
    for note in [*scored["notes"], *scored["notices"]]:
        say(f"note: {note}")
