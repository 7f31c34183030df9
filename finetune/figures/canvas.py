"""One look for every figure: colours, sizes, text that any file name survives, and a PNG on disk.

matplotlib is imported inside the functions and only its Agg renderer is used: no window system is asked for,
no global state is left behind, and the same input gives the same file, byte for byte.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count as numbers_from
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.figures.lettering import drawable as drawable
from finetune.figures.lettering import font_families, font_files, numbered, write_png
from finetune.runs.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with every common kind of colour blindness, and neutral greys.
BLUE, SKY, VERMILION = "#0072B2", "#A9D3EE", "#D55E00"
INK, MUTED, FAINT, PAPER = "#1F2933", "#5F6B76", "#D5DAE0", "#FFFFFF"
SEQUENTIAL = "Blues"  # one hue, light to dark: reads the same in grey; its colours are BLUES
WIDTH_INCHES = 8.0
DOTS_PER_INCH = 160
TOP_MARGIN = 0.10  # inches above the title
LEFT_MARGIN = 0.015  # of the width, left of the title
SMALL, NORMAL, TITLE = 8.0, 9.5, 12.0
ROWS = 3  # of text at most, for one line of words

_drawing = threading.Lock()  # matplotlib's settings belong to the whole process: one figure at a time

STYLE: dict[Any, Any] = {
    "font.size": NORMAL,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "axes.titlesize": NORMAL,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
}

# ColorBrewer's nine Blues (Brewer, Harrower; Apache 2.0), the anchors of matplotlib's scale of that name.
BLUES = (
    "#f7fbff",
    "#deebf7",
    "#c6dbef",
    "#9ecae1",
    "#6baed6",
    "#4292c6",
    "#2171b5",
    "#08519c",
    "#08306b",
)
BLACK = "#000000"
READABLE = 4.5  # WCAG 2.2, success criterion 1.4.3: least contrast of text on its background


@contextmanager
def new_figure(
    out: Path, height: float, title: str, subtitle: str = "", width: float = WIDTH_INCHES
) -> Iterator[Figure]:
    """Give a figure of `width` x `height` inches, titled at the left; on leaving, write it to `out` as a PNG.

    The subtitle stands under the title in grey: what the marks mean. Folders of `out` are made. Axes are kept
    from running into each other by matplotlib's constrained layout. Threads draw one after the other.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with _drawing, mpl.rc_context({**STYLE, "font.family": list(font_families())}):
        figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH)
        FigureCanvasAgg(figure)
        top = _write_titles(figure, height, title, subtitle)
        layout = ConstrainedLayoutEngine(rect=(0.01, 0.01, 0.98, top - 0.01), w_pad=0.04, h_pad=0.04)
        figure.set_layout_engine(layout)
        yield figure
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(out) as stream:
            write_png(figure, stream, title)


def _write_titles(figure: Figure, height: float, title: str, subtitle: str) -> float:
    top = 1 - TOP_MARGIN / height
    figure.text(LEFT_MARGIN, top, drawable(title), size=TITLE, weight="bold", va="top")
    if subtitle:
        figure.text(
            LEFT_MARGIN,
            1 - heading_height(title) / height,
            drawable(subtitle),
            size=NORMAL - 0.5,
            color=MUTED,
            va="top",
            linespacing=1.35,
        )
    return 1 - heading_height(title, subtitle) / height


def heading_height(title: str, subtitle: str = "") -> float:
    """Return how far a figure's title and subtitle reach down from its upper edge, in inches."""
    line = 1.45 / 72  # one line of text of one point
    lines = TITLE * (title.count("\n") + 1) + NORMAL * (subtitle.count("\n") + 1 if subtitle else 0)
    return TOP_MARGIN + line * lines


def shorten(text: str, limit: int) -> str:
    """Return `text`, its middle left out where it is longer than `limit` characters.

    >>> shorten("abcdefghij", 7)
    'abc…hij'
    """
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def distinct_short_names(names: Sequence[str], limit: int) -> list[str]:
    """Return the names, each of at most `limit` characters; different names stay different.

    A name that no font has becomes a number (`lettering`). A long name loses its middle. Where two would
    then read alike they lose their beginning, or else their end, and what still reads alike gets a number.
    Equal names stay equal.

    >>> distinct_short_names(["Silverado 1500 Regular Cab", "Silverado 2500HD Regular Cab", "Volt"], 18)
    ['… 1500 Regular Cab', '…500HD Regular Cab', 'Volt']
    """
    cuts: tuple[Callable[[str], str], ...] = (
        lambda name: shorten(name, limit),
        lambda name: name if len(name) <= limit else f"…{name[1 - limit :]}",
        lambda name: name if len(name) <= limit else f"{name[: limit - 1]}…",
    )
    names = [numbered(name) for name in names]
    short = {name: cuts[0](name) for name in names}
    for cut in cuts[1:]:
        counts = Counter(short.values())
        short = {name: cut(name) if counts[told] > 1 else told for name, told in short.items()}
    short = _numbered(short, limit)
    return [short[name] for name in names]


