"""What an exported model says of itself: one JSON value in the file's metadata, checked when it is read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from agecls.faces.crop import FaceCrop
from apps.runtime.calibration import check_calibration
from finetune.errors import CrlError, ModelFileError
from finetune.images.names import LONGEST_NAME, is_printable, looking_alike
from finetune.images.preprocess import ALGORITHM, TEST_CROPS, PreprocessSpec
from finetune.runs.files import json_text
from finetune.runs.former_losses import recorded_loss

METADATA_KEY = "crl_toolkit"
SCHEMA = 3  # 2 states the resize rule under preprocess.algorithm, 3 how probs were calibrated
READ = (1, 2, SCHEMA)
SINCE = {"calibration": 3}  # facts that files of earlier schemas lack
MAX_CHARACTERS = 4_000_000
LARGEST_WHOLE = 2**63
TASK_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}", re.ASCII)
# What cards and tables show with so many digits, where it is told.
NUMBERS: dict[str, tuple[str, ...]] = {
    "data": ("fold", "images", "subjects", "n_train", "n_validation", "n_test"),
    "architecture": ("parameters", "members", "image_size"),
}
# Of the metrics, whatever the task, all are numbers but these: a word, a comparison, and lists of numbers.
WORDS, COMPARISONS, LISTS = ("scope",), ("baseline",), ("folds", "_interval", "_per_fold")
# Of the card, whatever the task, these are objects and texts; all others are lists or objects.
CARD_OBJECTS, CARD_TEXTS = ("data", "training", "pretraining"), ("intended_use", "privacy", "test_crops")
Built = TypeVar("Built")
PrecisionName = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class ModelFacts:
    """The facts that travel inside an .onnx file.

    Args:
        title: what the model is called in tables and in the demo.
        task: what files call the task that the model was trained for.
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
        metrics: scores on the test images, each with its n; empty where nothing was tested. They are
            numbers or None, but for "scope", "baseline", "folds", and names ending in _interval or _per_fold.
        card: what the model card reports beyond the above: intended use, limits, scores per group.
        calibration: what makes `probs` of `logits`, which images it was fitted on, and the sets' quantile
            (`apps.runtime.calibration`); empty where `probs` is softmax(logits).
        parity: how the file was checked against the trained model, and how far apart they were.
        versions: of the packages that trained and exported it.

    No fact names a path of the machine that wrote it.
    """

    title: str
    task: str
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
    calibration: Mapping[str, Any] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the facts as one JSON text with the schema's version (NaN becomes null)."""
        preprocess = {**self.preprocess.to_dict(), "algorithm": self.preprocess.algorithm()}
        return json_text({"schema": SCHEMA, **asdict(self), "preprocess": preprocess})

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
        _check_algorithm(values["preprocess"].pop("algorithm", None))
        _check_shown(values)
        check_calibration(values["calibration"], len(names))
        spec = _rebuilt("preprocessing", PreprocessSpec.from_dict, values["preprocess"])
        if values["crop"] is not None:
            _rebuilt("face crop", FaceCrop.from_dict, values["crop"])
        told = {"class_names": tuple(names), "preprocess": spec, "loss": recorded_loss(values["loss"])}
        return cls(**{**values, **told})


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
    if type(schema) is not int or schema not in READ:
        known = f"{', '.join(map(str, READ[:-1]))} and {SCHEMA}"
        raise ModelFileError(f"its facts have schema {schema}, this toolkit reads {known}: export it again")
    return values | {name: {} for name, since in SINCE.items() if schema < since}


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


def _check_algorithm(rule: Any) -> None:
    """Raise ModelFileError for a resize rule that is not this toolkit's; files of schema 1 state none."""
    if rule is not None and (not isinstance(rule, dict) or rule.get("schema") != ALGORITHM):
        raise ModelFileError(
            f"its preprocessing follows the resize rule {str(rule)[:80]!r}, this toolkit applies number "
            f"{ALGORITHM}: use a toolkit of its version"
        )


def _check_shown(values: Mapping[str, Any]) -> None:
    """Raise ModelFileError where a value shown with digits is not a number, or a part of the card no object.

    What is not recorded, or recorded as None, was not measured.
    """
    for name, keys in NUMBERS.items():
        for key in keys:
            _check_value(name, key, values[name].get(key), "a number", _is_number)
    for key, value in values["metrics"].items():
        _check_value("metrics", key, value, *_metric_rule(key))
    for key, value in values["card"].items():
        _check_value("card", key, value, *_card_rule(key))


Rule = tuple[str, Callable[[Any], bool]]


def _metric_rule(key: str) -> Rule:
    """Return what a metric of this name is, in words and as a check; the tasks need not be known."""
    if key in WORDS:
        return "text", lambda value: isinstance(value, str)
    if key in COMPARISONS:
        return "an object", lambda value: isinstance(value, dict)
    if key.endswith(LISTS):
        return "a list of numbers", lambda value: isinstance(value, list) and all(map(_is_number, value))
    return "a number", _is_number


def _card_rule(key: str) -> Rule:
    if key in CARD_TEXTS:
        return "text", lambda value: isinstance(value, str)
    if key in CARD_OBJECTS:
        return "an object", lambda value: isinstance(value, dict)
    return "an object or a list", lambda value: isinstance(value, dict | list)


def _shown(key: str) -> str:
    return key if key.isidentifier() and key.isascii() else ascii(key[:80])


def _is_number(value: Any) -> bool:
    return value is None or type(value) in (int, float)


def _check_value(name: str, key: str, value: Any, what: str, fits: Callable[[Any], bool]) -> None:
    if value is not None and not fits(value):
        verb = "gives" if name == "card" else "give"
        raise ModelFileError(f"its {name} {verb} {_shown(key)} as {str(value)[:80]!r}, not {what}")


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
    mappings += ("card", "parity", "versions", "calibration")
    objects = [name for name in mappings if not isinstance(values[name], dict)]
    objects += [name for name in ("crop",) if not isinstance(values[name], dict | None)]
    if text or flags or objects:
        raise ModelFileError(f"its facts {', '.join(text + flags + objects)} are of the wrong kind")
    if not isinstance(values["task"], str) or not TASK_NAME.fullmatch(values["task"]):
        raise ModelFileError(
            "its task must be a word of small letters, digits, - and _, at most 40, got "
            f"{str(values['task'])[:80]!r}"
        )
    choices = {"precision": get_args(PrecisionName), "test_crops": tuple(TEST_CROPS)}
    for name, allowed in choices.items():
        if values[name] not in allowed:
            raise ModelFileError(
                f"its {name} must be one of {', '.join(allowed)}, got {str(values[name])[:80]!r}"
            )
