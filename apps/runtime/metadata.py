"""What an exported model says of itself: one JSON value in the file's metadata, checked when it is read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from agecls.faces.crop import FaceCrop
from agecls.measures import MEASURES as AGE_MEASURES
from finegrained.measures import MEASURES as CATEGORY_MEASURES
from finetune.errors import CrlError, ModelFileError
from finetune.images.names import LONGEST_NAME, is_printable, looking_alike
from finetune.images.preprocess import TEST_CROPS, PreprocessSpec
from finetune.runs.files import json_text

METADATA_KEY = "crl_toolkit"
SCHEMA = 1
MAX_CHARACTERS = 4_000_000
LARGEST_WHOLE = 2**63
FOLD_PARTS = ("mean", "sd", "pooled")
# What cards and tables show with so many digits, where it is told: of the scores, those that travel.
SCORES = [one for one in (*AGE_MEASURES, *CATEGORY_MEASURES) if "facts" in one.places]
NUMBERS: dict[str, tuple[str, ...]] = {
    "metrics": (
        "n",
        "subjects",
        "members",
        *dict.fromkeys(one.facts_name for one in SCORES),
        *(f"{one.facts_name}_{part}" for one in SCORES if one.over == "folds" for part in FOLD_PARTS),
    ),
    "data": ("fold", "images", "subjects", "n_train", "n_validation", "n_test"),
    "architecture": ("parameters", "members", "image_size"),
}
CARD_PARTS = ("data", "training", "pretraining", "detector", "false_adult", "false_minor", "cross_validation")
Built = TypeVar("Built")
Task = Literal["age", "category"]
PrecisionName = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class ModelFacts:
    """The facts that travel inside an .onnx file.

    Args:
        title: what the model is called in tables and in the demo.
        task: "age" (ordered groups of faces) or "category".
        class_names: the K classes, in the order of the outputs.
        ordered: whether the order of the classes means something.
        preprocess: how a decoded image becomes the network's input.
        crop: `agecls.faces.crop.FaceCrop` as plain values, None where the model expects no face.
        test_crops: the views that the reported scores average over: center, flip or ten.
        precision: what the file computes in.
        architecture: backbone, tag, head, parameters, members (1, or the folds that an ensemble averages).
        loss: its name and parameters.
        data: data set, label policy, protocol, fold, number of images; fingerprints of manifest and split.
        training: seed, epochs, batch size and the like.
        pretraining: kind, tag, licence and SHA-256 of the weights that training started from.
        metrics: scores on the test images, each with its n; empty where nothing was tested.
        card: what the model card reports beyond the above: intended use, limits, scores per group.
        parity: how the file was checked against the trained model, and how far apart they were.
        versions: of the packages that trained and exported it.

    No fact names a path of the machine that wrote it.
    """

    title: str
    task: Task
    class_names: tuple[str, ...]
    ordered: bool
    preprocess: PreprocessSpec
    crop: Mapping[str, Any] | None = None
    test_crops: str = "center"
    precision: PrecisionName = "fp32"
    architecture: Mapping[str, Any] = field(default_factory=dict)
    loss: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    pretraining: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the facts as one JSON text with the schema's version (NaN becomes null)."""
        return json_text({"schema": SCHEMA, **asdict(self), "preprocess": self.preprocess.to_dict()})

    @classmethod
    def from_json(cls, text: str) -> ModelFacts:
        """Return the facts that `to_json` wrote.

        Raises ModelFileError, saying what is wrong, for anything else: no JSON, another schema, missing or
        unknown keys, values of the wrong kind, class names that are empty, not unique or look the same.
        """
        values = _read(text)
        wanted = {item.name: item for item in fields(cls)}
        unknown, missing = sorted(set(values) - set(wanted)), sorted(set(wanted) - set(values))
        if unknown or missing:
            raise ModelFileError(f"its facts have unknown keys {unknown} and lack {missing}")
        names = values["class_names"]
        if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
            raise ModelFileError(f"its class_names must be a list of text, got {str(names)[:200]}")
        if len(names) < 2 or len(set(names)) != len(names):
            raise ModelFileError(f"its class_names must be two or more different names, got {len(names)}")
        _check_kinds(values)
        _check_printable([values["title"], *names])
        if alike := looking_alike(names):
            raise ModelFileError(f"its class_names {alike[:2]!a} look the same: nobody could tell them apart")
        _check_numbers(values["preprocess"])
        _check_shown(values)
        spec = _rebuilt("preprocessing", PreprocessSpec.from_dict, values["preprocess"])
        if values["crop"] is not None:
            _rebuilt("face crop", FaceCrop.from_dict, values["crop"])
        return cls(**{**values, "class_names": tuple(names), "preprocess": spec})


