"""Where a model looked: the evidence for its answer, and for the true class where it was wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from finegrained.figures.examples import CHOSEN, Example
from finegrained.figures.image_grid import Line, Strip, Tile, draw_grid, show_pixels
from finetune.figures import canvas
from finetune.figures.evidence import overlay

# (crop, class index) -> evidence in 0-1, float (S, S)
Look = Callable[[np.ndarray, int], np.ndarray]

NOTHING = "no evidence anywhere"
ONE_CELL = "the last map has one cell"  # it cannot tell one place from another


def draw_attention(
    examples: Sequence[Example],
    look: Look,
    class_names: Sequence[str],
    out: Path,
    *,
    nothing: str = NOTHING,
) -> Path:
    """Draw the examples with the evidence for their answers over them, right ones first.

    Args:
        examples: right and wrong ones, each kind in the order to draw.
        look: (crop, class index) -> the evidence for that class, as
            `finetune.models.grad_cam.grad_cam` gives it.
        class_names: the K classes.
        out: the PNG to write.
        nothing: what is said below a picture without evidence: why there is none.

    Returns:
        `out`.
    """
    strips = []
    right = [example for example in examples if example.right]
    if right:
        strips += [
            Strip([_seen(x, class_names) for x in right], "Right answers", CHOSEN),
            Strip([_evidence(x, look, x.said, nothing) for x in right], label="evidence for the answer"),
        ]
    wrong = [example for example in examples if not example.right]
    if wrong:
        strips += [
            Strip([_seen(x, class_names) for x in wrong], "Wrong answers", CHOSEN),
            Strip(
                [_evidence(x, look, x.said, nothing) for x in wrong], label="evidence for the wrong answer"
            ),
            Strip(
                [_evidence(x, look, x.target, nothing) for x in wrong], label="evidence for the true class"
            ),
        ]
    title = f"Where the model looked: {canvas.count_text(len(examples), 'test image')}"
    subtitle = (
        "the centre crop that the network saw; above it the true class, below it the answer\n"
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
