"""What the demo shows of its models: a folded panel with a column per model and a row per fact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agecls.faces.crop import FaceCrop
from apps.demo.text import safe
from apps.runtime.answer_words import AnswerWords
from apps.runtime.metadata import is_for_drawings, learned_from_boxes
from finetune.experiments.exported.lookup import drawing_words, model_warnings
from finetune.experiments.measures import PERCENT, Measure
from finetune.experiments.task import load_task, measures_for, task_names
from finetune.figures.canvas import shorten
from finetune.runs.former_losses import loss_text

if TYPE_CHECKING:
    from apps.runtime.metadata import ModelFacts
    from apps.runtime.session import OnnxClassifier

MOST_WARNINGS, LONGEST_WARNING = 6, 400  # of one model; characters of one


def facts_html(models: Mapping[str, OnnxClassifier]) -> str:
    """Return a folded panel of facts: a column per model, a row per fact that any of them records."""
    columns = {title: model_facts(model) for title, model in models.items()}
    labels = list(dict.fromkeys(label for facts in columns.values() for label in facts))
    head = "".join(f'<th scope="col">{safe(title)}</th>' for title in columns)
    body = "".join(
        f'<tr><th scope="row">{safe(label)}</th>'
        + "".join(f"<td>{safe(facts.get(label, '-'))}</td>" for facts in columns.values())
        + "</tr>"
        for label in labels
    )
    return (
        '<details class="crl-facts"><summary>About these models</summary>'
        '<div class="crl-scroll" tabindex="0" role="region" aria-label="Facts about the models">'
        f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def model_facts(model: OnnxClassifier) -> dict[str, str]:
    """Return what a visitor may want to know of a model, by label; facts it does not record are left out."""
    facts = model.facts
    told = {
        "Backbone": _backbone(facts.architecture),
        "Loss": loss_text(facts.loss) if facts.loss else "",
        "Data": _data(facts.data),
        "Scores": scores(facts.metrics),
        "Calibration": _calibration(model),
        "Warnings": " ".join(_warnings(model)),
        "Pretraining": _pretraining(facts.pretraining),
        "Input": _input(facts),
        "Class order": model.order_note,
        "Precision": facts.precision,
        "Runs on": f"{'CPU' if model.device == 'cpu' else 'GPU'} (ONNX Runtime)",
        "SHA-256": model.sha256,
    }
    return {label: words for label, words in told.items() if words}


def warnings_html(models: Mapping[str, OnnxClassifier]) -> str:
    """Return what speaks against the models, each sentence with the models it is of; nothing for none."""
    told: dict[str, list[str]] = {}
    for title, model in models.items():
        for line in _warnings(model):
            told.setdefault(line, []).append(title)
    if not told:
        return ""
    lines = "".join(
        f"<li><b>{_named_models(titles, len(models))}:</b> {safe(line)}</li>" for line, titles in told.items()
    )
    return f'<ul class="crl-trouble crl-warned" aria-label="Warnings about these models">{lines}</ul>'


def _named_models(titles: Sequence[str], count: int) -> str:
    return "all models" if len(titles) == count > 1 else safe(", ".join(titles))


def _warnings(model: OnnxClassifier) -> list[str]:
    """Return a model's warnings, cut to what a page can hold."""
    told = [shorten(line, LONGEST_WARNING) for line in dict.fromkeys(model_warnings(model.facts))]
    more = len(told) - MOST_WARNINGS
    return [*told[:MOST_WARNINGS], *([f"{more} further warnings are in its model card."] if more > 0 else [])]


def drawn_html(models: Mapping[str, OnnxClassifier]) -> str:
    """Return a sentence where a model learned from drawings alone, nothing where none did."""
    drawn = {title: model for title, model in models.items() if is_for_drawings(model.facts)}
    if not drawn:
        return ""
    words = drawing_words([model.facts.task for model in drawn.values()])
    return (
        f'<p class="crl-about"><strong>Not for {words.photographs}:</strong> '
        f"{safe(', '.join(drawn))} learned from drawings alone.</p>"
    )


