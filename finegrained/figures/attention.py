"""The figures of a report that need the trained model: where it looked, and what its detectors answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from finegrained.figures.detectors import Respond, draw_detectors
from finegrained.figures.examples import CHOSEN, Example, choose_examples, read_examples
from finegrained.figures.image_grid import Line, Strip, Tile, draw_grid, show_pixels
from finetune.errors import CrlError
from finetune.figures import canvas
from finetune.figures.evidence import overlay
from finetune.figures.markdown import Picture

if TYPE_CHECKING:
    from finetune.experiments.result import Result
    from finetune.images.preprocess import PreprocessSpec
    from finetune.models.classifier import Classifier

# (crop, class index) -> evidence in 0-1, float (S, S)
Look = Callable[[np.ndarray, int], np.ndarray]

NOTHING = "no evidence anywhere"
ONE_CELL = "the last map has one cell"  # it cannot tell one place from another
MODEL = "model.safetensors"
CHOSEN_NOTE = (
    "Chosen by rule, not by hand: of the correct and of the wrong predictions four each, spread evenly over "
    "the probability of the prediction."
)
ATTENTION_NOTE = (
    f"{CHOSEN_NOTE} Grad-CAM shows which places of the last feature map raise the score; it is coarse, and "
    "does not show why."
)
DETECTOR_NOTE = (
    f"{CHOSEN_NOTE} Only the detectors of the predicted class are shown. A box marks the middle of the place "
    "that answered most; what lies around it may have raised the response as well."
)


def draw_attention(
    examples: Sequence[Example],
    look: Look,
    class_names: Sequence[str],
    out: Path,
    *,
    nothing: str = NOTHING,
) -> Path:
    """Draw the examples with the evidence for their predictions over them, correct ones first.

    Args:
        examples: correct and wrong ones, each kind in the order to draw.
        look: (crop, class index) -> the evidence for that class, as
            `finetune.models.grad_cam.grad_cam` gives it.
        class_names: the K classes.
        out: the PNG to write.
        nothing: what is said below an image without evidence: why there is none.

    Returns:
        `out`.
    """
    strips = []
    right = [example for example in examples if example.right]
    if right:
        strips += [
            Strip([_seen(x, class_names) for x in right], "Correct predictions", CHOSEN),
            Strip([_evidence(x, look, x.said, nothing) for x in right], label="evidence for the prediction"),
        ]
    wrong = [example for example in examples if not example.right]
    if wrong:
        strips += [
            Strip([_seen(x, class_names) for x in wrong], "Wrong predictions", CHOSEN),
            Strip([_evidence(x, look, x.said, nothing) for x in wrong], label="evidence for the prediction"),
            Strip(
                [_evidence(x, look, x.target, nothing) for x in wrong], label="evidence for the true class"
            ),
        ]
    title = f"Where the model looked: {canvas.count_text(len(examples), 'test image')}"
    subtitle = (
        "the centre crop that the network saw; above it the true class, below it the prediction\n"
        "evidence: gradient of the class's score on the last feature map, each map on a scale of its own"
    )
    return draw_grid(out, title, subtitle, strips)


def _seen(example: Example, class_names: Sequence[str]) -> Tile:
    above, below = example.lines(class_names)
    return Tile(show_pixels(example.crop), above, below)


def _evidence(example: Example, look: Look, index: int, nothing: str) -> Tile:
    evidence = look(example.crop, index)
    below = () if evidence.any() else (Line(nothing, canvas.MUTED),)
    return Tile(show_pixels(overlay(example.crop, evidence)), below=below)


def draw_model_pictures(result: Result, place: PurePosixPath) -> tuple[list[Picture], list[str]]:
    """Draw the figures that need the model into `place` under the result's folder.

    Returns the figures, and a sentence for each that could not be drawn: no model or images there, a file
    that cannot be read, a backbone whose features have no places. A finished run's report does not fail for
    a figure.
    """
    file = result.folder / MODEL
    if not file.is_file():
        return [], [f"attention: the run folder holds no {MODEL}"]
    try:
        core, spec, examples = _load(result, file)
    except CrlError as error:
        return [], [f"attention: {error}"]
    made, notes = [], []
    for name, title, caption, draw in (
        ("attention", "Where the model looked", ATTENTION_NOTE, _draw_attention),
        ("detectors", "Part detectors of the predicted class", DETECTOR_NOTE, _draw_detectors),
    ):
        try:
            if draw(core, spec, examples, result, result.folder / place / f"{name}.png"):
                made.append(Picture(place / f"{name}.png", title, caption))
        except CrlError as error:
            notes.append(f"{name}: {error}")
    return made, notes


def _load(result: Result, file: Path) -> tuple[Classifier, PreprocessSpec, list[Example]]:
    from finetune.training.learner import load_classifier

    core, spec, _ = load_classifier(file)
    right, wrong = choose_examples(result.predictions.probs, result.predictions.target)
    return core, spec, read_examples(result, [*right, *wrong], spec)


def _draw_attention(
    core: Classifier, spec: PreprocessSpec, examples: list[Example], result: Result, out: Path
) -> bool:
    from finetune.models.grad_cam import grad_cam

    nothing = ONE_CELL if examples and _has_one_cell(core, spec, examples[0].crop) else NOTHING

    def look(crop: np.ndarray, index: int) -> np.ndarray:
        return grad_cam(core, spec, crop, index)

    draw_attention(examples, look, result.class_names, out, nothing=nothing)
    return True


def _has_one_cell(core: Classifier, spec: PreprocessSpec, crop: np.ndarray) -> bool:
    """Return whether the last map that the head reads is 1 x 1 for such a crop."""
    import torch

    from finetune.images.batches import normalise
    from finetune.models.layers import as_maps

    images = normalise(torch.from_numpy(crop)[None], spec.mean, spec.std)
    backbone = core.backbone
    with torch.inference_mode():
        if backbone.taps:
            values = backbone(images).maps[backbone.taps[-1]]
        else:
            values = as_maps(backbone.model, backbone.model.forward_features(images))
    return bool(values.shape[-2] == values.shape[-1] == 1)


def _draw_detectors(
    core: Classifier, spec: PreprocessSpec, examples: list[Example], result: Result, out: Path
) -> bool:
    """Draw a DFL head's detectors; other heads have none, and False is returned."""
    from finegrained.heads.dfl import DflHead

    if not isinstance(core.head, DflHead):
        return False
    draw_detectors(examples, _responder(core, spec), core.head.detectors, result.class_names, out)
    return True


def _responder(core: Classifier, spec: PreprocessSpec) -> Respond:
    """Return what asks every detector of the first scale about a crop."""
    import torch

    from finetune.images.batches import normalise

    def respond(crop: np.ndarray) -> np.ndarray:
        images = normalise(torch.from_numpy(crop)[None], spec.mean, spec.std)
        with torch.inference_mode():
            found = core.head.explain(core.backbone(images))["responses"][0]
        return np.asarray(found.float().cpu().numpy())

    return respond
