"""Evidence for a class as a figure that is understood alone: crop, overlay, caption and colour key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.figures import canvas
from finetune.figures.evidence import enlarged, overlay
from finetune.figures.lettering import class_numbers, is_drawable, numbered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# All in px of the PNG.
MARGIN, GAP, FOOT, LINE = 12, 16, 52, 26  # around the images, between them, below them, a line of a note
KEY = (200, 14)  # width and height of the colour key
LEAST_WIDTH = 640
ROOM = 0.88  # of the width is written on: at some sizes letters are drawn wider than they are measured
LONGEST_CLASS, LONGEST = 72, 120  # characters of a class, of another name
GREY = 128  # of the image that the colour key lies over
TEXT = canvas.NORMAL - 0.5
WORDS = "evidence for the class: low"
NONE = "No place speaks for this class."
NAMES_AT = "the command's table has the whole names"


@dataclass(frozen=True)
class Caption:
    """What a figure of evidence says.

    Args:
        class_names: the K classes of the model.
        class_index: the class that the evidence is for.
        probability: of that class, 0-1.
        model: what the model is called.
        image: the image's name.
        method: how the evidence was found, in words.
    """

    class_names: Sequence[str]
    class_index: int
    probability: float
    model: str
    image: str
    method: str


def draw_evidence(out: Path, crop: np.ndarray, evidence: np.ndarray, caption: Caption) -> Path:
    """Draw the crop pixel for pixel, beside it the evidence over it, a caption and a colour key; write a PNG.

    Names that are too long lose their middle, and a note says so. Classes that no font here can draw become
    numbers, other signs of that kind question marks; a note says that, too.

    Args:
        out: the PNG to write.
        crop: uint8 (S, S, 3) RGB, as the network saw it; small ones are enlarged.
        evidence: float (h, w) of any size; negative values count as 0, the greatest as 1.
        caption: what it shows.

    Returns:
        `out`. Raises UsageError for arrays of other shapes.
    """
    over = overlay(crop, evidence)
    left, right = enlarged(crop), enlarged(over)
    side, across = left.shape[:2]
    wide = max(2 * across + GAP + 2 * MARGIN, LEAST_WIDTH)
    with class_numbers(caption.class_names, NAMES_AT):
        title, lines, notes = _texts(caption, ROOM * (wide - 2 * MARGIN) / canvas.DOTS_PER_INCH)
        top = round(canvas.heading_height(title, lines) * canvas.DOTS_PER_INCH) + 2 * MARGIN
        foot = FOOT + LINE * len(notes)
        inches = [(pixels + 0.01) / canvas.DOTS_PER_INCH for pixels in (top + side + foot, wide)]
        with canvas.new_figure(out, inches[0], title, lines, width=inches[1]) as figure:
            figure.set_layout_engine("none")
            figure.figimage(left, MARGIN, foot)
            figure.figimage(right, MARGIN + across + GAP, foot)
            _write(figure, MARGIN, foot - 2 * MARGIN, "" if (over != crop).any() else NONE)
            if (over != crop).any():
                _draw_key(figure, foot)
            for number, note in enumerate(notes):
                _write(figure, MARGIN, foot - FOOT - LINE * number + 4, note, canvas.MUTED)
    return out


def _texts(caption: Caption, room: float) -> tuple[str, str, list[str]]:
    """Return the title, the lines below it, and the notes that they need; `room` in inches."""
    name = caption.class_names[caption.class_index]
    own = [name, caption.model, caption.image]
    name = canvas.shorten(numbered(name), LONGEST_CLASS)
    title = canvas.wrap(f"{name}, probability {caption.probability:.3f}", room, canvas.TITLE, bold=True)
    model, image = (canvas.shorten(text, LONGEST) for text in own[1:])
    lines = [
        row
        for words in (f"model: {model}", f"image: {image}", f"right: {caption.method}")
        for row in canvas.wrap(words.replace("\n", " "), room, TEXT)
    ]
    shown = "\n".join([*title, *lines])
    notes = []
    if shown.count("…") > "".join(own).count("…"):
        notes.append(f"…: shortened; {NAMES_AT}")
    if not all(is_drawable(numbered(text)) for text in own):
        notes.append("?: a sign that no font here can draw")
    return "\n".join(title), "\n".join(lines), notes


def _draw_key(figure: Figure, foot: int) -> None:
    """Draw the colours from no evidence to the most, over grey, with words at both ends."""
    width, height = KEY
    ramp = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
    start = round(canvas.text_width(WORDS, TEXT) * canvas.DOTS_PER_INCH) + MARGIN + 12
    middle = foot - 2 * MARGIN
    _write(figure, MARGIN, middle, WORDS)
    figure.figimage(overlay(np.full((height, width, 3), GREY, np.uint8), ramp), start, middle - height // 2)
    _write(figure, start + width + 8, middle, "high")


def _write(figure: Figure, x: float, y: float, text: str, colour: str = canvas.INK) -> None:
    width, height = figure.get_size_inches() * canvas.DOTS_PER_INCH
    figure.text(x / width, y / height, canvas.drawable(text), size=TEXT, color=colour, va="center")
