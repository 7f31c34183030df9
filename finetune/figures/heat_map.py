"""Softmax heat maps as one figure: a row per image, a column per class, a panel per model, one 0-1 scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from finetune.figures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

MARKS = "outlined = {true}, bold = {predicted}; 0 = below 0.005"
MAX_WIDTH, MIN_WIDTH = 23.0, 5.6  # inches
MIN_PANEL, GAP, SCALE = 1.9, 0.18, 0.6
HEADING, NAME_LIMIT = 0.32, 28
SCALE_HEIGHTS = (0.85, 2.6)  # the colour bar's least and greatest height
DENSE = 12  # columns from which on cells and their numbers shrink


@dataclass(frozen=True)
class Panel:
    """One model's predictions.

    Args:
        title: what the model is called.
        table: (N, C) probabilities, N images by C columns.
        predicted: (N,) the column whose number is bold.
    """

    title: str
    table: np.ndarray
    predicted: Sequence[int]


@dataclass(frozen=True)
class RowLabels:
    """What stands to the left of every panel.

    Args:
        heading: above the names.
        names: (N,) one per image.
        notes: (N,) a second, grey line; empty text where there is none.
        draw: draws image number i into the axes given; None shows no images.
    """

    heading: str
    names: Sequence[str]
    notes: Sequence[str]
    draw: Callable[[Axes, int], None] | None = None


@dataclass(frozen=True)
class _Layout:
    """Sizes in inches: a cell, the first panel's left edge, the column names, the page, a row of panels."""

    cell: tuple[float, float]
    left: float
    names: float
    across: int
    width: float
    block: float

    @property
    def slanted(self) -> bool:
        """Whether the column names are too wide to stand upright."""
        return self.names > 0.3


def draw_heat_map_figure(
    out: Path,
    *,
    title: str,
    subtitle: str,
    panels: Sequence[Panel],
    columns: Sequence[str],
    truths: Sequence[int | None],
    rows: RowLabels,
    rest: bool = False,
) -> Path:
    """Draw the panels side by side, in several blocks where they are too wide for one, and write a PNG.

    Args:
        out: the PNG to write.
        title: above everything.
        subtitle: what the marks mean and how the images were chosen.
        panels: at least one; all have the same images and columns.
        columns: the C column names.
        truths: (N,) the column of the true class, outlined in every panel; None where it is not known.
        rows: the labels at the left.
        rest: whether the last column holds the probability of all classes that have no column.

    Returns:
        `out`.
    """
    count = len(rows.names)
    columns, rows = _shortened(columns, rows)
    layout = _lay_out(count, len(panels), columns, rows)
    blocks = [panels[start : start + layout.across] for start in range(0, len(panels), layout.across)]
    top = canvas.heading_height(title, subtitle) + 0.04
    last = max(layout.block, HEADING + SCALE_HEIGHTS[0] + 0.1)  # beside few rows stands the scale
    height = top + layout.block * (len(blocks) - 1) + last
    with canvas.new_figure(out, height, title, subtitle, width=layout.width) as figure:
        figure.set_layout_engine("none")
        for number, block in enumerate(blocks):
            y = height - top - layout.block * number - HEADING
            _draw_row_labels(figure, layout, rows, y)
            for position, panel in enumerate(block):
                x = layout.left + position * (layout.cell[0] * len(columns) + GAP)
                axes = _new_panel(figure, layout, (x, y), panel.table.shape)
                mesh = _draw_panel(axes, panel, truths, layout.cell[0])
                _write_column_names(axes, columns, layout, rest=rest)
        x = layout.left + layout.across * (layout.cell[0] * len(columns) + GAP) - GAP
        _draw_scale(figure, mesh, (x + 0.12, height - top - HEADING), layout.cell[1] * count)
    return out


