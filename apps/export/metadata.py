"""A run's record -> the facts inside an .onnx file: everything a stranger needs, nothing of this machine."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import PureWindowsPath
from typing import Any

from apps.runtime.metadata import ModelFacts, PrecisionName
from finetune.experiments.records.record import RunRecord
from finetune.images.preprocess import TEST_CROPS, PreprocessSpec
from finetune.runs.files import to_plain
from finetune.runs.former_losses import recorded_loss

# A path from the root of a disk, as text may hold one: two names or more behind a slash, or a drive's letter.
POSIX_PATH = re.compile(r"(?<![\w:/.~-])~?/(?:[^\s/:;,'\"()<>]+/)+[^\s/:;,'\"()<>]*")
WINDOWS_PATH = re.compile(r"(?<!\w)[A-Za-z]:[\\/](?:[^\s\\/:;,'\"()<>]+[\\/])*[^\s\\/:;,'\"()<>]*")
TRAINING: tuple[str, ...] = (
    "epochs",
    "frozen_epochs",
    "batch_size",
    "accumulate",
    "optimizer",
    "lr",
    "head_lr_multiplier",
)
TRAINING += ("schedule", "weight_decay", "augment", "mixup", "cutmix", "ema", "select", "seed")
EXPORTERS = {"torch": "torch", "onnx": "onnx", "onnxscript": "onnxscript"}
RUNTIMES = ("onnxruntime-gpu", "onnxruntime")

# How a program of others computes `probs` of an image; card and docs show these very lines.
REFERENCE = """\
import json

