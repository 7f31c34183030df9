"""A finished age run -> what a model card reports: scores on its own test images, and their limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agecls.data.groups import AgeGroups
from agecls.data.years import years_of
from agecls.decoders import decode_median
from agecls.measures import AGE_RESULT, MEASURES
from agecls.report.card_facts import (
    HOW_TO_SLICE,
    INTENDED_USE,
    OUT_OF_SCOPE,
    data_facts,
    detector_facts,
    not_measured,
    pretraining_facts,
)
from agecls.report.report_sections import age_gaps
from agecls.scores import FEWEST_SUBJECTS, age_scores, cell_scores, score_cross_validation
from agecls.year_scores import decade_rows, known_row, year_facts
from finetune.errors import UsageError
from finetune.experiments.exported.card import PRIVACY
from finetune.experiments.measures import Measure, shown_in
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import RunRecord
from finetune.experiments.result import Result
from finetune.images.checks import known_count, subjects_known
from finetune.images.manifest import Manifest
from finetune.metrics.bootstrap import cluster_bootstrap_interval
from finetune.metrics.intervals import METHOD, told_method
from finetune.runs.files import json_text
from finetune.runs.folder import read_json

ADULT = 18
OLDEST_YOUTH = 20  # a group may hold ages on both sides of 18 up to here: Adience's 15-20 does
GENDERS = {"f": "f", "m": "m", "u": "u (unknown)", "": "not recorded"}
SAME_EXPERIMENT = ("manifest", "split", "loss", "backbone", "seed")


def age_card(
    run: Path, fold: int | None, measures: Sequence[Measure] = MEASURES, *, tested: bool = True
) -> dict[str, Any]:
    """Return what is known of the model of a finished age run: {"metrics": {...}, "card": {...}}.

    Every number was measured on test images of this run; None or an entry of `not_measured` stands for
    anything else. Cells of fewer than 30 subjects have counts, and None for their scores. Plain JSON values,
    no path of a machine.

    Args:
        run: the folder of `crl age cv` or of `crl age train`.
        fold: the fold of a cross-validation whose model the card is about; None for the average of all its
            models. A single run has one model, and takes its own fold or None.
        measures: the scores there are.
        tested: whether the card is about the weights that the run tested; others have no scores.

    Returns
        metrics: of one model scope "fold", fold, n, subjects, exact, one_off (percent; with _interval), mae
            (groups), balanced_accuracy, ece, brier, nll, rps and baseline; of an average scope "members", and
            exact_mean, _sd, _per_fold, _pooled, _mean_interval and one_off_... instead of exact and one_off.
            {} where nothing was tested.
        card: groups (of years instead decades, rows of mae and bias), gender, yaw (rows per cell),
            false_adult and false_minor (None where the classes are no ages), detector (None unless
            measured), cross_validation (the members' metrics, groups and rates,
            for one model of several), holes, data, training, pretraining, intended_use, out_of_scope,
            privacy, not_measured, how_to_slice.

    Raises DataError for a folder that is no finished age run, UsageError for a fold it has no model of.
    """
    result, fold = choose_model(Path(run), fold)
    found = result.predictions
    of_model = np.full(len(found), tested) & (fold is None or found.fold == fold)
    own = found.select(of_model)
    several = len(result.folds) > 1
    decades = decade_cells(own)
    groups = [] if decades else group_cells(own)
    detector = detector_facts(result) if tested else None
    gender, yaw = gender_cells(own), yaw_cells(own, result.manifest)
    members = _members(result, measures) if several and tested else None
    metrics = (members or {}) if fold is None else _single(result, own, fold, measures)
    data = data_facts(result, fold)
    if members and data["subjects_known"] and data["shared_people"] is None:  # run.json of an earlier toolkit
        data["shared_people"] = members["shared_people"]
    if not data["subjects_known"]:
        metrics = _without_subjects(metrics)
        members = _without_subjects(members) if members else None
    card = {
        "intended_use": INTENDED_USE,
        "out_of_scope": OUT_OF_SCOPE,
        "privacy": PRIVACY,
        "how_to_slice": HOW_TO_SLICE,
        "holes": age_gaps(result.class_names),
        "groups": groups,
        **({"decades": decades} if decades else {}),
        "gender": gender,
        "yaw": yaw,
        **crossing_rates(own),
        "detector": detector,
        "cross_validation": _sisters(members, found) if members and fold is not None else None,
        "data": data,
        "training": _training(result, fold),
        "pretraining": pretraining_facts(result.run),
        "not_measured": not_measured(
            groups or decades,
            gender=bool(gender),
            yaw=bool(yaw),
            averaged=fold is None,
            tested=tested,
            images=len(own),
            detector=detector is not None,
        ),
    }
    plain: dict[str, Any] = json.loads(json_text({"metrics": metrics, "card": card}))
    return plain


def _without_subjects(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of images whose subjects are not known: each was taken as one of its own."""
    return {name: value for name, value in metrics.items() if name != "subjects"}


