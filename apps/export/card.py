"""The facts inside a model file -> README.md beside it: what it does, how to use it, how well, its limits."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from apps.export.metadata import reference_code
from apps.runtime.metadata import ModelFacts
from finetune.experiments.exported.card import NOT_MEASURED, UNKNOWN
from finetune.experiments.exported.confidence import confidence_text
from finetune.experiments.exported.lookup import card_text
from finetune.experiments.exported.model import CardText
from finetune.figures.markdown import code, escape, page, table
from finetune.metrics.learning import beaten_by_guessing
from finetune.runs.former_losses import loss_text


def write_card(facts: ModelFacts, file_name: str, file_sha256: str, size_bytes: int) -> str:
    """Return a model card in Markdown, to be read in two minutes.

    Whatever the facts lack is "not measured" or "unknown"; every name is shown as it is and read by nobody as
    Markdown or HTML.

    Args:
        facts: what the file says of itself.
        file_name: of the .onnx file beside the card.
        file_sha256: of the file, 64 hexadecimal digits.
        size_bytes: of the file.
    """
    text = card_text(facts)
    sections: list[tuple[str, str | None]] = [
        ("Use it", use_it(facts, one_line(file_name))),
        ("How well it does", text.measured),
        ("How sure it is", confidence_text(facts)),
        ("Limits", limits(facts, text)),
        ("How it was trained", how_trained(facts, text)),
        ("How this file was checked", how_checked(facts)),
        ("Weights and their licence", licence(facts)),
        ("The file", the_file(facts, file_name, file_sha256, size_bytes)),
    ]
    return page(escape(facts.title), sections, introduction(facts, text))


def introduction(facts: ModelFacts, text: CardText) -> str:
    """Return what the model is, whether guessing does as well, and its scores in one sentence."""
    about = facts.card.get("data", {})
    warning = f"**Not for real faces.** {escape(about['about'])}" if about.get("kind") == "drawn" else ""
    useless = [f"**{escape(f'{line[0].upper()}{line[1:]}')}.**" for line in _beaten(facts)]
    return "\n\n".join(part for part in (text.does, warning, *useless, text.scored) if part)


def _beaten(facts: ModelFacts) -> list[str]:
    return beaten_by_guessing([str(line) for line in facts.card.get("warnings") or ()])


def use_it(facts: ModelFacts, file_name: str) -> str:
    """Return the commands and the lines of Python that classify an image."""
    file = shlex.quote(file_name)
    commands = [f"crl predict {file} images/ --out answers.csv"]
    if facts.crop is not None:
        commands[0] += "           # images that already show one cropped face each"
        commands += [
            f"crl predict {file} photo.jpg --faces --out answers.csv   # finds and cuts out the faces first"
        ]
    commands += [f"crl demo {file}"]
    python = (
        "from pathlib import Path\n"
        "from apps.runtime.session import OnnxClassifier\n\n"
        f"answer = OnnxClassifier({file_name!r}).predict([Path('image.jpg')])[0]\n"
        "print(answer.class_name, answer.probability, answer.top(3))"
    )
    spec = facts.preprocess
    size = spec.image_size
    return (
        f"```\n{chr(10).join(_aligned(commands))}\n```\n\n```python\n{python}\n```\n\n"
        f"Without the toolkit: the input `images` is uint8 (N, {size}, {size}, 3), RGB, already resized and "
        f"cropped ({escape(spec.describe())}); scaling and normalisation are inside. The outputs are "
        f"`logits` and `probs`, (N, {len(facts.class_names)}). The file's metadata hold the class names in "
        "order, the resize rule and all facts below. They are enough, with NumPy, OpenCV, Pillow and ONNX "
        f"Runtime:\n\n```python\n{reference_code(file_name)}```"
    )


def _aligned(commands: list[str]) -> list[str]:
    """Return the commands with their remarks in one column."""
    parts = [command.partition("#") for command in commands]
    width = max(len(command.rstrip()) for command, _, _ in parts)
    return [
        f"{command.rstrip():{width}}   # {remark.strip()}" if sign else command
        for command, sign, remark in parts
    ]


def limits(facts: ModelFacts, text: CardText) -> str:
    """Return what the model must not be used for, what it cannot do, and what nobody measured."""
    card = facts.card
    lines = [f"**Not for** {escape('; '.join(card['out_of_scope']))}."] if card.get("out_of_scope") else []
    lines += [f"**Warning:** {escape(line)}." for line in card.get("warnings") or ()]
    lines += text.warnings
    if facts.parity.get("usual_tolerance"):
        allowed, usual = (told(facts.parity.get(key)) for key in ("tolerance", "usual_tolerance"))
        lines.append(
            f"**Warning:** outputs of this {facts.precision} file may differ from the trained model's by "
            f"{allowed} of the largest: the usual limit of {usual} was raised for this export."
        )
    lines.append(f"Any image gets an answer, also one that shows {text.anything_else}.")
    lines += [f"Made for: {escape(card['intended_use'])}"] if card.get("intended_use") else []
    lines += [escape(card["privacy"])] if card.get("privacy") else []
    missing = list(card.get("not_measured", ())) or ["Accuracy on parts of the test images."]
    return "\n".join(
        [
            *(f"* {line}" for line in lines),
            f"\n**{NOT_MEASURED.capitalize()}:**\n",
            *(f"* {escape(text)}" for text in missing),
            _how_to_slice(card.get("how_to_slice") or ()),
        ]
    ).rstrip()


def _how_to_slice(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    command, *remarks = lines
    return (
        f"\nTo measure more, on images of your own:\n\n```\n{one_line(command)}\n```\n\n"
        f"{escape(' '.join(remarks))}"
    )


def how_trained(facts: ModelFacts, text: CardText) -> str:
    """Return network, loss, data, split, settings and what the training began from, as a table."""
    rows = [
        ("network", told(facts.architecture)),
        ("loss", escape(loss_text(facts.loss)) if facts.loss else UNKNOWN),
    ]
    data, training = facts.card.get("data") or {}, facts.card.get("training") or {}
    rows += text.data if data else [("data", told(facts.data))]
    settings = dict(facts.training) or {
        key: training[key] for key in ("seed", "epochs", "batch_size") if key in training
    }
    rows += [("settings", told(settings)), ("test crops", escape(facts.test_crops))]
    shown = table(["what", "this model"], rows, numbers_from=2)
    about = data.get("about") if data.get("kind") != "drawn" else None
    return f"{shown}\n\n{escape(about)}" if about else shown


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
        layout = f", named as {escape(source['layout'])}" if source.get("layout") else ""
        start = f"Training began from {escape(name)} (source: {escape(kind)}{layout}{digest}). "
        start += f"Their licence: **{escape(named)}**."
    return (
        f"{start} The images trained on have terms of their own, which may bear on these weights too. The "
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


def one_line(text: object) -> str:
    """Return `text` with a space for everything that cannot be printed, line ends among it."""
    return "".join(sign if sign.isprintable() else " " for sign in str(text))
