"""The embeddings of a run's own test images, and those of the backbone that its training started from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agecls.audit.answers import Answers
from agecls.audit.config import AuditConfig
from agecls.audit.identity_leak import identity_leak
from finetune.cli.console import say
from finetune.errors import CrlError

if TYPE_CHECKING:
    from finetune.images.preprocess import PreprocessSpec


def embedding_leaks(folder: Path, answers: Answers, config: AuditConfig) -> list[dict[str, Any]]:
    """Return the identity leak of a run's embeddings, out of fold, and of the backbone that it began with.

    Each fold's images are shown to that fold's model. People of two folds are never compared: their
    embeddings are of different models. The starting backbone is left out, which is told, where its weights
    are not at hand.
    """
    from agecls.task import TASK
    from finetune.experiments.evaluate import own_images
    from finetune.experiments.result import Result
    from finetune.training.learner import load_classifier

    result = Result.load(folder, TASK.form)
    place = {path: row for row, path in enumerate(answers.path.tolist())}
    trained, started, rows, fold = [], [], [], []
    for index, shown in enumerate(own_images(TASK, result)):
        core, spec, facts = load_classifier(shown.files[0])
        kept = [row for row, path in enumerate(shown.manifest["path"].tolist()) if path in place]
        files = [shown.manifest.file(row) for row in kept]
        rows += [place[path] for path in shown.manifest["path"][kept].tolist()]
        fold += [index] * len(kept)
        trained.append(_embeddings(core.backbone, files, spec, config.batch_size))
        start = _starting_backbone(result, facts, spec)
        started.append(None if start is None else _embeddings(start, files, spec, config.batch_size))
    taken, folds = answers.select(np.array(rows)), np.array(fold)
    found = [{"what": "embedding of the trained model", **_leak(trained, taken, folds, config)}]
    if all(part is not None for part in started):
        begun = [part for part in started if part is not None]
        found.append({"what": "embedding of the starting backbone", **_leak(begun, taken, folds, config)})
    return found


def _leak(parts: list[np.ndarray], taken: Answers, folds: np.ndarray, config: AuditConfig) -> dict[str, Any]:
    """Return the leak over pairs of one fold; each fold's mean is taken off its own embeddings."""
    return identity_leak(
        np.concatenate([part - part.mean(axis=0) for part in parts]),
        taken.unit,
        taken.age,
        groups=folds,
        resamples=config.resamples,
        seed=config.seed,
    )


def _embeddings(backbone: Any, files: list[Path], spec: PreprocessSpec, at_once: int) -> np.ndarray:
    """Return what the head reads of each image, float64 (N, D)."""
    import torch

    from finetune.images.batches import normalise
    from finetune.images.decode import decode_image
    from finetune.images.preprocess import preprocess

    found = []
    for start in range(0, len(files), at_once):
        pixels = np.stack([preprocess(decode_image(file), spec) for file in files[start : start + at_once]])
        with torch.inference_mode():
            images = normalise(torch.from_numpy(pixels), spec.mean, spec.std)
            found.append(backbone(images).embedding.double().numpy())
    return np.concatenate(found)


def _starting_backbone(result: Any, facts: dict[str, Any], spec: PreprocessSpec) -> Any:
    """Return the backbone as it was before training, None where its weights are not at hand."""
    from finetune.models.backbone import build_backbone

    asked = dict(result.config.get("model") or {})
    weights = str(asked.get("weights", "none"))
    if weights == "none":
        say("note: training started from random weights: there is no backbone to compare the leak with")
        return None
    try:
        return build_backbone(facts["model"]["backbone"], weights=weights, image_size=spec.image_size).eval()
    except CrlError as error:
        say(f"note: the starting backbone's leak is not measured: {error}")
        return None
