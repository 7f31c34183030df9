"""What an earlier `crl export` left in a plan's folder: kept if whole and of this very run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apps.config import ExportConfig
from apps.export.calibration import plan_calibration, with_confidence
from apps.export.card import write_card
from apps.export.images import RunPictures, spread
from apps.export.metadata import Member, build_facts
from apps.export.parity import check_member
from apps.export.plan import CARD, Plan
from apps.runtime.metadata import ModelFacts
from apps.runtime.model_file import Outline, read_model_file
from finetune.cli.console import say
from finetune.errors import ModelFileError, UsageError, listing
from finetune.experiments.records.record import MODEL_FILE, RunRecord
from finetune.images.preprocess import PreprocessSpec
from finetune.runs.files import is_stale

if TYPE_CHECKING:
    from finetune.models.classifier import Classifier

OTHERWISE = "replace it by --overwrite, or choose another --out"


def refuse_foreign_content(plan: Plan) -> None:
    """Raise UsageError where the plan's folder holds something that no export may replace."""
    if plan.place.is_symlink() or (plan.place.exists() and not plan.place.is_dir()):
        raise UsageError(f"{plan.place} is no folder: remove it, or choose another --out")
    foreign = [str(file) for file in _content(plan) if file.suffix != ".onnx" and file.name != CARD]
    if foreign:
        raise UsageError(f"{plan.place} holds more than an export:\n{listing(foreign)}\nChoose another --out")


def former_export(
    folder: Path,
    plan: Plan,
    pictures: RunPictures,
    crop: Mapping[str, Any] | None,
    crop_source: str,
    config: ExportConfig,
) -> dict[str, Any] | None:
    """Return what an earlier call of the same wish has finished in the plan's folder; None where to make it.

    A model file appears only once it was checked, and its card after it. So a file without a card is of a
    call that was stopped in between: it is made again. A finished one has the facts that the run's models
    give now, the digests of their weights among them, and a card that tells its size and digest.

    Raises UsageError, saying what differs, for another export, unless `overwrite` is set.
    """
    content = _content(plan)
    if not content or config.overwrite:
        return None
    strange = [file.name for file in content if file not in (plan.target, plan.place / CARD)]
    if strange or plan.target not in content:
        other = strange[0] if strange else CARD
        raise UsageError(f"{plan.place} holds a previous export of another name ({other}): {OTHERWISE}")
    facts, outline = _read(plan)
    members, _, _ = load_members(plan, pictures.record)
    wanted = plan_facts(folder, plan, pictures, members, crop, crop_source, config.calibrate)
    if differs := _differences(facts, wanted, plan, pictures, config):
        raise UsageError(
            f"{plan.place} holds a previous export that differs from this one in {', '.join(differs)}: "
            f"{OTHERWISE}"
        )
    card = plan.place / CARD
    if card not in content:
        return None
    if card.read_bytes() != write_card(facts, plan.target.name, outline.sha256, outline.size_bytes).encode():
        raise UsageError(f"{card} is not the card of the previous export beside it: {OTHERWISE}")
    say(f"{plan.target} is of this run, whole and checked: kept")
    return told_export(plan, facts, outline.sha256, outline.size_bytes)


def _content(plan: Plan) -> list[Path]:
    """Return what lies in the plan's folder, without what a killed call has left of a file."""
    there = sorted(plan.place.iterdir()) if plan.place.is_dir() else []
    return [file for file in there if not is_stale(file)]


def _read(plan: Plan) -> tuple[ModelFacts, Outline]:
    try:
        _, facts, outline = read_model_file(plan.target)
    except ModelFileError as error:
        told = f"{plan.place} holds a previous export that cannot be read ({error}): {OTHERWISE}"
        raise UsageError(told) from error
    return facts, outline


def _differences(
    facts: ModelFacts, wanted: ModelFacts, plan: Plan, pictures: RunPictures, config: ExportConfig
) -> list[str]:
    """Return in what a file is not what would be made now: its facts, and options of the check."""
    read_back = ModelFacts.from_json(replace(wanted, precision=config.precision).to_json())
    there, here = asdict(facts), asdict(read_back)
    parity = there.pop("parity")
    here.pop("parity")
    found = [name for name in here if here[name] != there[name]]
    checked: dict[str, tuple[str, float]] = {
        "--images": ("real_images", len(pictures.check_rows(list(plan.folds), config.images))),
    }
    if config.precision == "fp16":
        checked["--max_difference"] = ("tolerance", config.max_difference)
    if config.precision == "int8":
        ranges = spread(pictures.rows(plan.folds[0])[0], config.calibration_images)
        checked["--calibration_images"] = ("calibration_images", len(ranges))
        parity = {**parity, "max_drop": (parity.get("accuracy") or {}).get("max_drop_points")}
        checked["--max_drop"] = ("max_drop", config.max_drop)
    return found + [option for option, (name, value) in checked.items() if parity.get(name) != value]


def plan_facts(
    folder: Path,
    plan: Plan,
    pictures: RunPictures,
    members: list[Member],
    crop: Mapping[str, Any] | None,
    crop_source: str,
    calibrate: bool = False,
) -> ModelFacts:
    """Return the facts of the plan's file in float32, as far as they are known before it is checked."""
    card = pictures.task.card(folder, plan.fold, tested=plan.files[0].name == MODEL_FILE)
    entry = plan_calibration(folder, plan, pictures) if calibrate else {}
    tested = pictures.tested(folder, plan.files[0], plan.folds[0])
    return build_facts(
        plan.title,
        pictures.record,
        members,
        kind=pictures.task.words.kind,
        crop=crop,
        crop_source=crop_source,
        card=with_confidence(card, tested, plan, pictures, entry),
        contents=pictures.contents(plan.folds),
        calibration=entry,
    )


def load_members(plan: Plan, record: RunRecord) -> tuple[list[Member], list[Classifier], PreprocessSpec]:
    """Return the facts, the classifiers and the shared preprocessing of the plan's models.

    `record` is the run's own. Raises ModelFileError for a damaged file, one of another fold or run, and where
    members differ in classes or preprocessing.
    """
    from finetune.models.bundle import weights_hash
    from finetune.models.classifier import num_parameters
    from finetune.training.learner import load_classifier

    members: list[Member] = []
    cores: list[Classifier] = []
    shared: list[tuple[list[str], PreprocessSpec]] = []
    for file, fold in zip(plan.files, plan.folds, strict=True):
        core, spec, facts = load_classifier(file)
        check_member(file, fold, facts, record)
        members.append(Member(fold, facts, num_parameters(core), weights_hash(core.state_dict())))
        cores.append(core)
        shared.append((list(facts["class_names"]), spec))
        if shared[-1] != shared[0]:
            raise ModelFileError(f"{file} has other classes or preprocessing than {plan.files[0]}")
    return members, cores, shared[0][1]


def told_export(plan: Plan, facts: ModelFacts, digest: str, size_bytes: int) -> dict[str, Any]:
    """Return what `crl export` says of one file in its summary."""
    return {
        "title": facts.title,
        "file": str(plan.target),
        "fold": plan.fold,
        "precision": facts.precision,
        "size_bytes": size_bytes,
        "sha256": digest,
        "parity": dict(facts.parity),
    }
