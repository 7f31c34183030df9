"""Galleries of images: where two results disagree, and softmax heat maps (the paper's Figs. 4 and 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.errors import DataError
from finetune.figures import canvas
from finetune.figures.heat_map import MARKS, Panel, RowLabels, draw_heat_map_figure
from finetune.figures.selection import GalleryRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL, PICTURE, STRIP = 1.14, 1.16, 2.0  # inches: width of a column, height of an image, height of a row
LINE = 0.157  # inches from one line of an answer to the next
RIGHT, WRONG = "\N{CHECK MARK}", "\N{BALLOT X}"


def draw_gallery(
    gallery: Sequence[GalleryRow],
    files: Sequence[Path],
    target: np.ndarray,
    probs_a: np.ndarray,
    probs_b: np.ndarray,
    class_names: Sequence[str],
    out: Path,
    *,
    names: tuple[str, str] = ("A", "B"),
    unit: str = "group",
) -> Path:
    """Draw the chosen images with the true class above and both results' predictions below each.

    Args:
        gallery: what `choose_disagreements` returned.
        files: (N,) image files in the order of the prediction table; one that cannot be read is shown as an
            empty frame with its name.
        target, probs_a, probs_b: as for `choose_disagreements`.
        class_names: the K classes, in the order of the columns.
        out: the PNG to write.
        names: what the two results are called.
        unit: what one class is: a group, a class.

    Returns:
        `out`.
    """
    columns = max(len(row.picks) for row in gallery)
    short = short_names(names)
    spelled_out = tuple(name.upper() for name in names) != short
    title = f"Where {short[0]} and {short[1]} disagree: {canvas.count_text(len(target), 'test image')}"
    subtitle = (
        f"per true {unit}, the image on which the two probabilities of the true {unit} differ most\n"
        f"below it: predicted {unit} and its probability, {RIGHT} correct, {WRONG} wrong"
    )
    if spelled_out:
        subtitle += "\n" + ", ".join(
            f"{mark} = {canvas.shorten(name, 44)}"
            for mark, name in zip(short, names, strict=True)
            if name.upper() != mark
        )
    lines = [
        {
            pick: _answers(short, (probs_a[pick], probs_b[pick]), int(target[pick]), class_names)
            for pick in row.picks
            if pick is not None
        }
        for row in gallery
    ]
    most = max((len(written) for answers in lines for written in answers.values()), default=2)
    strip_height = STRIP + LINE * max(most - 2, 0)
    top, width = 0.80 + 0.19 * spelled_out, max(CELL * columns + 0.15, 6.5)
    height = top + strip_height * len(gallery)
    with canvas.new_figure(out, height, title, subtitle, width=width) as figure:
        figure.set_layout_engine("none")
        page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
        page.set_axis_off()
        for strip, row in enumerate(gallery):
            y = height - top - strip_height * strip
            heading = canvas.drawable(row.title(short))
            page.text(0.015 * width, y, heading, size=canvas.NORMAL + 0.5, weight="bold", va="top")
            for column, pick in enumerate(row.picks):
                cell = _new_cell(page, column, y)
                if pick is None:
                    _draw_empty(cell, "none", canvas.SMALL)
                    cell.set_title(canvas.drawable(class_names[column]), size=canvas.NORMAL, pad=3)
                    continue
                draw_thumbnail(cell, files[pick])
                cell.set_title(canvas.drawable(class_names[target[pick]]), size=canvas.NORMAL, pad=3)
                _write_answers(cell, lines[strip][pick])
    return out


def short_names(names: tuple[str, str]) -> tuple[str, str]:
    """Return two marks of at most four letters: the names' first words where these differ, else A and B.

    >>> short_names(("cel", "crl (alpha 1.5)")), short_names(("crl (alpha 1)", "crl (alpha 2)"))
    (('CEL', 'CRL'), ('A', 'B'))
    """
    first, second = (name.split()[0].upper() if name.split() else "" for name in names)
    fits = first != second and all(0 < len(word) <= 4 for word in (first, second))
    return (first, second) if fits else ("A", "B")


def _new_cell(page: Axes, column: int, y: float) -> Axes:
    """Return axes for one image: centred titles above, predictions below, all at the same height in a row."""
    x = 0.075 + CELL * column + 0.06
    return page.inset_axes((x, y - 0.42 - PICTURE, CELL - 0.12, PICTURE), transform=page.transData)


def _answers(
    names: tuple[str, str], probs: tuple[np.ndarray, np.ndarray], target: int, class_names: Sequence[str]
) -> list[tuple[str, str]]:
    """Return both results' predictions of an image as lines no wider than it, each with its colour."""
    lines = []
    for name, own in zip(names, probs, strict=True):
        group = int(own.argmax())
        mark, colour = (RIGHT, canvas.BLUE) if group == target else (WRONG, canvas.VERMILION)
        text = canvas.drawable(f"{name} {mark} {class_names[group]} {100 * own[group]:.0f} %")
        lines += [(row, colour) for row in canvas.wrap(text, CELL - 0.08, canvas.SMALL)]
    return lines


