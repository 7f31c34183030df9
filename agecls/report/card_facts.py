"""What a model card says beside the scores: whose images, which rules, what was not measured, what for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from agecls.crop_evaluation import can_measure, crop_for_run
from agecls.data.groups import POLICIES
from agecls.data.named import TABLE_POLICY
from agecls.faces.crop import FaceCrop, crop_of_run
from agecls.faces.detector import build_detector
from agecls.scores import FEWEST_SUBJECTS
from agecls.synthetic.adience import is_drawn
from finetune.cli.console import say
from finetune.experiments.exported.model import CropChoice
from finetune.experiments.records.record import UNTESTED
from finetune.experiments.result import Result
from finetune.experiments.same_content import DROPPED, grouped_line
from finetune.images.checks import subjects_known
from finetune.runs.folder import read_json

INTENDED_USE = (
    "research on age-group classification and on loss functions; sorting large numbers of images by "
    "apparent age group while a person checks the result."
)
OUT_OF_SCOPE = (
    "verifying anybody's age",
    "admission, sale, or access to anything",
    "surveillance",
    "profiling of minors",
    "any decision about an individual",
)
HOW_TO_SLICE = (
    "crl age evaluate RUN --data.table your.csv --data.gender_column gender",
    "For a trait with no column of its own, such as skin tone, write one table per value and evaluate each.",
)
PROTOCOLS = {
    "fixed": "trained on all other folds for a number of epochs fixed beforehand",
    "grouped": "trained on the other folds but for whole albums held out for validation",
    "faeb": "trained, validated and tested on the splits of the CVPR 2024 benchmark",
    "rotate": "trained on the other folds but one, which validated",
}
SAME_SCORE = 0.5  # percentage points that another device may move an accuracy by
ALL_IMAGES = "trained on every image, tested on none"


def data_facts(result: Result, fold: int | None) -> dict[str, Any]:
    """Return whose images a run was trained and tested on, by which rules, and how many.

    Args:
        result: a finished run or cross-validation.
        fold: the fold whose model the card is about; -1 for a model of all images, None for all models.

    Returns kind ("adience", "drawn", "adience-like", "published" or "table"), name, about (a paragraph),
    policy and its summary, edition, images, subjects, users, per_group (group -> images), left_out (what ->
    rows), protocol with its words, fold, shared_people and subjects_known; what is not known is None. No path
    of a machine.
    """
    record, counts = result.record, result.record.counted
    kind, name = _origin(result)
    manifest, protocol = result.manifest, record.protocol or ""
    per_group = counts.get("per_group")
    if per_group is None and manifest is not None:
        per_group = manifest.class_counts().tolist()
    known = subjects_known(counts)
    users, subjects = counts.get("users"), counts.get("subjects", record.subjects) if known else None
    if not known and users == counts.get("images"):  # run.json of an earlier toolkit counted each as one
        users = None
    policy = record.policy or ""
    return {
        "kind": kind,
        "name": name,
        "about": _about(kind, users, subjects, str(counts.get("terms") or "")),
        "policy": policy or None,
        "policy_summary": POLICIES[policy].summary if policy in POLICIES else None,
        "edition": counts.get("edition"),
        "images": counts.get("images", record.n),
        "subjects": subjects,
        "users": users,
        "per_group": dict(zip(result.class_names, per_group, strict=True)) if per_group else None,
        "left_out": _left_out(counts),
        "protocol": protocol or None,
        "protocol_words": ALL_IMAGES if fold == -1 else _protocol_words(protocol, counts),
        "fold": fold,
        "shared_people": record.shared_subjects if known else None,
        "subjects_known": known,
    }


def _protocol_words(protocol: str, counts: Mapping[str, Any]) -> str | None:
    words = PROTOCOLS.get(protocol)
    return f"{words}; {told}" if words and (told := grouped_line(counts)) else words


def _origin(result: Result) -> tuple[str, str]:
    counts = result.record.counted
    if title := counts.get("data_name"):
        return "published", str(title)
    if result.record.policy == TABLE_POLICY:
        table = PureWindowsPath(str(counts.get("table") or "")).name
        return "table", f"the table {table}" if table else "a table"
    if is_drawn(result.predictions["user"].tolist() or _manifest_users(result)):
        return "drawn", "synthetic (drawn) faces, not photographs"
    if counts.get("edition") in ("older", "current"):
        return "adience", f"Adience, {counts['edition']} edition of its lists"
    return "adience-like", "a folder in Adience's layout"


def _manifest_users(result: Result) -> list[str]:
    manifest = result.manifest
    return [] if manifest is None or "user" not in manifest else manifest["user"].tolist()


def _about(kind: str, users: int | None, subjects: int | None, terms: str = "") -> str:
    if kind == "published":
        return (
            f"A published set of faces. Terms of use, in short and as far as we know: {terms}. What its "
            "subjects agreed to is not recorded here."
        )
    if kind == "adience":
        known = users and subjects
        count = f"{users:,} albums of {subjects:,} subjects here" if known else "albums of subjects"
        return (
            "Adience's images are consumer photographs from Flickr, given out for research under their "
            f"publisher's terms: {count}. An age label was given once per subject, not per image."
        )
    if kind == "drawn":
        return (
            "These images are drawings that the toolkit made to look like Adience's folders; they show "
            "nobody. The scores show that everything works and nothing about real faces: do not use the "
            "model on photographs of faces."
        )
    if kind == "table":
        return (
            "The images were listed in a table by whoever trained the model. Where they come from, what "
            "their subjects agreed to, and their terms of use are not recorded here: ask that person."
        )
    return (
        "The folder is laid out like Adience, but its lists are neither of the two editions known: what the "
        "images show and their terms of use are not recorded here."
    )


def _left_out(counts: Mapping[str, Any]) -> dict[str, int]:
    """Return how many rows or images the reader left out, by reason; reasons without any are not named."""
    found = {
        "repeated rows in the lists": counts.get("duplicates") or 0,
        "rows without an age group": sum((counts.get("dropped") or {}).values()),
        "rows aged between two groups": counts.get("in_gaps") or 0,
        "listed images that are missing": counts.get("missing_images") or 0,
        "unreadable images": len(counts.get("bad_images") or ()),
        "images with the bytes of an earlier one": counts.get(DROPPED) or 0,
        **{f"{reason} (the set's own rule)": n for reason, n in (counts.get("known_dropped") or {}).items()},
    }
    return {reason: int(count) for reason, count in found.items() if count}


def pretraining_facts(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the weights that training began from came from; their file by its name alone."""
    source = dict(run.get("pretraining") or {})
    location = str(source.pop("location", "") or "")
    source.pop("size_bytes", None)
    file = PureWindowsPath(location).name  # knows both kinds of slash
    return {name: value for name, value in source.items() if value} | ({"file": file} if file else {})


