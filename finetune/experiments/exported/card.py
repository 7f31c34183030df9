"""The measured part of a model card: what all cards say alike, and the card of a task without its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finetune.experiments.exported.model import CardText, ExportedFacts
from finetune.experiments.measures import PERCENT, Measure, shown_in
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import UNTESTED
from finetune.experiments.result import Result
from finetune.figures.markdown import escape, number, table

NOT_MEASURED, UNKNOWN = "not measured", "unknown"
FEW_CLASSES = 12  # are all named
PRIVACY = (
    "The model file holds numbers and facts, no image. The toolkit's commands and its page run on the "
    "machine that they are started on, send no image anywhere, and keep none unless you ask for it."
)
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
Facts = Mapping[str, Any]


def plain_card(
    result: Result,
    fold: int | None,
    scores: Callable[[Predictions], Facts],
    measures: Sequence[Measure],
    *,
    tested: bool,
) -> dict[str, Any]:
    """Return what is known of a run's model: {"metrics": {...}, "card": {...}}, as `Task.card` returns it.

    Args:
        result: the finished run.
        fold: whose model it is; None for the average of all. A run without folds has one model.
        scores: `Task.scores`.
        measures: the task's; those of the place "facts" travel with the model.
        tested: whether it is the weights that the run tested.
    """
    record, manifest, found = result.record, result.manifest, result.predictions
    own = found.select(found.fold == fold) if fold is not None and "fold" in found else found
    metrics: dict[str, Any] = {}
    if tested and len(own):
        known = scores(own)
        told = {one.facts_name: known[one.score_name] for one in shown_in(measures, "facts", own.class_names)}
        metrics = {"n": len(own), **told}
    data = {
        "name": record.policy,
        "images": None if manifest is None else len(manifest),
        "classes": len(result.class_names),
        "test": record.n,
        "protocol_words": record.protocol,
    }
    card = {
        "privacy": PRIVACY,
        "data": data,
        "training": {"n_train": record.n_train, "n_validation": record.n_validation},
        "not_measured": [] if tested else [UNTESTED],
    }
    return {"metrics": metrics, "card": card}


def plain_text(facts: ExportedFacts, measures: Sequence[Measure]) -> CardText:
    """Return the card's text from the task's measures alone."""
    data, training = facts.card.get("data") or {}, facts.card.get("training") or {}
    return CardText(
        does=f"This model takes an image and names its class, {one_of(facts.class_names)}.",
        scored=_in_one_sentence(facts.metrics, measures[0]),
        measured="\n\n".join([_results(facts.metrics, measures), *notes(facts, facts.test_crops)]),
        data=tuple(_data_rows(data, training)),
    )


def _in_one_sentence(metrics: Facts, headline: Measure) -> str:
    value = metrics.get(headline.facts_name)
    if value is None:
        return ""
    return f"Its {escape(headline.label)} is {_in_unit(value, headline)} on {metrics['n']:,} test images."


def _results(metrics: Facts, measures: Sequence[Measure]) -> str:
    rows = [
        [escape(one.label_in("card")), _in_unit(metrics[one.facts_name], one)]
        for one in shown_in(measures, "card")
        if metrics.get(one.facts_name) is not None
    ]
    return table([f"{metrics['n']:,} test images", "this model"], rows) if rows else plain_results(metrics)


def _in_unit(value: float, measure: Measure) -> str:
    return percent(value) if measure.unit == PERCENT else f"{number(value)} {escape(measure.unit)}".rstrip()


def _data_rows(data: Facts, training: Facts) -> list[tuple[str, str]]:
    images, classes = amount(data.get("images"), "images"), amount(data.get("classes"), "classes")
    parts = [*parts_told(training, data), str(data.get("protocol_words") or "")]
    told = "; ".join(part for part in parts if part) or UNKNOWN
    return [
        ("data", escape(f"{data.get('name') or UNKNOWN}; {images}, {classes}")),
        ("split", escape(told)),
    ]


def parts_told(training: Facts, data: Facts) -> list[str]:
    """Return how many images were trained, validated and tested on; parts without any are not named."""
    found = (
        (training.get("n_train"), "training images"),
        (training.get("n_validation"), "validation images"),
        (data.get("test"), "test images"),
    )
    return [f"{count:,} {words}" for count, words in found if count]


def plain_results(metrics: Facts) -> str:
    """Return every plain number of the metrics as a table, whatever it is called."""
    rows = [
        [escape(name.replace("_", " ")), number(value, 2) if isinstance(value, float) else f"{value:,}"]
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return table(["measured on the test images", "value"], rows) if rows else f"Accuracy: {NOT_MEASURED}."


def notes(facts: ExportedFacts, crops: str) -> list[str]:
    """Return what a reader of the scores must know of the file's precision and of the views averaged over."""
    found = []
    if facts.precision != "fp32":
        found.append(
            f"The scores are the trained model's, in float32; how far this {facts.precision} file is from it "
            "stands under “How this file was checked”."
        )
    if crops != "center":
        found.append(
            f"The scores average over several views of an image (test crops: {escape(crops)}). `crl "
            "predict` averages over the same ones; the demo, `--test_crops center`, and Python without "
            '`predict(..., test_crops="run")` show the centre alone, for which nothing was measured.'
        )
    return found


def one_of(class_names: Sequence[str]) -> str:
    """Return how many classes there are and the first of them, escaped.

    >>> one_of(["auk", "owl"])
    'one of two: auk, owl'
    """
    names = [escape(name) for name in class_names[:FEW_CLASSES]]
    more = ", ..." if len(class_names) > FEW_CLASSES else ""
    return f"one of {in_words(len(class_names))}: {', '.join(names)}{more}"


def in_words(value: int) -> str:
    """Return a count, up to ten as a word.

    >>> in_words(8), in_words(1200)
    ('eight', '1,200')
    """
    return COUNTS[value] if value < len(COUNTS) else f"{value:,}"


def amount(value: int | None, what: str) -> str:
    """Return how many of what there are.

    >>> amount(1200, "images"), amount(None, "images")
    ('1,200 images', 'images: unknown')
    """
    return f"{what}: {UNKNOWN}" if value is None else f"{value:,} {what}"


def percent(value: float | None) -> str:
    """Return a number of percent as text.

    >>> percent(51.02), percent(None)
    ('51.0 %', 'not measured')
    """
    return NOT_MEASURED if value is None else f"{number(value, 1)} %"


def ends(interval: Sequence[float] | None) -> str:
    """Return an interval as words.

    >>> ends([46.34, 51.2]), ends(None)
    ('46.3 to 51.2', 'not measured')
    """
    return NOT_MEASURED if interval is None else f"{number(interval[0], 1)} to {number(interval[1], 1)}"