def _write_answers(axes: Axes, lines: Sequence[tuple[str, str]]) -> None:
    for line, (text, colour) in enumerate(lines):
        y = -0.04 - LINE / PICTURE * line
        axes.text(
            0.5, y, text, color=colour, size=canvas.SMALL, ha="center", va="top", transform=axes.transAxes
        )


def _draw_empty(axes: Axes, words: str, size: float) -> None:
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
    axes.spines[:].set(visible=True, color=canvas.FAINT)
    axes.text(0.5, 0.5, canvas.drawable(words), ha="center", va="center", color=canvas.MUTED, size=size)


def draw_thumbnail(axes: Axes, file: Path, text_size: float = canvas.SMALL) -> None:
    """Show a whole image file, decoded as for training; one that cannot be read is a frame with its name."""
    from finetune.images.decode import decode_image

    try:
        image = decode_image(file)
    except (DataError, OSError):
        name = canvas.shorten(file.name, 26)
        lines = [name[start : start + 13] for start in range(0, len(name), 13)]
        _draw_empty(axes, "\n".join(["not readable:", *lines]), text_size)
        return
    axes.imshow(image, interpolation="antialiased")
    axes.set_axis_off()


def draw_heat_maps(
    files: Sequence[Path],
    target: np.ndarray,
    probs: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    out: Path,
    *,
    subtitle: str = "",
    unit: str = "group",
    thumbnails: bool = True,
) -> Path:
    """Draw softmax heat maps: a row per image, a column per class, a map per result, one 0-1 scale.

    Args:
        files: (n,) the images to show at the left.
        target: (n,) their true classes, outlined in every map.
        probs: what each result is called -> its (n, K) probabilities.
        class_names: the K classes, in the order of the columns.
        out: the PNG to write.
        subtitle: how the images were chosen.
        unit: what one class is: a group, a class.
        thumbnails: show the images; without, the rows have their true class alone.

    Returns:
        `out`.
    """
    draw = partial(_thumbnail, files) if thumbnails else None
    marks = MARKS.format(true=f"true {unit}", predicted=f"predicted {unit}")
    return draw_heat_map_figure(
        out,
        title=f"Softmax probabilities: {canvas.count_text(len(files), 'image')}",
        subtitle="\n".join(filter(None, [subtitle, marks])),
        panels=[Panel(name, np.asarray(table), table.argmax(axis=1)) for name, table in probs.items()],
        columns=class_names,
        truths=[int(index) for index in target],
        rows=RowLabels(
            heading=f"true {unit}",
            names=[class_names[index] for index in target],
            notes=[""] * len(files),
            draw=draw,
        ),
    )


def _thumbnail(files: Sequence[Path], axes: Axes, row: int) -> None:
    draw_thumbnail(axes, files[row], canvas.SMALL - 4)