def _calibration(model: OnnxClassifier) -> str:
    """Return what calibrated the file and what its sets promise; nothing for an entry that is empty."""
    entry = model.facts.calibration
    if not entry:
        return ""
    how = "" if entry.get("T") is None else f" {entry['T']:.4g}"
    promise = AnswerWords.of(model.facts.task, model.class_names).promise(entry)
    parts = [f"{entry['method']}{how}, fitted on {entry['from']}, {entry['n']:,} images", promise]
    return "; ".join(filter(None, parts))


def _pretraining(source: Mapping[str, Any]) -> str:
    return "none: random weights" if source.get("kind") == "none" else plain_line(source, leave=("sha256",))


def scores(metrics: Mapping[str, Any]) -> str:
    """Return a model's scores with the number of images and subjects that they were measured on.

    >>> scores({"n": 147, "subjects": 17, "exact": 47.619, "mae": 0.7551})
    'correct class 47.6 %, mean error 0.76 groups (147 test images of 17 subjects)'
    """
    shown = []
    for measure in measures_of(metrics):
        value, words = _value(metrics, measure), measure.label_in("demo")
        if isinstance(value, int | float):
            told = f"{value:.1f} %" if measure.unit == PERCENT else f"{value:.2f} {measure.unit}"
            shown.append(f"{words} {told}")
    if not shown:
        return plain_line(metrics)
    people = f" of {metrics['subjects']} subjects" if metrics.get("subjects") else ""
    counted = f" ({metrics['n']} test images{people})" if metrics.get("n") else ""
    own = "subjects" if metrics.get("subjects") else "images"
    members = f"its members, each on {own} it had not seen: " if metrics.get("scope") == "members" else ""
    return f"{members}{', '.join(shown)}{counted}"


def measures_of(metrics: Mapping[str, Any]) -> tuple[Measure, ...]:
    """Return what the demo shows of the task whose concluding score these facts tell; () of no such task."""
    for task in map(load_task, task_names()):
        if any(_value(metrics, one) is not None for one in measures_for(task, "conclusion")):
            return measures_for(task, "demo")
    return ()


def _value(metrics: Mapping[str, Any], measure: Measure) -> Any:
    return metrics.get(measure.facts_name, metrics.get(f"{measure.facts_name}_pooled"))


def plain_line(values: Mapping[str, Any], leave: tuple[str, ...] = ()) -> str:
    """Return the plain values of a mapping on one line; what is empty, zero or nested is left out.

    >>> plain_line({"alpha": 1.5, "class_weights": "none", "label_smoothing": 0.0, "pair": [1, 2]})
    'alpha 1.5'
    """
    plain = {
        key: value
        for key, value in values.items()
        if isinstance(value, str | int | float) and value and value != "none" and key not in leave
    }
    return ", ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in plain.items())


def _backbone(architecture: Mapping[str, Any]) -> str:
    name = ".".join(str(architecture[key]) for key in ("backbone", "tag") if architecture.get(key))
    parts = [name] if name else []
    if architecture.get("head"):
        parts.append(f"{architecture['head']} head")
    if isinstance(architecture.get("parameters"), int):
        parts.append(f"{architecture['parameters'] / 1e6:.3g} million parameters")
    if isinstance(architecture.get("members"), int) and architecture["members"] > 1:
        parts.append(f"the mean of {architecture['members']} networks")
    return ", ".join(parts)


def _data(data: Mapping[str, Any]) -> str:
    parts = [str(data["name"])] if data.get("name") else []
    if data.get("images"):
        people = f" of {data['subjects']} subjects" if data.get("subjects") else ""
        parts.append(f"{data['images']} images{people}")
    if data.get("fold") is not None:
        parts.append(f"fold {data['fold']} kept for testing")
    return ", ".join(parts)


def _input(facts: ModelFacts) -> str:
    crop = "an image cut to its object" if learned_from_boxes(facts) else "the whole image"
    if facts.crop is not None:
        crop = f"face: {FaceCrop.from_dict(facts.crop).describe()}"
    source = facts.data.get("face_crop") if facts.crop is not None else None
    return f"{facts.preprocess.image_size} px, {crop}" + (f" ({source})" if source else "")


def _number(value: str | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
