"""The part of a model card on where a model file is from: training, checks, licence, and the file itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apps.export.card_category import data_rows as category_rows
from apps.export.card_scores import NOT_MEASURED
from apps.runtime.metadata import ModelFacts
from finetune.figures.markdown import code, escape, table

UNKNOWN = "unknown"
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def how_trained(facts: ModelFacts) -> str:
    """Return network, loss, data, split, settings and what the training began from, as a table."""
    rows = [("network", told(facts.architecture)), ("loss", told(facts.loss))]
    data, training = facts.card.get("data") or {}, facts.card.get("training") or {}
    of_data = _data_rows if facts.task == "age" else category_rows
    rows += of_data(data, training) if data else [("data", told(facts.data))]
    settings = dict(facts.training) or {
        key: training[key] for key in ("seed", "epochs", "batch_size") if key in training
    }
    rows += [("settings", told(settings)), ("test crops", escape(facts.test_crops))]
    text = table(["what", "this model"], rows, numbers_from=2)
    about = data.get("about") if data.get("kind") != "drawn" else None
    return f"{text}\n\n{escape(about)}" if about else text


def _data_rows(data: Mapping[str, Any], training: Mapping[str, Any]) -> list[tuple[str, str]]:
    images = _amount(data.get("images"), "images") + ", " + _amount(data.get("subjects"), "people")
    groups = ", ".join(f"{name}: {count:,}" for name, count in (data.get("per_group") or {}).items())
    rule = f"{data.get('policy') or UNKNOWN}" + (
        f": {data['policy_summary']}" if data.get("policy_summary") else ""
    )
    if data.get("kind") == "table":
        rule = "ages or groups of the table"
    left = ", ".join(f"{count:,} {reason}" for reason, count in (data.get("left_out") or {}).items())
    fold = {None: "every fold's model, averaged", -1: "no test fold"}.get(
        data.get("fold"), f"tested on fold {data.get('fold')}"
    )
    split = f"{data.get('protocol_words') or UNKNOWN}; {fold}"
    trained = [
        _amount(training.get(key), words)
        for key, words in (("n_train", "training images"), ("n_validation", "validation images"))
        if training.get(key)
    ]
    rows = [("data", f"{data.get('name') or UNKNOWN}; {images}"), ("images per group", groups or UNKNOWN)]
    rows += [("labels", rule)] + ([("left out", left)] if left else [])
    rows += [
        ("split", "; ".join([split, *trained])),
        ("people in training and test", _people(data.get("shared_people"))),
    ]
    return [(name, escape(text)) for name, text in rows]


def _people(shared: int | None) -> str:
    return UNKNOWN if shared is None else f"{shared:,}" if shared else "none"


def how_checked(facts: ModelFacts) -> str:
    """Return how the file was compared with the trained model before it was allowed to exist."""
    if not facts.parity:
        return f"Agreement with the trained model: {NOT_MEASURED}."
    rows = [(escape(name.replace("_", " ")), told(value)) for name, value in facts.parity.items()]
    runtime = (facts.versions.get("exported_with") or {}).get("onnxruntime")
    rows += [("ONNX Runtime", told(runtime))] if runtime else []
    return table(["compared with the trained model", "found"], rows, numbers_from=2)


def licence(facts: ModelFacts) -> str:
    """Return where the weights began and which licences bear on them."""
    source = {**(facts.card.get("pretraining") or {}), **facts.pretraining}
    kind = source.get("kind") or UNKNOWN
    if kind == "none":
        start = "Training began from random weights: no other weights' licence bears on these."
    else:
        names = [source.get(key) for key in ("tag", "origin", "file")]
        name = next((text for text in names if text), UNKNOWN)
        digest = f", SHA-256 {code(source['sha256'])}" if source.get("sha256") else ""
        named = source.get("licence") or source.get("license") or UNKNOWN
        start = f"Training began from {escape(name)} (source: {escape(kind)}{digest}). "
        start += f"Their licence: **{escape(named)}**."
    return (
        f"{start} The pictures trained on have terms of their own, which may bear on these weights too. The "
        "toolkit's licence covers its code, not this file."
    )


def the_file(facts: ModelFacts, file_name: str, file_sha256: str, size_bytes: int) -> str:
    """Return name, size, digest, precision and versions."""
    rows = [
        ("file", code(file_name)),
        ("size", f"{size_bytes / 1e6:,.1f} MB"),
        ("SHA-256", code(file_sha256)),
        ("computes in", escape(facts.precision)),
        *([("face cut out as", f"{told(facts.crop)} ({_known_from(facts)})")] if facts.crop else []),
        ("versions", told(facts.versions)),
    ]
    return table(["what", "this file"], rows, numbers_from=2)


def _known_from(facts: ModelFacts) -> str:
    return escape(str(facts.data.get("face_crop") or f"where that is known from: {UNKNOWN}"))


def told(value: Any) -> str:
    """Return a value or a mapping of values as escaped words; "unknown" for nothing.

    >>> told({"name": "crl", "alpha": 1.5, "weights": None}), told({})
    ('name crl, alpha 1.5', 'unknown')
    """
    return escape(_words(value)) or UNKNOWN


def _words(value: Any) -> str:
    if value is None or value == "" or value == {} or value == []:
        return ""
    if isinstance(value, Mapping):
        found = {str(key): _words(item) for key, item in value.items()}
        return ", ".join(f"{key.replace('_', ' ')} {text}" for key, text in found.items() if text)
    if isinstance(value, list | tuple):
        return ", ".join(_words(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _amount(value: int | None, what: str) -> str:
    return f"{what}: {UNKNOWN}" if value is None else f"{value:,} {what}"


def in_words(value: int) -> str:
    """Return a count, up to ten as a word.

    >>> in_words(8), in_words(1200)
    ('eight', '1,200')
    """
    return COUNTS[value] if value < len(COUNTS) else f"{value:,}"


def one_line(text: object) -> str:
    """Return `text` with a space for everything that cannot be printed, line ends among it."""
    return "".join(sign if sign.isprintable() else " " for sign in str(text))