def is_for_drawings(facts: ModelFacts) -> bool:
    """Return whether a model learned from synthetic images: its predictions mean nothing for photographs."""
    data = facts.card.get("data")
    return isinstance(data, Mapping) and data.get("kind") == "drawn"


def learned_from_boxes(facts: ModelFacts) -> bool:
    """Return whether a model learned from images cut to the boxes around their objects."""
    return facts.data.get("picture_crop") == "box"


def _read(text: str) -> dict[str, Any]:
    if len(text) > MAX_CHARACTERS:
        raise ModelFileError(f"its facts hold {len(text):,} characters, at most {MAX_CHARACTERS:,} are read")
    try:
        values = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_number,
            parse_float=_number,
            parse_int=_whole,
        )
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"its facts are no valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ModelFileError(f"its facts must be one JSON object, got {type(values).__name__}")
    schema = values.pop("schema", None)
    if type(schema) is not int or schema != SCHEMA:
        raise ModelFileError(f"its facts have schema {schema}, this toolkit reads {SCHEMA}: export it again")
    return values


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; one that has a key twice is read differently by different readers."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ModelFileError("its facts have a key of one object twice")
    return found


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ModelFileError(f"its facts hold {text[:40]}, which is no finite number")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if abs(value) > LARGEST_WHOLE:
        raise ModelFileError(f"its facts hold a number of {len(text)} digits")
    return value


def _rebuilt(what: str, build: Callable[[Mapping[str, Any]], Built], values: Mapping[str, Any]) -> Built:
    try:
        return build(values)
    except (CrlError, TypeError, ValueError) as error:
        raise ModelFileError(f"its {what} cannot be read: {error}") from None


def _check_printable(texts: Sequence[str]) -> None:
    """Raise ModelFileError for text that could drive a terminal, turn a line around, or fill a screen."""
    for text in texts:
        if not is_printable(text):
            told = f"{text[:80]!a} ({len(text)} characters)"
            raise ModelFileError(
                f"its title and class names must be printable text of at most {LONGEST_NAME} characters, "
                f"got {told}"
            )


def _check_numbers(preprocess: Mapping[str, Any]) -> None:
    for name in ("mean", "std"):
        numbers = preprocess.get(name)
        if not isinstance(numbers, list) or not all(type(item) in (int, float) for item in numbers):
            raise ModelFileError(
                f"its preprocessing cannot be read: {name} is a list of numbers, got {str(numbers)[:80]!r}"
            )


def _check_shown(values: Mapping[str, Any]) -> None:
    """Raise ModelFileError where a value shown with digits is not a number, or a part of the card no object.

    What is not recorded, or recorded as None, was not measured.
    """
    for name, keys in NUMBERS.items():
        for key in keys:
            if values[name].get(key) is not None and type(values[name][key]) not in (int, float):
                given = str(values[name][key])[:80]
                raise ModelFileError(f"its {name} give {key} as {given!r}, not a number")
    for key in CARD_PARTS:
        if not isinstance(values["card"].get(key), dict | None):
            raise ModelFileError(f"its card gives {key} as {str(values['card'][key])[:80]!r}, not an object")


def _check_kinds(values: Mapping[str, Any]) -> None:
    text = [name for name in ("title", "test_crops") if not isinstance(values[name], str)]
    flags = [name for name in ("ordered",) if not isinstance(values[name], bool)]
    mappings: tuple[str, ...] = (
        "preprocess",
        "architecture",
        "loss",
        "data",
        "training",
        "pretraining",
        "metrics",
    )
    mappings += ("card", "parity", "versions")
    objects = [name for name in mappings if not isinstance(values[name], dict)]
    objects += [name for name in ("crop",) if not isinstance(values[name], dict | None)]
    if text or flags or objects:
        raise ModelFileError(f"its facts {', '.join(text + flags + objects)} are of the wrong kind")
    choices = {"task": get_args(Task), "precision": get_args(PrecisionName), "test_crops": tuple(TEST_CROPS)}
    for name, allowed in choices.items():
        if values[name] not in allowed:
            raise ModelFileError(
                f"its {name} must be one of {', '.join(allowed)}, got {str(values[name])[:80]!r}"
            )
