"""`crl explain`: where a trained or an exported model found evidence for a class, drawn over each crop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apps.config import ExplainConfig
from apps.predict.inputs import find_sources
from apps.predict.views import safe_name, shortened
from apps.predict.writers import on_one_line
from apps.runtime.metadata import ModelFacts, is_for_drawings, learned_from_boxes
from finetune.cli.console import progress, say, table
from finetune.errors import DataError, UsageError, listing
from finetune.experiments.exported.lookup import drawing_words
from finetune.figures.evidence_figure import Caption, draw_evidence
from finetune.images.preprocess import PreprocessSpec, preprocess
from finetune.images.streams.guard import decode_guarded
from finetune.runs.files import check_writable

CUT_NOTE = "the model was trained on images cut to the object's box; give it images that are cut likewise"


@dataclass(frozen=True)
class Explainer:
    """A model that can be asked for its answer and for its reasons.

    Args:
        class_names: the K classes.
        spec: the model's preprocessing.
        probs: crop, uint8 (S, S, 3) -> probabilities (K,).
        look: (crop, class_index) -> evidence in 0-1, float32 (S, S), and how it was found.
        note: what a person should know before reading the figures; empty for nothing.
        name: what the model is called.
    """

    class_names: tuple[str, ...]
    spec: PreprocessSpec
    probs: Callable[[np.ndarray], np.ndarray]
    look: Callable[[np.ndarray, int], tuple[np.ndarray, str]]
    note: str = ""
    name: str = "model"


def explain_pictures(model: Path, words: Sequence[str], config: ExplainConfig) -> dict[str, Any]:
    """Draw, for every image, the crop that the model saw and over it the evidence for one class.

    `model` is an .onnx file (class activation maps, or occlusion where it carries none), a model.safetensors
    or a run folder (Grad-CAM; of a cross-validation the fold `config.fold`). The class is `config.class_name`
    or the predicted one.

    Returns {"pictures": [{path, class, probability, file}], "method"}.
    Raises UsageError for an unknown class or a folder that holds something; DataError, after all others were
    drawn, for images that cannot be read.
    """
    out = Path(config.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} holds something already; give the name of a new folder")
    check_writable(out)
    explainer = load_explainer(model, config)
    wanted = class_index(explainer, config.class_name)
    found = find_sources(words)
    for notice in (*found.notices, *filter(None, [explainer.note])):
        say(f"note: {notice}")
    out.mkdir(parents=True, exist_ok=True)
    rows, bad, methods = [], [], set()
    with progress(len(found.sources), "explained") as bar:
        for number, source in enumerate(found.sources):
            bar.advance()
            try:
                if source.reason:
                    raise DataError(source.reason)
                crop = preprocess(decode_guarded(Path(source.path)), explainer.spec)
            except DataError as error:
                bad.append(on_one_line(f"{source.path}: {getattr(error, 'reason', error)}"))
                continue
            probs = explainer.probs(crop)
            chosen = int(probs.argmax()) if wanted is None else wanted
            evidence, method = explainer.look(crop, chosen)
            methods.add(method)
            name = explainer.class_names[chosen]
            parts = (safe_name(Path(source.path).stem), safe_name(name), f"{probs[chosen]:.3f}")
            file = out / f"{number:04}-{'-'.join(parts)}.png"
            names, p = explainer.class_names, float(probs[chosen])
            caption = Caption(names, chosen, p, explainer.name, Path(source.path).name, method)
            draw_evidence(file, crop, evidence, caption)
            rows.append(
                {
                    "path": source.path,
                    "class": name,
                    "probability": float(probs[chosen]),
                    "file": str(file),
                }
            )
    told = [
        [shortened(str(row["path"])), row["class"], f"{row['probability']:.3f}", row["file"]] for row in rows
    ]
    if rows:
        table(f"where the model looked, by {', '.join(sorted(methods))}", HEADER, told)
    if bad:
        raise DataError(f"{len(bad)} of {len(found.sources)} images could not be read:\n{listing(bad)}")
    return {"pictures": rows, "method": sorted(methods)}


HEADER = ["image", "class", "p", "drawn in"]


def load_explainer(model: Path, config: ExplainConfig) -> Explainer:
    """Return the explainer of an .onnx file, a model.safetensors or a run folder."""
    if model.suffix == ".onnx":
        return exported_explainer(model, config)
    return trained_explainer(checkpoint_of(model, config.fold))


def exported_explainer(file: Path, config: ExplainConfig) -> Explainer:
    """Return the explainer of an exported model; torch is not needed."""
    from apps.runtime.occlusion import explain_onnx
    from apps.runtime.session import OnnxClassifier

    model = OnnxClassifier(file, device=config.device, alone=True)  # it decodes, then runs, then draws
    return Explainer(
        model.class_names,
        model.facts.preprocess,
        lambda crop: np.asarray(model.run(crop[None]).probs[0]),
        lambda crop, index: explain_onnx(model, crop, index),
        exported_note(model.facts),
        model.facts.title,
    )


def exported_note(facts: ModelFacts) -> str:
    """Return what a person should know of the images that an exported model is for; "" for nothing."""
    notes = []
    if is_for_drawings(facts):
        words = drawing_words([facts.task])
        notes.append(f"not for {words.photographs}: the model learned from synthetic {words.drawings} alone")
    if facts.crop is not None:
        notes.append("the model expects one cropped face an image; crl predict --faces --explain finds faces")
    return "; ".join([*notes, CUT_NOTE] if learned_from_boxes(facts) else notes)


def trained_explainer(file: Path) -> Explainer:
    """Return the explainer of a trained model: Grad-CAM on its last feature map."""
    import torch

    from finetune.images.batches import normalise
    from finetune.models.grad_cam import grad_cam
    from finetune.training.learner import load_classifier

    core, spec, facts = load_classifier(file)

    def probs(crop: np.ndarray) -> np.ndarray:
        images = normalise(torch.from_numpy(np.ascontiguousarray(crop))[None], spec.mean, spec.std)
        with torch.inference_mode():
            return np.asarray(core.infer(images).softmax(dim=1)[0])

    return Explainer(
        tuple(facts["class_names"]),
        spec,
        probs,
        lambda crop, index: (grad_cam(core, spec, crop, index), "Grad-CAM"),
        CUT_NOTE if (facts.get("crop") or {}).get("kind") == "box" else "",
        "/".join(file.absolute().parts[-3 if file.parent.name.startswith("fold") else -2 : -1]),
    )


def checkpoint_of(model: Path, fold: int | None) -> Path:
    """Return the one model.safetensors that is meant; UsageError where the fold must be said."""
    from finetune.experiments.result import model_files

    if model.is_file():
        return model
    files = model_files(model)
    if len(files) == 1:
        return files[0]
    chosen = [file for file in files if file.parent.name == f"fold{fold}"]
    if not chosen:
        folds = ", ".join(file.parent.name.removeprefix("fold") for file in files)
        raise UsageError(f"{model} holds one model per fold: say which by --fold ({folds})")
    return chosen[0]


def class_index(explainer: Explainer, name: str | None) -> int | None:
    """Return the index of a class by name, None for none; UsageError lists the classes."""
    if name is None:
        return None
    if name not in explainer.class_names:
        known = ", ".join(explainer.class_names[:40])
        raise UsageError(f"--class_name {name!r} is no class of this model; it knows {known}")
    return explainer.class_names.index(name)