def _lay_out(count: int, panels: int, columns: Sequence[str], rows: RowLabels) -> _Layout:
    dense = len(columns) > DENSE
    cell = max(0.36 if dense else 0.41, MIN_PANEL / len(columns))
    tall = (0.44 if dense else 0.58) if rows.draw else 0.36
    if count > 24:
        tall = 0.36
    names = [canvas.text_width(name, canvas.NORMAL) for name in rows.names]
    notes = [canvas.text_width(note, canvas.SMALL) for note in rows.notes]
    text = max([canvas.text_width(rows.heading, canvas.NORMAL), *names, *notes])
    labels = text + (0.12 + 0.92 * tall if rows.draw else 0) + 0.12
    widest = max(canvas.text_width(name, canvas.SMALL) for name in columns)
    height = 0.28 if widest <= cell - 0.06 else 0.22 + 0.72 * widest
    panel = cell * len(columns)
    fitting = max(int((MAX_WIDTH - labels - SCALE + GAP) / (panel + GAP)), 1)
    blocks = -(-panels // fitting)
    across = -(-panels // blocks)
    content = labels + across * (panel + GAP) - GAP + SCALE
    width = max(content / (1 - canvas.LEFT_MARGIN), MIN_WIDTH)
    left = canvas.LEFT_MARGIN * width + labels
    return _Layout((cell, tall), left, height, across, width, HEADING + tall * count + height + 0.1)


def _shortened(columns: Sequence[str], rows: RowLabels) -> tuple[list[str], RowLabels]:
    """Return the labels as they are drawn: short, and different ones different all over the figure."""
    lines = [canvas.drawable(text.replace("\n", " ")) for text in (*columns, *rows.names, *rows.notes)]
    short = canvas.distinct_short_names(lines, NAME_LIMIT)
    cut = len(columns), len(columns) + len(rows.names)
    return short[: cut[0]], replace(rows, names=short[cut[0] : cut[1]], notes=short[cut[1] :])


def _draw_row_labels(figure: Figure, layout: _Layout, rows: RowLabels, y: float) -> None:
    width, height = figure.get_size_inches()
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    page.set_axis_off()
    left = canvas.LEFT_MARGIN * width
    page.text(left, y + 0.09, canvas.drawable(rows.heading), color=canvas.MUTED)
    tall = layout.cell[1]
    for number, (name, note) in enumerate(zip(rows.names, rows.notes, strict=True)):
        middle = y - tall * (number + 0.5)
        shift = 0.085 if note else 0.0
        page.text(left, middle + shift, name, va="center")
        if note:
            page.text(left, middle - shift, note, va="center", size=canvas.SMALL, color=canvas.MUTED)
        if rows.draw:
            side = 0.92 * tall
            place = (layout.left - 0.12 - side, middle - side / 2, side, side)
            rows.draw(page.inset_axes(place, transform=page.transData), number)


def _new_panel(figure: Figure, layout: _Layout, corner: tuple[float, float], shape: tuple[int, ...]) -> Axes:
    """Return axes whose upper left corner is at `corner` (inches), with a cell per number."""
    width, height = figure.get_size_inches()
    wide, tall = layout.cell[0] * shape[1], layout.cell[1] * shape[0]
    x, y = corner
    axes: Axes = figure.add_axes((x / width, (y - tall) / height, wide / width, tall / height))
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))
    return axes


def _draw_panel(axes: Axes, panel: Panel, truths: Sequence[int | None], cell: float) -> QuadMesh:
    count, columns = panel.table.shape
    name = canvas.fit(panel.title, cell * columns, canvas.NORMAL + 0.5, bold=True)
    axes.set_title(canvas.drawable(name), size=canvas.NORMAL + 0.5, weight="bold")
    mesh = axes.pcolormesh(
        np.arange(columns + 1) - 0.5,
        np.arange(count + 1) - 0.5,
        panel.table,
        cmap=canvas.SEQUENTIAL,
        vmin=0,
        vmax=1,
        edgecolors=canvas.PAPER,
        linewidth=0.7,
    )
    size = canvas.SMALL - 1 if columns > DENSE else canvas.SMALL
    for (row, column), value in np.ndenumerate(panel.table):
        shown = cell_text(value)
        weight = "bold" if column == panel.predicted[row] else "normal"
        ink = canvas.MUTED if shown == "0" else canvas.ink_on(value)
        axes.text(column, row, shown, ha="center", va="center", size=size, color=ink, weight=weight)
    _outline(axes, truths)
    axes.spines[:].set_visible(False)
    axes.set_yticks([])
    return mesh


def _outline(axes: Axes, truths: Sequence[int | None]) -> None:
    """Frame the true cells; the white line inside keeps the frame apart from any blue."""
    from matplotlib.patches import Rectangle

    for row, column in enumerate(truths):
        if column is None:
            continue
        for order, (colour, width) in enumerate(((canvas.PAPER, 4.2), (canvas.VERMILION, 2.2))):
            frame = Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=colour, linewidth=width)
            frame.set(clip_on=False, joinstyle="miter", zorder=3 + order)
            axes.add_patch(frame)


def _write_column_names(axes: Axes, columns: Sequence[str], layout: _Layout, *, rest: bool) -> None:
    slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if layout.slanted else {}
    canvas.label_ticks(axes, "x", columns, size=canvas.SMALL, **slant)
    if rest:
        axes.axvline(len(columns) - 1.5, color=canvas.MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.get_xticklabels()[-1].set(style="italic", color=canvas.MUTED)


def _draw_scale(figure: Figure, mesh: QuadMesh, corner: tuple[float, float], room: float) -> None:
    width, height = figure.get_size_inches()
    tall = min(max(room, SCALE_HEIGHTS[0]), SCALE_HEIGHTS[1])
    place = (corner[0] / width, (corner[1] - tall) / height, 0.12 / width, tall / height)
    bar = figure.colorbar(mesh, cax=figure.add_axes(place), ticks=np.linspace(0, 1, 6 if tall > 1.5 else 3))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize=canvas.SMALL)


def cell_text(value: float) -> str:
    """Return a probability as a cell shows it: two decimals, or a bare 0 below 0.005.

    >>> cell_text(0.914), cell_text(0.0049), cell_text(1.0)
    ('0.91', '0', '1.00')
    """
    text = f"{value:.2f}"
    return "0" if text == "0.00" else text