def detector_facts(result: Result) -> dict[str, Any] | None:
    """Return what a face detector's crops cost, where `age evaluate RUN --crop detector` was kept in the run.

    It is looked for in evaluation.json of the run's subfolders, and belongs to all models of the run, each on
    its own test images. Returns n, subjects, found, equal_predictions (percent), crop, and exact and one_off,
    each {own, detector, difference, interval}; None where there is none, or only one of other weights or
    other test crops, or whose numbers for the images as they are do not fit the run any more.
    """
    images, own_crops = len(result.predictions), result.record.test_crops or "center"
    exact = 100 * float(result.predictions.correct.mean()) if images else None
    for file in sorted(result.folder.glob("*/evaluation.json")):
        report = read_json(file)
        if not {"detector", "found", "all"} <= report.keys() or report.get("n") != images:
            continue
        others = report.get("weights", "selected") != "selected"
        if others or report.get("test_crops", own_crops) != own_crops:
            continue
        if exact is not None and abs(report["all"]["exact"]["own"] - exact) <= SAME_SCORE:
            taken = {name: report[name] for name in ("n", "subjects", "found", "equal_predictions", "crop")}
            return {**taken, **{name: dict(report["all"][name]) for name in ("exact", "one_off")}}
    return None


def not_measured(
    groups: Sequence[Mapping[str, Any]],
    *,
    gender: bool,
    yaw: bool,
    averaged: bool,
    tested: bool,
    images: int,
    detector: bool = False,
) -> list[str]:
    """Return what this card cannot report, a sentence each.

    Args:
        groups: the rows per true age group, with name and subjects.
        gender: whether the test images have genders.
        yaw: whether the test images have the angle of the head.
        averaged: whether the card is about the average of several models.
        tested: whether the weights are those that the run tested.
        images: test images of these weights.
        detector: whether crops made by a face detector were tested.
    """
    found = []
    if not tested:
        found.append(UNTESTED)
    elif not images:
        found.append("Accuracy: every image was trained on, none was left to test with.")
    if averaged:
        found.append(
            "The averaged model itself: the scores belong to its members, each tested on images that only "
            "that member had not seen. No image is left that none of them was trained on."
        )
    unit = "subjects" if all("subjects" in cell for cell in groups) else "images"
    few = [str(cell["name"]) for cell in groups if cell[unit] < FEWEST_SUBJECTS]
    if few and images:
        found.append(
            f"Accuracy for {', '.join(few)}: fewer than {FEWEST_SUBJECTS} {unit} each, so there are counts "
            "and no conclusion."
        )
    found.append("Skin tone, origin, glasses, make-up: nothing about them came with the images.")
    if not gender:
        found.append("Gender: the test images have none on record.")
    if not yaw:
        found.append("Heads turned to the side: the angle is not on record.")
    if not detector:
        found.append(
            "Faces cut out by a detector: how often none is found, and what the other crop costs. (crl age "
            "evaluate RUN --crop detector --out RUN/detector, then export again.)"
        )
    return found


GIVEN, FROM_LAYOUT = "given at the export", "that of the images it was trained on"
NOT_MEASURED = "a default that nobody measured"


def face_crop_of(folder: Path, run: Mapping[str, Any], config: CropChoice) -> tuple[FaceCrop, str]:
    """Return how faces are to be cut out for a run's models and where that is known from, and say so.

    Args:
        folder: the run.
        run: the contents of its run.json.
        config: its face_crop, face_margin and detector are used.

    Of a run on a table of images the crop is measured by a face detector, which takes some seconds. Where
    none is found the plain crop's default is used, and it is said how to measure.
    Raises UsageError for a crop, margin or detector that is not offered, or a detector file that is absent.
    """
    rule = crop_of_run(run, config.face_crop, config.face_margin)
    chosen = config.face_crop != "auto" or config.face_margin is not None
    source = GIVEN if chosen else FROM_LAYOUT
    if can_measure(run, config.face_crop, config.face_margin):
        detector = build_detector(config.detector)
        if detector is None:
            source = NOT_MEASURED
            say(
                "no face detector was found, so how this run's images frame their faces was not measured: "
                "photographs will be cut by a default that may cost accuracy. Export again with --detector "
                "FILE (YuNet), or set --face_crop and --face_margin"
            )
        else:
            rule = crop_for_run(folder, detector)
            source = f"measured on the run's own images by {detector.name}"
    say(f"faces of photographs will be cut out like this: {rule.describe()} ({source})")
    return rule, source