def _sisters(members: Mapping[str, Any], found: Predictions) -> dict[str, Any]:
    """Return what all models of a cross-validation scored, for the card of one of them."""
    decades = decade_cells(found)
    cells = {"decades": decades} if decades else {"groups": group_cells(found)}
    return {**members, **cells, **crossing_rates(found)}


def choose_model(run: Path, fold: int | None) -> tuple[Result, int | None]:
    """Return the result that describes a model best, and the model's fold; None for the average of all folds.

    The folder of one fold of a finished cross-validation leads to the cross-validation itself.
    """
    result = Result.load(run, AGE_RESULT)
    if result.record.kind == "age_cv":
        if fold is not None and fold not in result.folds:
            raise UsageError(f"{run} has no fold {fold}: choose among {result.folds}")
        return result, fold
    own = result.record.fold
    if fold not in (None, own):
        raise UsageError(f"{run} is the run of fold {own}, it holds no model of fold {fold}")
    whole = run.resolve().parent
    if run.resolve().name == f"fold{own}" and (whole / "run.json").is_file():
        record = RunRecord.from_dict(read_json(whole / "run.json")).to_dict()
        same = all(record.get(key) == result.run.get(key) for key in SAME_EXPERIMENT)
        if record.get("kind") == "age_cv" and same:
            return Result.load(whole, AGE_RESULT), own
    return result, own


def _single(result: Result, own: Predictions, fold: int, measures: Sequence[Measure]) -> dict[str, Any]:
    """Return the scores of one model on its own test images."""
    if not len(own):
        return {}
    in_years = year_facts(own)
    scores = age_scores(own.probs, own.target) | in_years
    cell = cell_scores("all", own) | (in_years if len(np.unique(own["subject"])) >= FEWEST_SUBJECTS else {})
    told = shown_in(measures, "facts", own.class_names)
    return {
        "scope": "fold",
        "fold": fold,
        "n": scores["n"],
        **{measure.facts_name: scores[measure.score_name] for measure in told},
        "subjects": known_count(own["subject"], known=subjects_known(own)),
        **{
            f"{one.facts_name}_interval{kind}": cell[f"{one.key}_interval{kind}"]
            for one in told
            for kind in ("", METHOD)
            if one.over == "folds" and f"{one.key}_interval{kind}" in cell
        },
        "baseline": _baseline(result, fold),
    }


def _members(result: Result, measures: Sequence[Measure]) -> dict[str, Any]:
    """Return the scores of all models of a cross-validation, each on its own test images."""
    in_years = year_facts(result.predictions)
    scores = score_cross_validation(result.predictions) | in_years
    intervals = scores["intervals"] | {
        key.replace("_interval", "_mean"): value for key, value in in_years.items() if "_interval" in key
    }
    told = shown_in(measures, "facts", result.class_names)
    plain = {one.facts_name: scores[one.score_name] for one in told if one.over != "folds"}
    names = [one.key for one in told if one.over == "folds"]
    over = [f"{name}_{kind}" for name in names for kind in ("mean", "sd", "per_fold", "pooled")]
    means = {f"{name}_mean_interval": intervals[f"{name}_mean"] for name in names}
    return {
        "scope": "members",
        "members": len(scores["folds"]),
        **{name: scores[name] for name in ("n", "subjects", "folds")},
        **plain,
        **{name: scores[name] for name in over},
        **{name: ends if intervals["clusters"] >= FEWEST_SUBJECTS else None for name, ends in means.items()},
        **{
            f"{name}_mean_interval{METHOD}": intervals[f"{name}_mean{METHOD}"]
            for name in names
            if f"{name}_mean{METHOD}" in intervals
        },
        "shared_people": scores["subjects_in_several_folds"],
        "baseline": _baseline(result, None),
    }


def _baseline(result: Result, fold: int | None) -> dict[str, Any] | None:
    """Return the scores of the majority-class baseline, as the run's report found them."""
    file = result.folder / "report.json"
    report = read_json(file) if file.is_file() else {}
    found = report.get("baseline")
    if not found:
        return None
    names, groups = result.class_names, found["group_per_fold"]
    if fold is None:
        told = [names[group] for group in dict.fromkeys(groups)]
        return {"groups": told, **{name: found[f"{name}_mean"] for name in ("exact", "one_off")}}
    place = report["folds"].index(fold)
    return {
        "groups": [names[groups[place]]],
        **{name: found[f"{name}_per_fold"][place] for name in ("exact", "one_off")},
    }


def decade_cells(found: Predictions) -> list[dict[str, Any]]:
    """Return the rows of `decade_rows`; none where the classes are not years."""
    years = years_of(found.class_names)
    rows = decade_rows(found, years) if years is not None and len(found) else []
    return [known_row(row) for row in rows]


