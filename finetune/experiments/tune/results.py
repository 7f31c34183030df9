"""What a search leaves: trials.csv, report.md, and configurations that run as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import yaml

from finetune.cli.command import command_line
from finetune.cli.console import say, table
from finetune.cli.words import value_text
from finetune.experiments.config import OwnRates
from finetune.experiments.study.arms import BASELINE, Arm
from finetune.experiments.study.cells import CellPlan
from finetune.experiments.study.runs import cell_config
from finetune.experiments.tune.search import Key, Search
from finetune.experiments.tune.trials import Setting, shown_score, tuned, unit_of
from finetune.figures.markdown import bullets, code, escape, number, page
from finetune.figures.markdown import table as markdown_table
from finetune.runs.csv_file import csv_text
from finetune.runs.files import json_text, to_plain, write_bytes
from finetune.runs.former_losses import told_in_full
from finetune.training.config import to_dict

COLUMNS = ("arm", "lr", "head_lr_multiplier", "weight_decay", "epochs", "score", "sd", "standard_error")
HEADER = (*COLUMNS, "units", "unit", "images", "minutes", "chosen")
HOW_TO_READ = (
    "Scores are of validation images, which chose the setting: the score of the chosen one is too high. What "
    "it is worth is what a run of its configuration scores on the test images, which no trial has read.",
    "sd is over trainings (seeds and validation parts); the standard error is over what is resampled, by the "
    "bootstrap. Settings within one standard error of the best are not told apart.",
    "A cross-validation with this configuration tests every fold once, and the people of all folds but the "
    "one that the search left out were among those that chose. Where that matters, test that fold alone.",
)


def write_results(search: Search, study_type: type[Any]) -> dict[str, Any]:
    """Write the table, the report and the configurations into the search's folder; return the summary.

    Args:
        search: with the trials that are finished.
        study_type: the options of the task's studies, for the configuration of one with several arms.
    """
    folder, best = search.folder, {arm.name: search.best(arm) for arm in search.arms}
    rows = _rows(search, best)
    cells = ([row[name] for name in HEADER] for row in rows)
    write_bytes(folder / "trials.csv", csv_text(HEADER, cells).encode())
    chosen = {
        arm.name: _chosen(search, arm, key) for arm in search.arms if (key := best[arm.name]) is not None
    }
    files = [_write_arm(search, arm, chosen[arm.name]) for arm in search.arms if arm.name in chosen]
    if len(search.arms) > 1 and len(chosen) == len(search.arms) and issubclass(study_type, OwnRates):
        files.append(_write_study(search, study_type, chosen))
    summary = {
        "tune": str(folder),
        "score": _score_name(search),
        "unit": unit_of(_monitor(search)),
        "finished": not search.stopped and len(chosen) == len(search.arms),
        "stopped": search.stopped,
        "chosen": {name: {key: value for key, value in row.items()} for name, row in chosen.items()},
        "configs": [str(file) for file in files],
        "trials": rows,
    }
    write_bytes(folder / "report.json", json_text(summary, indent=1).encode())
    write_bytes(folder / "report.md", _page(search, rows, chosen, files).encode())
    return summary


def tell_results(summary: Mapping[str, Any]) -> None:
    """Print the chosen setting of every arm, and where the configurations and the report lie."""
    if summary["chosen"]:
        header = ["arm", "lr", "head", "weight decay", "epochs", "score", "error", "not told apart"]
        cells = [[name, *_told(row), str(row["alike"])] for name, row in summary["chosen"].items()]
        table(f"Best on validation images: {summary['score']} ({summary['unit']})", header, cells)
        for name, row in summary["chosen"].items():
            for note in row["notes"]:
                say(f"note: {name}: {note}")
    for file in summary["configs"]:
        say(f"runs as it is: {file}")
    say(f"report: {Path(summary['tune']) / 'report.md'}")


def _rows(search: Search, best: Mapping[str, Key | None]) -> list[dict[str, Any]]:
    rows = []
    for key, found in search.outcomes.items():
        arm, setting, epochs = key
        rows.append(
            {
                "arm": arm,
                **asdict(setting),
                "epochs": epochs,
                "score": shown_score(_monitor(search), found.score),
                "sd": found.sd,
                "standard_error": found.error,
                "units": found.units,
                "unit": found.unit,
                "images": found.images,
                "minutes": round(found.minutes, 3),
                "chosen": best.get(arm) == key,
            }
        )

    def place(row: Mapping[str, Any]) -> tuple[str, float]:
        score = shown_score(_monitor(search), row["score"])
        return row["arm"], math.inf if score is None else -score

    return sorted(rows, key=place)


def _chosen(search: Search, arm: Arm, key: Key) -> dict[str, Any]:
    """Return the chosen setting of an arm, with what must be known of it."""
    _, setting, epochs = key
    own = {one: found for one, found in search.comparable().items() if one[0] == arm.name}
    found = own[key]
    alike = [
        one
        for one, other in own.items()
        if one != key and other.score is not None and found.score is not None
        and found.score - other.score <= (found.error or 0.0)
    ]  # fmt: skip
    before = own.get((arm.name, search.settings[0], epochs))
    return {
        **asdict(setting),
        "epochs": epochs,
        **{name: getattr(found, name) for name in ("sd", "error", "units", "unit", "images")},
        "score": shown_score(_monitor(search), found.score),
        "before": None if before is None else shown_score(_monitor(search), before.score),
        "alike": len(alike),
        "of": len(own),
        "notes": _edges(search, setting),
    }


def _edges(search: Search, setting: Setting) -> list[str]:
    """Return where the chosen value is the smallest or largest tried, beyond which better ones may lie."""
    notes = []
    for name, value in asdict(setting).items():
        tried = sorted({float(getattr(one, name)) for one in search.settings})
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            side = "smallest" if value == tried[0] else "largest"
            text = value_text(value)
            notes.append(f"{name} {text} is the {side} that was tried: try further ones (--search.{name})")
    return notes


def _monitor(search: Search) -> str:
    return str(search.experiment.config.train.monitor)


def _score_name(search: Search) -> str:
    return _monitor(search).replace("_", " ")


def _told(row: Mapping[str, Any]) -> list[str]:
    values = [value_text(row[name]) for name in ("lr", "head_lr_multiplier", "weight_decay", "epochs")]
    return [*values, number(row["score"]), number(row["error"])]


def _write_arm(search: Search, arm: Arm, row: Mapping[str, Any]) -> Path:
    """Write an arm's configuration, whole, with the rates that were found; return the file."""
    task, config = search.experiment.task, search.experiment.config
    name = f"tuned-{arm.name}" if len(search.arms) > 1 else "tuned"
    own = task.config_type(**{item.name: getattr(config, item.name) for item in fields(task.config_type)})
    setting = Setting(*(row[key] for key in asdict(search.settings[0])))
    plan = CellPlan(arm, 0, 1.0, search.folder / f"{name}-run")
    run = cell_config(tuned(own, setting, row["epochs"]), plan)
    content = to_dict(replace(run, run=replace(run.run, resume="never", allow_change=())))
    return _write(search.folder / f"{name}.yaml", content, _about(search, row))


