"""`calibrate`: a finished run's probabilities made honest by images that its models never saw."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.cli.console import say, table
from finetune.errors import DataError, UsageError
from finetune.experiments.config import CalibrateConfig
from finetune.experiments.measures import FEWEST_UNITS
from finetune.experiments.probabilities.fitting import (
    Entry,
    Measured,
    Rules,
    cross_measured,
    fitted_entry,
    measured_facts,
    measured_on,
    parts_of_people,
)
from finetune.experiments.probabilities.held_out import ALONE, HeldOut, held_out, study_note
from finetune.experiments.records.predictions import Predictions, join_predictions
from finetune.experiments.result import Result, model_files
from finetune.experiments.task import Task
from finetune.figures.markdown import number
from finetune.metrics.conformal import FOR_ORDERED, fewest_people
from finetune.runs.files import to_plain
from finetune.runs.folder import read_json, write_json

CALIBRATION_FILE = "calibration.json"
SCHEMA = 1


def calibrate_run(task: Task, folder: Path, config: CalibrateConfig) -> dict[str, Any]:
    """Fit temperature and sets for every model of a run, write calibration.json beside it, and return it.

    Returns
        schema, ordered, classes, level; models: per fold (as text; "ensemble" for the average of all) the
        entry of an exported file's facts, and `weights`, the SHA-256 of its models' files;
        measured: what calibrated probabilities and sets of all models were worth on images that neither was
        fitted on.

    Raises what `held_out` does; UsageError for a score of ordered classes on others; DataError where a
    class has too few people for vector scaling.
    """
    result = Result.load(folder, task.form)
    rules = checked_rules(task, config)
    found = held_out(task, result, config)
    return write_calibration(rules, result, found)


def calibrate_tested(task: Task, folder: Path) -> dict[str, Any] | None:
    """Calibrate a finished run on its stored test predictions; None where they cannot do it.

    Nothing is shown again: a test that averaged views of an image says nothing of one view.
    """
    result = Result.load(folder, task.form)
    if (result.record.test_crops or "center") != "center" or not len(result.predictions):
        say(
            "note: not calibrated: the test averaged views of an image; crl calibrate shows one of each again"
        )
        return None
    config = CalibrateConfig(on="test")
    return write_calibration(Rules(task, config), result, held_out(task, result, config))


def checked_rules(task: Task, config: CalibrateConfig) -> Rules:
    """Return the rules of a configuration; UsageError where they do not fit the task."""
    if config.score in FOR_ORDERED and not task.ordered:
        raise UsageError(
            f"--score {config.score} is for ordered classes; {task.title} takes raps, aps or lac"
        )
    return Rules(task, config)


def write_calibration(rules: Rules, result: Result, found: HeldOut) -> dict[str, Any]:
    """Fit an entry per model, measure them, say and write what was found; return it."""
    note = study_note(result.folder, found.source)
    files = {file.parent.name.removeprefix("fold"): file for file in model_files(result.folder)}
    models: dict[str, Entry] = {}
    shared = None if found.source == "other data" else _measured_tested(rules, found)
    for fold, own in found.by_fold.items():
        members = found.members if fold == ALONE else None
        part = f"fold {fold}" if "fold" in result.predictions else "the one test part"
        told = f"{found.told} ({part})" if shared else found.told
        measured = shared.of_fold(fold) if shared else _measured_alone(rules, own, members)
        file = files.get(str(fold)) or next(iter(files.values()))
        models["ensemble" if fold == ALONE else str(fold)] = {
            **fitted_entry(rules, own, told, note, members),
            "measured": measured_facts(rules, measured),
            "weights": [file_digest(one) for one in (files.values() if fold == ALONE else [file])],
        }
    last = list(models.values())[-1]
    content: dict[str, Any] = to_plain(
        {
            "schema": SCHEMA,
            "ordered": rules.task.ordered,
            "classes": list(result.class_names),
            "level": rules.config.level,
            "source": found.source,
            "models": models,
            "measured": measured_facts(rules, shared) if shared else last["measured"],
        }
    )
    tell(content)
    write_json(result.folder / CALIBRATION_FILE, content)
    say(f"calibration: {result.folder / CALIBRATION_FILE}")
    return content


def _measured_tested(rules: Rules, found: HeldOut) -> Measured:
    """Return the run's test images, calibrated by images that are not among them."""
    if found.source == "validation" and found.tested is not None:
        tested = found.tested

        def own_validation(rows: np.ndarray) -> tuple[Predictions, None]:
            return found.by_fold[int(tested.fold[rows][0])], None

        how = "on the test images, which calibrated nothing"
        return measured_on(rules, tested, tested.fold, own_validation, how)
    own = join_predictions(list(found.by_fold.values()))
    if len(found.by_fold) > 1:
        how = f"cross-fitted over {len(found.by_fold)} folds: each is calibrated by the others"
        return cross_measured(rules, own, own.fold, how)
    return _measured_alone(rules, own)