def _cells(found: Predictions, labels: np.ndarray, names: Mapping[Any, str]) -> list[dict[str, Any]]:
    """Return the rows of `cell_scores` with counts instead of a score where subjects are few."""
    rows = []
    for label, name in names.items():
        cell = found.select(labels == label)
        hits = {"right": int(cell.correct.sum()), "one_off_right": int(cell.one_off.sum())}
        rows.append(cell_scores(name, cell, known=subjects_known(found)) | hits)
    return rows


def group_cells(found: Predictions) -> list[dict[str, Any]]:
    """Return a row per true age group, young to old, also for groups without an image.

    A row has name, images, subjects, right and one_off_right (images), and exact, one_off and their _interval
    in percent, None below 30 subjects.
    """
    return _cells(found, found.target, dict(enumerate(found.class_names)))


def gender_cells(found: Predictions) -> list[dict[str, Any]]:
    """Return a row per gender with the group most of its images belong to; no row where none is known."""
    present = [label for label in GENDERS if (found["gender"] == label).any()]
    if not set(present) - {""}:
        return []
    rows = _cells(found, found["gender"], {label: GENDERS[label] for label in present})
    for label, row in zip(present, rows, strict=True):
        counts = np.bincount(found.target[found["gender"] == label], minlength=len(found.class_names))
        most = int(counts.argmax())
        row["mostly"] = {"group": found.class_names[most], "images": int(counts[most])}
    return rows


def yaw_cells(found: Predictions, manifest: Manifest | None) -> list[dict[str, Any]]:
    """Return a row per angle of the head to either side, frontal first; no row where the data know none."""
    if manifest is None or "yaw" not in manifest or not len(found):
        return []
    known = dict(zip(manifest["path"].tolist(), manifest["yaw"].tolist(), strict=True))
    angles = np.array([abs(round(float(known[path]))) for path in found.path.tolist()])
    names = {int(angle): f"{angle} degrees" if angle else "frontal" for angle in np.unique(angles)}
    return _cells(found, angles, names)


def young_and_adult(class_names: Sequence[str]) -> tuple[list[int], list[int]] | None:
    """Return the groups that begin below 18 and the others; None where the names do not allow the question.

    That is: no ages, one side only, or a group from below 18 to beyond 20.

    >>> young_and_adult(["0-12", "15-20", "25+"])
    ([0, 1], [2])
    >>> young_and_adult(["0-30", "31+"]), young_and_adult(["robin", "wren"])
    (None, None)
    """
    try:
        bounds = AgeGroups.parse(",".join(class_names)).bounds
    except UsageError:
        return None
    young = [index for index, (lower, _) in enumerate(bounds) if lower < ADULT]
    adult = [index for index in range(len(bounds)) if index not in young]
    if not young or not adult or (bounds[young[-1]][1] or 0) > OLDEST_YOUTH:
        return None
    return young, adult


def crossing_rates(found: Predictions) -> dict[str, Any]:
    """Return how often the young are named adults and adults young: `false_adult` and `false_minor`.

    Each has: of (true groups), named (groups named instead), images, subjects, count (images so named) and,
    from 30 subjects on, rate in percent and its interval; false_adult also `oldest`, the same of the oldest
    young group alone. Both are None where the classes do not allow the question.
    """
    parts = young_and_adult(found.class_names)
    if parts is None or not len(found):
        return {"false_adult": None, "false_minor": None}
    young, adult = parts
    oldest = _crossing(found, young[-1:], adult)
    return {
        "false_adult": {**_crossing(found, young, adult), "oldest": oldest},
        "false_minor": _crossing(found, adult, young),
    }


def _crossing(found: Predictions, true: Sequence[int], named: Sequence[int]) -> dict[str, Any]:
    cell = found.select(np.isin(found.target, true))
    answers = cell.preds if years_of(found.class_names) is None else decode_median(cell.probs)
    hits = np.isin(answers, named)
    subjects = len(np.unique(cell["subject"]))
    told: dict[str, Any] = {"rate": None, "interval": None}
    if subjects >= FEWEST_SUBJECTS:
        ends = cluster_bootstrap_interval(100.0 * hits, cell["subject"], percent=True)
        told = {"rate": ends.estimate, "interval": [ends.low, ends.high]} | told_method(
            "interval", ends.method
        )
    return {
        "of": [found.class_names[index] for index in true],
        "named": [found.class_names[index] for index in named],
        "images": len(cell),
        **({"subjects": subjects} if subjects_known(found) else {}),
        "count": int(hits.sum()),
        **told,
    }


def _training(result: Result, fold: int | None) -> dict[str, Any]:
    """Return how the model was trained, as far as a reader of a card asks."""
    record = result.record
    own = (None if fold is None else result.part_record(fold)) or record
    keys = ("backbone", "head", "seed", "epochs", "batch_size", "image_size", "test_crops")
    return {
        "loss": result.loss_text,
        **{key: getattr(record, key) for key in keys},
        "n_train": own.n_train,
        "n_validation": own.n_validation,
    }