def _write_study(search: Search, study_type: type[Any], chosen: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the configuration of a study in which every arm has the rates that were found for it."""
    config = search.experiment.config
    own = {item.name: getattr(config, item.name) for item in fields(study_type) if hasattr(config, item.name)}
    keys = (*asdict(search.settings[0]), "epochs")
    study = study_type(
        **{
            **own,
            "losses": config.arms,
            "baseline": BASELINE in chosen,
            "controls": False,
            "rates": {name: {key: row[key] for key in keys} for name, row in chosen.items()},
            "train": replace(config.train, select="last", patience=0),
            "run": replace(config.run, dir=str(search.folder / "study"), resume="never", allow_change=()),
        }
    )
    return _write(search.folder / "study.yaml", to_dict(study), _about(search, None))


def _about(search: Search, row: Mapping[str, Any] | None) -> list[str]:
    """Return the lines that say where the rates of a configuration come from."""
    lines = [f"Rates found on validation images by: {command_line()}"]
    if row is not None:
        error = f", standard error {row['error']:.2f}" if row["error"] is not None else ""
        lines.append(
            f"{_score_name(search)} {row['score']:.2f} {unit_of(_monitor(search))}{error}, of "
            f"{row['images']} validation images ({row['units']} {row['unit']}s), the best of {row['of']} "
            "trials. The test part was not read."
        )
    if search.stopped:
        lines.append(f"The search was not finished: {search.stopped}")
    return lines


def _write(file: Path, content: Mapping[str, Any], about: Sequence[str]) -> Path:
    plain = to_plain(told_in_full(dict(content)))
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    head = "".join(f"# {' '.join(line.split())}\n" for line in about)
    write_bytes(file, f"{head}\n{text}".encode())
    return file


def _page(
    search: Search,
    rows: Sequence[Mapping[str, Any]],
    chosen: Mapping[str, Mapping[str, Any]],
    files: Sequence[Path],
) -> str:
    sections = (
        ("Found", bullets(_found(search, chosen))),
        ("All trials", _trial_table(rows)),
        ("Configurations", "\n".join(f"* {code(file.name)}" for file in files) or None),
        ("How it was searched", bullets(_how(search))),
        ("How to read this", bullets(HOW_TO_READ)),
    )
    return page(escape(f"Rates for {search.experiment.config.model.backbone}"), sections)


def _found(search: Search, chosen: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each arm, the reason why the search ended early, and what lies at an edge."""
    lines = [f"not finished: {search.stopped}"] if search.stopped else []
    for arm in search.arms:
        row = chosen.get(arm.name)
        if row is None:
            lines.append(f"{arm.title}: no setting was tried with every arm and has a score")
            continue
        lr, head, decay, epochs, score, error = _told(row)
        told = f"lr {lr}, head x{head}, weight decay {decay}, {epochs} epochs"
        before = "" if row["before"] is None else f"; with the rates it had {number(row['before'])}"
        lines.append(
            f"{arm.title}: {told}: {_score_name(search)} {score} {unit_of(_monitor(search))} (standard error "
            f"{error}){before}. {row['alike']} of {row['of'] - 1} others are within one standard error"
        )
        lines += [f"{arm.title}: {note}" for note in row["notes"]]
    return lines


def _trial_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["arm", "lr", "head x", "weight decay", "epochs", "score", "sd", "standard error"]
    head += ["units", "images", "min"]
    cells = [
        [
            escape(row["arm"]),
            *(value_text(row[name]) for name in ("lr", "head_lr_multiplier", "weight_decay", "epochs")),
            ("**{}**" if row["chosen"] else "{}").format(
                "diverged" if row["score"] is None else number(row["score"])
            ),
            number(row["sd"]),
            number(row["standard_error"]),
            f"{row['units']} {row['unit']}s",
            str(row["images"]),
            number(row["minutes"]),
        ]
        for row in rows
    ]
    return markdown_table(head, cells)


def _how(search: Search) -> list[str]:
    config = search.experiment.config
    options = to_dict(config.search)
    told = ", ".join(f"{name} {value}" for name, value in options.items())
    train, splits = config.train, search.experiment.splits
    parts = "; ".join(f"{len(one.train)} train, {len(one.val)} validate" for one in splits)
    return [
        f"{len(search.settings)} settings for every arm, epochs {', '.join(map(str, search.rungs))}: {told}",
        f"images: {parts}; of the test part none was opened",
        f"{train.optimizer}, {train.schedule} schedule, batches of {train.batch_size}, "
        f"augmentation {train.augment}",
        f"score: {_score_name(search)} of the last epoch's weights",
        f"command: {command_line()}",
    ]