import cv2
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("MODEL.onnx")
spec = json.loads(session.get_modelmeta().custom_metadata_map["crl_toolkit"])["preprocess"]
image = np.asarray(ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB"))
(h, w), size, rule = image.shape[:2], spec["image_size"], spec["algorithm"]
unit = np.array([h, w]) if spec["resize"] == "warp" else min(h, w)
height, width = (spec["resize_size"] * np.array([h, w]) // unit).tolist()
shrinking, enlarging = (getattr(cv2, rule[way]["opencv"]) for way in ("shrinking", "enlarging"))
image = cv2.resize(image, (min(w, width), min(h, height)), interpolation=shrinking)
image = cv2.resize(image, (width, height), interpolation=enlarging)
top, left = (height - size) // 2, (width - size) // 2
crop = image[top : top + size, left : left + size]
probs = session.run(["probs"], {"images": crop[np.newaxis]})[0][0]
"""


@dataclass(frozen=True)
class Member:
    """One trained model that a file holds.

    Args:
        fold: the fold whose images it was tested on; -1 for one that was trained on every image.
        facts: what its file records.
        parameters: number of its weights.
        weights: SHA-256 of the weights' values.
    """

    fold: int
    facts: Mapping[str, Any]
    parameters: int
    weights: str


def build_facts(
    title: str,
    run: RunRecord,
    members: Sequence[Member],
    *,
    kind: str,
    crop: Mapping[str, Any] | None,
    crop_source: str,
    card: Mapping[str, Any],
    contents: Mapping[str, str] | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> ModelFacts:
    """Return the facts of a file that holds one model of a run, or the average of several, in float32.

    Args:
        title: what the model is called.
        run: the run's record.
        members: the models in the file.
        kind: what files call the task, as its `ModelWords` say.
        crop: how a face is cut out, as plain values; None for a model of no faces.
        crop_source: where that is known from, in words; empty for a model of no faces.
        card: "metrics" and "card" as `Task.card` returns them, and under "data" what the task records of the
            data beyond the names all tasks share.
        contents: which images the models have seen and were tested on (`RunPictures.contents`).
        calibration: what makes its probabilities of its logits; None or empty for softmax alone.

    `test_crops` is center where the run's own protocol looks twice (cam), which a file cannot do.
    """
    own = members[0].facts
    crops = str(own.get("test_crops", "center"))
    data = {
        "name": (card["card"].get("data") or {}).get("name"),
        **_data(run, members),
        **card.get("data", {}),
    }
    data |= {"contents": dict(contents)} if contents else {}
    return ModelFacts(
        title=title,
        task=kind,
        class_names=tuple(own["class_names"]),
        ordered=bool(own.get("ordered_classes", False)),
        preprocess=PreprocessSpec.from_dict(own["preprocess"]),
        crop=crop,
        test_crops=crops if crops in TEST_CROPS else "center",
        architecture=without_paths(_architecture(members)),
        loss=without_paths(recorded_loss(own["loss"])),
        data=without_paths({**data, "face_crop": crop_source} if crop_source else data),
        training=without_paths(_training(members)),
        pretraining=without_paths(_pretraining(own)),
        metrics=without_paths(card["metrics"]),
        card=without_paths({**card["card"], "warnings": list(dict.fromkeys(_warnings(run, members)))}),
        calibration=without_paths(calibration or {}),
        versions={"trained_with": without_paths(own.get("versions", {})), "exported_with": exporters()},
    )


def _warnings(run: RunRecord, members: Sequence[Member]) -> list[str]:
    """Return what the models' own runs warned of; where they do not record it, the whole run."""
    own = [text for member in members for text in member.facts.get("warnings") or ()]
    return own if len(members) == 1 and "warnings" in members[0].facts else [*(run.warnings or ())] or own


def finished_facts(facts: ModelFacts, precision: PrecisionName, parity: Mapping[str, Any]) -> ModelFacts:
    """Return the facts with what the checks found, for the file as it is written."""
    return replace(facts, precision=precision, parity=without_paths(parity))


def without_paths(value: Any) -> Any:
    """Return plain values in which every absolute path inside a text is reduced to its last name.

    >>> without_paths({"note": "the classifier of /home/ada/weights/a.pth was left out", "n": (1, 2)})
    {'note': 'the classifier of a.pth was left out', 'n': [1, 2]}
    >>> without_paths("C:\\\\Users\\\\ada\\\\a.pth, https://example.org/a/b, and/or, 1/2")
    'a.pth, https://example.org/a/b, and/or, 1/2'
    """
    value = to_plain(value)
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    for pattern in (WINDOWS_PATH, POSIX_PATH):
        value = pattern.sub(lambda found: file_name(found[0]), value)
    return value


def file_name(path: str) -> str:
    """Return the last name of a path written with either kind of slash.

    >>> file_name("/data/weights/a.pth"), file_name("C:\\\\data\\\\a.pth"), file_name("")
    ('a.pth', 'a.pth', '')
    """
    return PureWindowsPath(path).name


def exporters() -> dict[str, str]:
    """Return the versions of what made and checked the file."""
    found = {"python": platform.python_version()}
    for name, package in EXPORTERS.items():
        found[name] = metadata.version(package)
    for package in RUNTIMES:
        try:
            found["onnxruntime"] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _architecture(members: Sequence[Member]) -> dict[str, Any]:
    own = members[0].facts
    head = dict(own["head"])
    source, second = own.get("pretraining") or {}, (own.get("model") or {}).get("second")
    return {
        "backbone": own["backbone"],
        **({"second": second} if second else {}),
        "tag": source.get("tag") or None,
        "head": head.pop("name"),
        **{f"head_{name}": value for name, value in head.items()},
        "image_size": own["preprocess"]["image_size"],
        "parameters": sum(member.parameters for member in members),
        "members": len(members),
    }


def _data(run: RunRecord, members: Sequence[Member]) -> dict[str, Any]:
    counts = run.counted
    folds = [member.fold for member in members]
    one = members[0].facts if len(members) == 1 else {}
    return {
        "policy": run.policy,
        "protocol": run.protocol,
        "fold": folds[0] if len(folds) == 1 else None,
        "folds": folds,
        "images": counts.get("images"),
        "subjects": run.subjects,
        "n_train": one.get("n_train"),
        "n_validation": one.get("n_validation"),
        "n_test": one.get("n"),
        "manifest": run.manifest,
        "split": run.split,
        "weights_sha256": [member.weights for member in members],
        **({"weights": one["weights"]} if one.get("weights") else {}),
    }


def _training(members: Sequence[Member]) -> dict[str, Any]:
    own = members[0].facts
    settings = own.get("train") or {}
    found = {name: settings[name] for name in TRAINING if name in settings}
    return {"seed": own.get("seed"), **found, "device": (own.get("device") or {}).get("used")}


def _pretraining(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return where the first weights came from; of their place on this machine only the file's name."""
    source = dict(own.get("pretraining") or {"kind": "unknown"})
    found = {
        "kind": source.get("kind"),
        "tag": source.get("tag"),
        "origin": source.get("origin"),
        "file": file_name(str(source.get("location") or "")),
        "licence": source.get("license"),
        "layout": source.get("layout"),
        "sha256": source.get("sha256"),
    }
    return {name: value for name, value in found.items() if value}


def reference_code(model: str, image: str = "image.jpg") -> str:
    """Return lines of Python that compute a file's `probs` of an image from its metadata alone."""
    return REFERENCE.replace('"MODEL.onnx"', repr(model)).replace('"image.jpg"', repr(image))