def _numbered(short: Mapping[str, str], limit: int) -> dict[str, str]:
    """Return the short names with a number behind each that another has already."""
    taken: set[str] = {told for name, told in short.items() if name == told}
    found: dict[str, str] = {}
    for name, told in short.items():
        found[name] = told
        for number in numbers_from(2):
            if name == told or found[name] not in taken:
                break
            found[name] = f"{told[: max(limit - 1 - len(str(number)), 0)]} {number}"
        taken.add(found[name])
    return found


def distinct_fits(names: Sequence[str], width: float, size: float) -> list[str]:
    """Return the names, cut until `size` points fit into `width` inches; different ones stay different."""
    limit = max((len(name) for name in names), default=0)
    while limit > 3:
        short = distinct_short_names(names, limit)
        if max(text_width(name, size) for name in short) <= width:
            return short
        limit -= 1
    return distinct_short_names(names, limit)


def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Return how wide text of `size` points is drawn, in inches; of several lines it is the widest."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_files(bold=bold))
    font.set_size(size, 72)
    widths = []
    for line in drawable(text).split("\n"):
        font.set_text(line)
        widths.append(font.get_width_height()[0] / 64 / 72)
    return max(widths)


def fit(text: str, width: float, size: float, *, bold: bool = False) -> str:
    """Return `text`, its middle left out so far that `size` points fit into `width` inches."""
    limit = len(text)
    while limit > 3 and text_width(shorten(text, limit), size, bold=bold) > width:
        limit -= 1
    return shorten(text, limit)


def wrap(text: str, width: float, size: float, *, bold: bool = False) -> list[str]:
    """Return `text` broken at spaces into rows of at most `width` inches, three at most.

    Of a row that does not fit all the same the middle is left out.

    >>> wrap("Chestnut sided Warbler", 1.0, 8.0)
    ['Chestnut sided', 'Warbler']
    """
    rows: list[str] = []
    for word in text.replace(" %", "\0%").split(" "):  # a number stays with its unit
        longer = f"{rows[-1]} {word}" if rows else word
        fits = text_width(longer.replace("\0", " "), size, bold=bold) <= width
        if rows and (fits or len(rows) == ROWS):
            rows[-1] = longer
        else:
            rows.append(word)
    return [fit(row.replace("\0", " "), width, size, bold=bold) for row in rows]


def label_ticks(axes: Axes, side: str, names: Sequence[str], **style: Any) -> None:
    """Write `names` at 0, 1, 2, ... along the x or the y axis (`side`), without tick marks."""
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_ticks(range(len(names)), [drawable(name) for name in names], **style)
    axes.tick_params(axis="x" if side == "x" else "y", length=0)


def ink_on(share: float) -> str:
    """Return the text colour that reads on `SEQUENTIAL` at `share` (0 to 1)."""
    return readable_ink(shade(BLUES, share), (INK, PAPER))


def count_text(count: int, noun: str) -> str:
    """Return a count with its noun and thousands separator.

    >>> count_text(1, "image"), count_text(17393, "image")
    ('1 image', '17,393 images')
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shade(scale: Sequence[str], share: float) -> str:
    """Return the colour "#rrggbb" at `share` (0 to 1) of a scale of evenly spaced anchors.

    >>> shade(("#000000", "#ffffff"), 0.5), shade(BLUES, 1.0)
    ('#808080', '#08306b')
    """
    place = min(max(share, 0.0), 1.0) * (len(scale) - 1)
    low = min(int(place), len(scale) - 2)
    pairs = zip(_channels(scale[low]), _channels(scale[low + 1]), strict=True)
    return "#" + "".join(f"{round(start + (end - start) * (place - low)):02x}" for start, end in pairs)


def _channels(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return red, green, blue


def luminance(colour: str) -> float:
    """Return the relative luminance, 0 for black to 1 for white, of "#rrggbb" (WCAG 2.2).

    >>> luminance("#ffffff"), luminance("#000000")
    (1.0, 0.0)
    """
    shares = [channel / 255 for channel in _channels(colour)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours "#rrggbb", from 1 (the same) to 21 (black and white).

    >>> contrast("#ffffff", "#000000")
    21.0
    """
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def readable_ink(paper: str, inks: Sequence[str]) -> str:
    """Return the first of `inks` that reads on `paper`; where none does, black or white, of which one must.

    >>> readable_ink("#ffffff", ["#eeeeee", "#333333"])
    '#333333'
    """
    for ink in inks:
        if contrast(ink, paper) >= READABLE:
            return ink
    return max((BLACK, "#ffffff"), key=lambda ink: contrast(ink, paper))
