"""The facts inside a model file -> README.md beside it: what it does, how to use it, how well, its limits."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from agecls.card_facts import NOT_MEASURED as NOT_MEASURED_CROP
from apps.export import card_category as category
from apps.export import card_scores as measured
from apps.export.card_scores import NOT_MEASURED
from apps.export.metadata import reference_code
from apps.runtime.metadata import ModelFacts
from finetune.figures.markdown import code, escape, page, table

FEW_CLASSES = 12
UNKNOWN = "unknown"
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


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
    sections: list[tuple[str, str | None]] = [
        ("Use it", use_it(facts, one_line(file_name))),
        ("How well it does", how_well(facts)),
        ("Limits", limits(facts)),
        ("How it was trained", how_trained(facts)),
        ("How this file was checked", how_checked(facts)),
        ("Weights and their licence", licence(facts)),
        ("The file", the_file(facts, file_name, file_sha256, size_bytes)),
    ]
    return page(escape(facts.title), sections, introduction(facts))


def introduction(facts: ModelFacts) -> str:
    """Return what the model is, and its scores in one sentence."""
    names = [escape(name) for name in facts.class_names]
    listed = ", ".join(names[:FEW_CLASSES]) + (", ..." if len(names) > FEW_CLASSES else "")
    if facts.task == "age":
        what = (
            "This model takes an image of one face and names the age group that the person *appears* to "
            f"belong to, one of {in_words(len(names))}: {listed}."
        )
    else:
        what = f"This model takes an image and names its category, one of {in_words(len(names))}: {listed}."
    about = facts.card.get("data", {})
    warning = f"**Not for real faces.** {escape(about['about'])}" if about.get("kind") == "drawn" else ""
    return "\n\n".join(part for part in (what, warning, _in_one_sentence(facts)) if part)


def _in_one_sentence(facts: ModelFacts) -> str:
    metrics = facts.metrics
    if facts.task != "age":
        return category.in_one_sentence(metrics)
    if metrics.get("n") is None:
        return f"How well it does was {NOT_MEASURED}."
    members = metrics.get("scope") == "members"
    exact, one_off = (metrics.get(f"{key}_mean" if members else key) for key in ("exact", "one_off"))
    if exact is None or one_off is None:
        return ""
    who = "Its members, each tested on its own subjects," if members else "It"
    people = f" of {metrics['subjects']:,} subjects" if metrics.get("subjects") else ""
    return (
        f"{who} named the labelled group for {exact:.0f} in 100 of {metrics['n']:,} test images{people}, and "
        f"that group or one next to it for {one_off:.0f} in 100."
    )


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


def how_well(facts: ModelFacts) -> str:
    """Return what was measured: whole and in parts, the errors across 18, and the probabilities."""
    metrics, card = facts.metrics, facts.card
    if facts.task != "age":
        parts = [category.results(facts)]
        if card.get("classes"):
            parts += ["### By category", category.by_class(card["classes"])]
        parts += ["### Its probabilities", category.calibration(metrics)] if metrics.get("top1") else []
        return "\n\n".join(parts)
    parts = [measured.results(metrics, card)]
    if metrics and facts.precision != "fp32":
        parts.append(
            f"The scores are the trained model's, in float32; how far this {facts.precision} file is from it "
            "stands under “How this file was checked”."
        )
    if metrics and facts.test_crops != "center":
        parts.append(
            f"The scores average over several views of an image (test crops: {escape(facts.test_crops)}). "
            "`crl predict` averages over the same ones; the demo, `--test_crops center`, and Python without "
            '`predict(..., test_crops="run")` show the centre alone, for which nothing was measured.'
        )
    if card.get("groups") and metrics:
        parts += [
            "### By age group",
            measured.slices("labelled group", card["groups"], card.get("cross_validation")),
            measured.HOW_TO_READ,
        ]
        parts += ["### Across the age of 18", measured.crossings(card)]
    for name, title in (("gender", "By gender"), ("yaw", "By head pose")):
        if card.get(name):
            parts += [f"### {title}", measured.slices(name if name == "gender" else "head", card[name])]
    if card.get("detector"):
        parts += ["### On faces cut out by a detector", measured.detector(card["detector"], facts.crop)]
    return "\n\n".join([*parts, "### Its probabilities", measured.calibration(metrics)])


def limits(facts: ModelFacts) -> str:
    """Return what the model must not be used for, what it cannot do, and what nobody measured."""
    card, data = facts.card, facts.card.get("data") or {}
    lines = [f"**Not for** {escape('; '.join(card['out_of_scope']))}."] if card.get("out_of_scope") else []
    lines += [f"**Warning:** {escape(text)}." for text in card.get("warnings") or ()]
    lines += [line for line in (category.boxes_line(facts),) if line]
    if card.get("holes"):
        holes = ", ".join(map(escape, card["holes"]))
        lines.append(f"No group covers the ages {holes}: the model will force a neighbour on such a subject.")
    if data.get("shared_people"):
        lines.append(
            f"**{data['shared_people']:,} subjects are in both training and test: the scores are too high.**"
        )
    if data.get("subjects_known") is False:
        lines.append("The subject of each image was not known: if subjects repeat, the scores are too high.")
    if facts.data.get("face_crop") == NOT_MEASURED_CROP:
        lines.append(
            "**How faces are cut out of photographs for this model is a default that nobody measured**, "
            "which may cost many points: give it cropped faces framed like its training images, or export "
            "it again with a face detector at hand."
        )
    shown = "no face" if facts.task == "age" else "none of the categories"
    lines.append(f"Any image gets an answer, also one that shows {shown}.")
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


def how_trained(facts: ModelFacts) -> str:
    """Return network, loss, data, split, settings and what the training began from, as a table."""
    rows = [("network", told(facts.architecture)), ("loss", told(facts.loss))]
    data, training = facts.card.get("data") or {}, facts.card.get("training") or {}
    of_data = _data_rows if facts.task == "age" else category.data_rows
    rows += of_data(data, training) if data else [("data", told(facts.data))]
    settings = dict(facts.training) or {
        key: training[key] for key in ("seed", "epochs", "batch_size") if key in training
    }
    rows += [("settings", told(settings)), ("test crops", escape(facts.test_crops))]
    text = table(["what", "this model"], rows, numbers_from=2)
    about = data.get("about") if data.get("kind") != "drawn" else None
    return f"{text}\n\n{escape(about)}" if about else text


def _data_rows(data: Mapping[str, Any], training: Mapping[str, Any]) -> list[tuple[str, str]]:
    images = _amount(data.get("images"), "images") + ", " + _amount(data.get("subjects"), "subjects")
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
        ("subjects in both training and test", _people(data.get("shared_people"))),
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
