"""Images in strips, with words above and below each: what the galleries of this study are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.figures import canvas
from finetune.figures.gallery import RIGHT, WRONG, draw_thumbnail

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAP, STRIP_GAP = 0.16, 0.14  # inches: between images, between strips
LINE, HEADING, LABEL = 0.155, 0.23, 0.20  # inches: a line of small text, a strip's heading, its grey label
LEAST_WIDTH = 6.5  # inches


@dataclass(frozen=True)
class Line:
    """Words on a line of their own, wrapped where they are long."""

    text: str
    colour: str = canvas.INK
    bold: bool = False


@dataclass(frozen=True)
class Tile:
    """An image, square on the page, with words above and below it; `draw` fills the axes it is given."""

    draw: Callable[[Axes], None]
    above: tuple[Line, ...] = ()
    below: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Strip:
    """Images side by side, under a heading in bold and a label in grey; None leaves a place empty."""

    tiles: Sequence[Tile | None]
    heading: str = ""
    label: str = ""


def draw_grid(
    out: Path,
    title: str,
    subtitle: str,
    strips: Sequence[Strip],
    *,
    side: float = 1.78,
    columns: Sequence[str] = (),
) -> Path:
    """Draw the strips one below the other and write a PNG.

    Args:
        out: the PNG to write.
        title: above everything.
        subtitle: how the images were chosen and what the marks mean.
        strips: at least one, each of at least one place.
        side: of an image, in inches.
        columns: what the images of each column are, once above all strips; empty for no such line.

    Returns:
        `out`.
    """
    across = max(len(strip.tiles) for strip in strips)
    width = max((across * (side + GAP) - GAP) / (1 - 2 * canvas.LEFT_MARGIN), LEAST_WIDTH)
    heads = [canvas.wrap(words, side, canvas.SMALL, bold=True) for words in columns]
    head = LINE * max(map(len, heads), default=0) + (0.1 if heads else 0)
    top = canvas.heading_height(title, subtitle) + 0.08
    heights = [_height(strip, side) for strip in strips]
    height = top + head + sum(heights)
    with canvas.new_figure(out, height, title, subtitle, width=width) as figure:
        figure.set_layout_engine("none")
        page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        page.set_axis_off()
        for column, rows in enumerate(heads):
            x = canvas.LEFT_MARGIN * width + column * (side + GAP) + side / 2
            _write(page, [(words, Line("", bold=True)) for words in rows], x, height - top, "top")
        y = height - top - head
        for strip, tall in zip(strips, heights, strict=True):
            _draw_strip(page, strip, y, side)
            y -= tall
    return out


def _height(strip: Strip, side: float) -> float:
    heads = HEADING * bool(strip.heading) + LABEL * bool(strip.label)
    return heads + LINE * (_rows(strip, "above", side) + _rows(strip, "below", side)) + side + STRIP_GAP


def _rows(strip: Strip, where: str, side: float) -> int:
    """Return how many rows of text the strip's tiles need above or below."""
    tiles = [tile for tile in strip.tiles if tile is not None]
    return max((sum(len(_wrapped(x, side)) for x in getattr(tile, where)) for tile in tiles), default=0)


def _wrapped(line: Line, side: float) -> list[str]:
    return canvas.wrap(line.text, side + 0.06, canvas.SMALL, bold=line.bold)


def _draw_strip(page: Axes, strip: Strip, y: float, side: float) -> None:
    width = page.get_xlim()[1]
    left, room = canvas.LEFT_MARGIN * width, (1 - 2 * canvas.LEFT_MARGIN) * width
    if strip.heading:
        words = canvas.fit(strip.heading, room, canvas.NORMAL, bold=True)
        page.text(left, y - 0.03, canvas.drawable(words), size=canvas.NORMAL, weight="bold", va="top")
        y -= HEADING
    if strip.label:
        words = canvas.fit(strip.label, room, canvas.SMALL)
        page.text(left, y - 0.02, canvas.drawable(words), size=canvas.SMALL, color=canvas.MUTED, va="top")
        y -= LABEL
    y -= LINE * _rows(strip, "above", side)
    for column, tile in enumerate(strip.tiles):
        x = left + column * (side + GAP)
        axes = page.inset_axes((x, y - side, side, side), transform=page.transData)
        axes.set(xticks=[], yticks=[])
        if tile is None:
            axes.spines[:].set(visible=True, color=canvas.FAINT)
            axes.text(0.5, 0.5, "none", ha="center", va="center", color=canvas.MUTED)
            continue
        tile.draw(axes)
        above = [(words, line) for line in tile.above for words in _wrapped(line, side)]
        _write(page, above, x + side / 2, y + LINE * (len(above) - 1) + 0.04, "bottom")
        below = [(words, line) for line in tile.below for words in _wrapped(line, side)]
        _write(page, below, x + side / 2, y - side - 0.03, "top")


def _write(page: Axes, lines: Sequence[tuple[str, Line]], x: float, y: float, side: str) -> None:
    for row, (words, line) in enumerate(lines):
        page.text(
            x,
            y - LINE * row,
            canvas.drawable(words),
            size=canvas.SMALL,
            color=line.colour,
            weight="bold" if line.bold else "normal",
            ha="center",
            va=side,
        )


def show_file(file: Path) -> Callable[[Axes], None]:
    """Return what draws an image file; one that cannot be read becomes a frame with its name."""
    return lambda axes: draw_thumbnail(axes, file)


def show_pixels(pixels: np.ndarray) -> Callable[[Axes], None]:
    """Return what draws pixels, uint8 (H, W, 3)."""

    def draw(axes: Axes) -> None:
        axes.imshow(pixels, interpolation="antialiased")
        axes.set_axis_off()

    return draw


def answer_line(name: str, probability: float, right: bool, who: str = "") -> Line:
    """Return a model's prediction in a line: correct or wrong, the class, its probability.

    >>> answer_line("Scarlet Tanager", 0.974, True, "CRL").text
    'CRL ✓ Scarlet Tanager 97 %'
    """
    mark, colour = (RIGHT, canvas.BLUE) if right else (WRONG, canvas.VERMILION)
    words = f"{mark} {name} {100 * probability:.0f} %"
    return Line(f"{who} {words}" if who else words, colour)
