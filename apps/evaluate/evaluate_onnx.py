"""`crl evaluate-onnx`: exported models on their own run's test images or on other data, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from apps.config import EvaluateOnnxConfig
from apps.evaluate.reproduce_run import repeat_run, write_results
from apps.runtime.batching import files_or_cuts
from apps.runtime.session import OnnxClassifier
from apps.runtime.side_by_side import check_same_classes, probabilities
from finetune.cli.console import say, table
from finetune.errors import UsageError
from finetune.experiments.evaluate import frame_of
from finetune.experiments.exported.lookup import evaluated_task
from finetune.experiments.task import Task, measures_for
from finetune.runs.files import check_writable


def evaluate_onnx(models: Sequence[Path], config: EvaluateOnnxConfig) -> dict[str, Any]:
    """Score exported models, print and return the scores.

    With `config.run` each model is shown the test images of its own fold and compared with what the trained
    model answered; with `config.data` all are shown that data, and several are averaged as well.

    Raises UsageError without models or data; ModelFileError when an fp32 model gets another number of images
    correct than the trained one, or the models' classes are not the data's; DataError for data that cannot be
    used.
    """
    if not models:
        raise UsageError("no model: name one exported file or several (.onnx)")
    if config.run is None and config.data.root is None and config.data.table is None:
        raise UsageError(
            "no images: give --run RUN (the run that the models were exported from), --data.root FOLDER "
            "(Adience; for category models CUB, Cars or a folder per category) or --data.table FILE"
        )
    if config.run is not None and config.data.table is not None:
        raise UsageError("--run shows the run's own test images and --data.table others: give one of them")
    if config.out is not None:
        check_writable(Path(config.out))
    loaded = [OnnxClassifier(path, device=config.device, threads=config.threads) for path in models]
    check_same_classes(loaded)
    for note in dict.fromkeys(model.device_note for model in loaded):
        say(note)
    if config.run is not None:
        return repeat_run(loaded, config)
    return _score_others(loaded, config)


def _score_others(models: Sequence[OnnxClassifier], config: EvaluateOnnxConfig) -> dict[str, Any]:
    """Show all models other data of their task; score each, and their average where there are several."""
    task = evaluated_task(models[0].facts.task, models[0].path)
    shown = task.other_data(config.data, models)
    images = shown.images
    found = probabilities(
        models,
        files_or_cuts([images.file(row) for row in range(len(images))], shown.boxes),
        [model.facts.test_crops for model in models],
        batch_size=config.batch_size,
    )
    frame = frame_of(task, images, models[0].class_names, shown.target)
    average = replace(frame, probs=np.mean(found, axis=0))
    scored = [task.scores(replace(frame, probs=probs)) for probs in found]
    both = task.evaluation_scores(average)
    _print_scores(shown.told, models, scored, both, task)
    task.tell_parts(both)
    lines = [
        {"model": str(model.path), "title": model.title, "sha256": model.sha256, **_without_tables(scores)}
        for model, scores in zip(models, scored, strict=True)
    ]
    summary = {"data": shown.told, "models": lines, **both}
    write_results(config.out, summary, {"predictions.parquet": average})
    return summary


def _print_scores(
    told: str,
    models: Sequence[OnnxClassifier],
    scored: Sequence[Mapping[str, Any]],
    both: Mapping[str, Any],
    task: Task,
) -> None:
    """Print a row of scores for each model, and for their average where there are several."""
    measures = measures_for(task, "other_data", models[0].class_names)

    def cells(scores: Mapping[str, Any]) -> list[object]:
        values = [scores[measure.score_name] for measure in measures]
        return [scores["n"], *("" if value is None else f"{value:.2f}" for value in values)]

    rows = [[model.title, *cells(scores)] for model, scores in zip(models, scored, strict=True)]
    rows += [["average of all", *cells(both)]] if len(models) > 1 else []
    table(told, ["model", "images", *(measure.heading for measure in measures)], rows)


def _without_tables(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's scores without those that are a table, such as a row for each class."""
    tables = [
        name
        for name, value in scores.items()
        if isinstance(value, list) and any(isinstance(row, Mapping) for row in value)
    ]
    return {name: value for name, value in scores.items() if name not in tables}