def _measured_alone(rules: Rules, own: Predictions, members: np.ndarray | None = None) -> Measured:
    """Return images that calibrate one model, each part of their people calibrated by the others."""
    people, unit = rules.people(own)
    parts = parts_of_people(people)
    count = len(np.unique(parts))
    if count < 2:
        raise DataError("one person's images cannot tell what a calibration is worth: give images of more")
    who = "images" if unit == "image" else "people"
    how = f"cross-fitted over {count} parts of the {who}: each is calibrated by the others"
    return cross_measured(rules, own, parts, how, members)


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a model's file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tell(content: Mapping[str, Any]) -> None:
    """Print each model's temperature and set, and what both were worth."""
    rows = []
    for name, entry in content["models"].items():
        t = "a scale per class" if entry["T"] is None else number(entry["T"], 3)
        whole = "whole set" if entry["sets"]["q"] is None else number(entry["sets"]["q"], 3)
        rows.append([name, t, whole, entry["n"], f"{entry['persons']} {entry['unit']}s", entry["from"]])
    table("calibration", ["fold", "T", "quantile", "images", "of", "from"], rows)
    for name, entry in content["models"].items():
        _warn(name, entry)
    raw, after, sets = (content["measured"][key] for key in ("raw", "calibrated", "sets"))
    held, unit = sets["coverage"], next(iter(content["models"].values()))["unit"]
    found = (
        f"{number(held['persons'], 1)} % of pictures of new people, {number(held['pictures'], 1)} % of all"
    )
    found = f"{number(held['pictures'], 1)} % of images" if unit == "image" else found
    shown = [name for name in ("nll", "ece", "adaptive_ece", "threshold_ece") if name in raw]
    changes = ", ".join(f"{name} {number(raw[name], 3)} -> {number(after[name], 3)}" for name in shown)
    say(
        f"{content['measured']['how']}, {raw['n']} images: {changes}; sets at level "
        f"{100 * content['level']:g} % hold the true class for {found}, {number(sets['mean_size'])} classes "
        "on average"
    )


def _warn(name: str, entry: Mapping[str, Any]) -> None:
    sets = entry["sets"]
    if entry["at_end"]:
        say(
            f"warning: {name}: the temperature {entry['T']:.3g} ended the search: these images do not tell "
            "one (all right, or no better than chance)"
        )
    if entry["persons"] < FEWEST_UNITS:
        say(f"warning: {name}: {entry['persons']} {entry['unit']}s are few: the temperature is uncertain")
    if sets["q"] is None:
        needed = fewest_people(sets["level"])
        say(
            f"note: {name}: a set at level {sets['level']:g} needs {needed} {entry['unit']}s, there are "
            f"{entry['persons']}: every set is whole"
        )


def stored_calibration(folder: Path) -> dict[str, Any] | None:
    """Return calibration.json of a run; None where there is none. DataError for one of another version."""
    file = folder / CALIBRATION_FILE
    if not file.is_file():
        return None
    content = read_json(file)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(
            f"{file} is not of this version: run calibrate again (crl age calibrate, crl fine calibrate)"
        )
    return content


def without_weights(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a calibration without the digests of model files, which hold minutes and the like, too."""
    models = {
        name: {key: value for key, value in entry.items() if key != "weights"}
        for name, entry in content["models"].items()
    }
    return {**content, "models": models}


def entry_of(content: Mapping[str, Any], fold: int | None, files: Sequence[Path]) -> dict[str, Any] | None:
    """Return a model's entry for its exported facts, with what was measured; None where there is none.

    `fold` None is the average of all models. DataError where the entry is of other weights than in `files`.
    """
    own = content["models"].get("ensemble" if fold is None else str(fold))
    if own is None:
        return None
    if own["weights"] != [file_digest(file) for file in files]:
        raise DataError(f"{files[0]} was trained again after it was calibrated: calibrate the run again")
    entry = {key: value for key, value in own.items() if key != "weights"}
    several = len(content["models"]) > 1 and content["source"] != "other data"
    return {**entry, "recipe": content["measured"] if several else None}
