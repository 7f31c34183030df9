"""`crl evaluate-onnx`: exported models on their own run's test images or on other data, without torch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agecls.config import AgeDataConfig
from agecls.data.folds import assign_folds
from agecls.data.read import read_data
from agecls.evaluation import SLICES, print_slice
from agecls.results import Predictions
from agecls.scores import age_scores, slice_scores
from apps.config import EvaluateOnnxConfig
from apps.evaluate.reproduce_run import repeat_run, short_list, write_results
from apps.runtime.batching import Picture
from apps.runtime.session import OnnxClassifier
from apps.runtime.side_by_side import check_same_classes, probabilities
from finetune.cli.console import say, table
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.images.manifest import Manifest
from finetune.runs.files import check_writable


def evaluate_onnx(models: Sequence[Path], config: EvaluateOnnxConfig) -> dict[str, Any]:
    """Score exported models, print and return the scores.

    With `config.run` each model is shown the test images of its own fold and compared with what the trained
    model answered; with `config.data` all are shown that data, and several are averaged as well.

    Raises UsageError without models or data; ModelFileError when an fp32 model gets another number right than
    the trained one, or the models' classes are not the data's; DataError for data that cannot be used.
    """
    if not models:
        raise UsageError("no model: name one exported file or several (.onnx)")
    if config.run is None and config.data.root is None and config.data.table is None:
        raise UsageError(
            "no pictures: give --run RUN (the run that the models were exported from), --data.root FOLDER "
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
    if loaded[0].facts.task == "category":
        return _score_categories(loaded, config)
    return _score_data(loaded, config)


def _score_categories(models: Sequence[OnnxClassifier], config: EvaluateOnnxConfig) -> dict[str, Any]:
    """Show all models pictures of their categories; write what was asked for."""
    from apps.evaluate.score_categories import score_categories

    summary, average = score_categories(models, config)
    write_results(config.out, summary, {"predictions.parquet": average})
    return summary


def _score_data(models: Sequence[OnnxClassifier], config: EvaluateOnnxConfig) -> dict[str, Any]:
    """Show all models other data; score each, and their average where there are several."""
    manifest = read_data(config.data, with_folds=False).manifest
    _check_data(models, manifest, config.data)
    files: list[Picture] = [manifest.file(row) for row in range(len(manifest))]
    crops = [model.facts.test_crops for model in models]
    found = probabilities(models, files, crops, batch_size=config.batch_size, told="pictures")
    average = _predictions(manifest, np.mean(found, axis=0))
    scored = [age_scores(probs, manifest.label) for probs in found]
    both = age_scores(average.probs, average.target)
    rows = [[model.title, *_score_cells(scores)] for model, scores in zip(models, scored, strict=True)]
    rows += [["average of all", *_score_cells(both)]] if len(models) > 1 else []
    table(f"{len(manifest)} images of other data", ["model", "images", "exact %", "one-off %", "MAE"], rows)
    slices = {name: slice_scores(average, name) for name in SLICES}  # type: ignore[arg-type]
    for name, cells in slices.items():
        print_slice(name, cells)
    lines = [
        {"model": str(model.path), "title": model.title, "sha256": model.sha256, **scores}
        for model, scores in zip(models, scored, strict=True)
    ]
    summary = {"data": f"{len(manifest)} images of other data", "models": lines, **both, "slices": slices}
    write_results(config.out, summary, {"predictions.parquet": average})
    return summary


def _check_data(models: Sequence[OnnxClassifier], manifest: Manifest, config: AgeDataConfig) -> None:
    """Raise ModelFileError for other classes than the data's; say it where the data was trained on."""
    first = models[0]
    if first.class_names != manifest.class_names:
        told = f"{short_list(first.class_names)}; the data has {short_list(manifest.class_names)}"
        raise ModelFileError(f"{first.path} has other classes than the data: {told} (--data.groups)")
    if not len(manifest):
        raise DataError("the data holds no image with a label: nothing can be scored")
    trained_on = [model.facts.data.get("manifest") for model in models]
    known = _fingerprints(manifest, config) if any(trained_on) else []
    for model, fingerprint in zip(models, trained_on, strict=True):
        if fingerprint in known:
            say(f"warning: {model.path} was trained on images of this very data, so its scores flatter it")


def _fingerprints(manifest: Manifest, config: AgeDataConfig) -> list[str]:
    """Return the fingerprints that a run of this data may have recorded, with and without folds made."""
    found = [manifest.fingerprint]
    with contextlib.suppress(DataError, UsageError):  # data of too few people for folds trained no run
        folds = assign_folds(manifest, n_folds=config.n_folds, seed=config.fold_seed)
        found.append(manifest.with_column("fold", folds).fingerprint)
    return found


def _predictions(manifest: Manifest, probs: np.ndarray) -> Predictions:
    count, columns = len(manifest), manifest.columns
    people = columns.get("subject", columns["path"])
    return Predictions(
        manifest.class_names,
        path=columns["path"],
        subject=people,
        user=columns.get("user", people),
        gender=columns.get("gender", np.full(count, "")),
        age=columns.get("age", np.full(count, np.nan)),
        fold=np.zeros(count),
        target=manifest.label,
        probs=probs,
    )


def _score_cells(scores: Mapping[str, Any]) -> list[object]:
    return [scores["n"], *(f"{scores[name]:.2f}" for name in ("exact", "one_off", "mae_argmax"))]
