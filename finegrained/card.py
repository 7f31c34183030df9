"""A finished fine-grained run -> what a model card reports: scores on its test images, and their limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from finegrained.measures import FINE_RESULT, MEASURES
from finegrained.scores import fine_scores
from finegrained.synthetic.datasets import is_drawn
from finetune.experiments.exported.card import PRIVACY
from finetune.experiments.measures import Measure, shown_in
from finetune.experiments.records.record import UNTESTED, RunRecord
from finetune.experiments.result import Result
from finetune.experiments.same_content import DROPPED
from finetune.runs.files import json_text

INTENDED_USE = (
    "research on telling visually similar categories apart and on loss functions; sorting images that show "
    "one object of the listed categories each, while somebody looks at the result."
)
OUT_OF_SCOPE = ("any decision that nobody checks", "images of other things than the listed categories")
HOW_TO_SLICE = (
    "crl evaluate-onnx MODEL --data.root FOLDER",
    "FOLDER holds a folder of images per category, or lies as the data set does that the model learned.",
)
ABOUT = {
    "cub": (
        "Caltech-UCSD Birds-200-2011's images were collected from Flickr for research; each photographer's "
        "own terms hold for them, and some also lie in ImageNet, whose weights most networks start from: the "
        "scores may flatter them."
    ),
    "cars": (
        "Stanford Cars' images were collected from the web for research; their owners' terms are not "
        "recorded with them."
    ),
}
UNKNOWN_TERMS = (
    "Where these images come from and their terms of use are not recorded here: ask whoever trained the "
    "model."
)
NOT_MEASURED = (
    "Images of several objects, or of none of the categories.",
    "Images of another origin than the training images: other cameras, places, seasons, drawings.",
)


def fine_card(run: Path, measures: Sequence[Measure] = MEASURES, *, tested: bool = True) -> dict[str, Any]:
    """Return what is known of the model of a finished fine-grained run: {"metrics", "card", "data"}.

    Every number was measured on the run's test images; None or an entry of `not_measured` stands for
    anything else. Plain JSON values, no path of a machine.

    Args:
        run: the folder of `crl fine train`.
        measures: the scores there are.
        tested: whether the card is about the weights that the run tested; others have no scores.

    Returns
        metrics: n, top1, top5 (None where K <= 5), balanced_accuracy (mean over classes), macro_f1 (percent),
            nll (nats), ece (0-1), top1_interval [low, high], baseline {class, top1}; {} where untested.
        card: classes (a row per class: name, n, right, accuracy, taken_for, taken_for_n), data, training,
            test_crops, intended_use, out_of_scope, privacy, not_measured, how_to_slice.
        data: what the model's facts record of its data: fold None, images, picture_crop and box_margin.

    Raises DataError for a folder that is no finished fine-grained run.
    """
    result = Result.load(Path(run), FINE_RESULT)
    record, found = result.record, result.predictions
    scores = fine_scores(found.probs, found.target, found.class_names) if tested and len(found) else None
    crop = dict(record.crop or {"kind": "image", "margin": 0.0})
    card = {
        "intended_use": INTENDED_USE,
        "out_of_scope": OUT_OF_SCOPE,
        "privacy": PRIVACY,
        "how_to_slice": HOW_TO_SLICE,
        "classes": scores["per_class"] if scores else [],
        "test_crops": record.test_crops or "center",
        "data": data_facts(result, crop),
        "training": _training(result),
        "not_measured": NOT_MEASURED if tested else (UNTESTED, *NOT_MEASURED),
    }
    data = {"fold": None, "folds": [], "picture_crop": crop["kind"], "box_margin": crop["margin"]}
    plain: dict[str, Any] = json.loads(
        json_text({"metrics": _metrics(scores, record, measures), "card": card, "data": data})
    )
    return plain


def data_facts(result: Result, crop: Mapping[str, Any]) -> dict[str, Any]:
    """Return which images a run was trained and tested on, by which rule, and how many.

    Returns kind (the layout), name, about (a paragraph), official (whether it is the whole published set),
    images, classes, per_class (min, median, max), train, validation, test, protocol_words, crop, and
    left_out (missing and unreadable images).
    """
    record, counts = result.record, result.record.counted
    layout = record.policy or ""
    table = PureWindowsPath(str(counts.get("table") or "")).name
    part = "" if counts.get("official") else "a part of "
    known = counts.get("data_set")
    name = f"{part}{known}" if known else f"the table {table}" if table else "folders of categories"
    left = {
        "images that were not there": counts.get("missing_images") or 0,
        "unreadable images": len(counts.get("bad_images") or ()),
        "images with the bytes of an earlier one": counts.get(DROPPED) or 0,
    }
    return {
        "kind": "drawn" if is_drawn(result.class_names) else layout or None,
        "name": name,
        "about": ABOUT.get(record.data_set, UNKNOWN_TERMS),
        "official": bool(counts.get("official")),
        "images": counts.get("images"),
        "classes": len(result.class_names),
        "per_class": counts.get("per_class"),
        "train": record.n_train,
        "validation": record.n_validation,
        "test": record.n,
        "protocol_words": record.protocol,
        "crop": dict(crop),
        "left_out": {what: count for what, count in left.items() if count},
    }


def _metrics(
    scores: Mapping[str, Any] | None, record: RunRecord, measures: Sequence[Measure]
) -> dict[str, Any]:
    if scores is None:
        return {}
    interval = scores["top1_interval"]
    return {
        "n": scores["n"],
        **{one.facts_name: scores[one.score_name] for one in shown_in(measures, "facts")},
        "top1_interval": [interval["low"], interval["high"]],
        "baseline": record.baseline,
    }


def _training(result: Result) -> dict[str, Any]:
    """Return how the model was trained, as far as a reader of a card asks."""
    record = result.record
    keys = ("backbone", "head", "head_options", "seed", "epochs", "batch_size", "image_size", "selected")
    return {
        "loss": result.loss_text,
        **{key: getattr(record, key) for key in keys},
        "n_train": record.n_train,
        "n_validation": record.n_validation,
    }
