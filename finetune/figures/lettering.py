"""What a figure can write: the fonts of this machine, and numbers for names that none of them has."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAMILY = "DejaVu Sans"  # comes with matplotlib
# Of those that operating systems bring, for the scripts that the first one lacks; the first that are there.
FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP"),
    *("Noto Sans KR", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Unifont"),
    *("Droid Sans Fallback", "Microsoft YaHei", "SimHei", "Yu Gothic", "Meiryo", "MS Gothic"),
    *("Malgun Gothic", "PingFang SC", "Hiragino Sans", "Hiragino Sans GB", "Apple SD Gothic Neo"),
    *("Arial Unicode MS", "IPAexGothic", "NanumGothic", "Noto Sans Arabic", "Noto Naskh Arabic"),
    *("Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans Bengali", "Noto Sans Tamil"),
    *("Nirmala UI", "Leelawadee UI"),
)
NOTE = "Names that no font here can draw are shown as numbers, from 0 in the order of the classes: {place}."
LETTERS_PER_INCH = 14  # of the note
COMPRESSION = 4  # of PNG files, of 9: half the time of the usual 6 for 3 % more bytes
_numbers: ContextVar[tuple[Mapping[str, str], str]] = ContextVar("numbers", default=({}, ""))


@cache
def font_families() -> tuple[str, ...]:
    """Return the families to draw with: matplotlib's own, then those of this machine for other scripts."""
    from matplotlib import font_manager

    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return (FAMILY, *(name for name in FALLBACKS if name in installed))


def font_files(*, bold: bool = False) -> list[str]:
    """Return the files of the families."""
    from matplotlib import font_manager

    weight = "bold" if bold else "normal"
    return [
        font_manager.findfont(font_manager.FontProperties(family=[name], weight=weight))
        for name in font_families()
    ]


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib import font_manager

    return frozenset().union(*(font_manager.get_font(file).get_charmap() for file in font_files()))


def is_drawable(text: str) -> bool:
    """Return whether the fonts have every character of a text."""
    return all(c == "\n" or (c.isprintable() and ord(c) in _glyphs()) for c in text)


def drawable(text: str) -> str:
    """Return `text` with every character that the fonts cannot draw as a question mark; line breaks stay.

    Names of classes that `class_numbers` knows become numbers.

    >>> drawable("a\\x07b")
    'a?b'
    """
    known = _glyphs()
    text = numbered(text)
    return "".join(c if c == "\n" or (c.isprintable() and ord(c) in known) else "?" for c in text)


def numbered(text: str) -> str:
    """Return `text` with a number for each class name in it that cannot be drawn, as `class_numbers` says."""
    for name, number in _numbers.get()[0].items():
        text = text.replace(name, number)
    return text


@contextmanager
def class_numbers(names: Sequence[str], place: str) -> Iterator[None]:
    """Inside, figures show the numbers of those classes whose names cannot be drawn, and say so.

    Args:
        names: the classes in their order.
        place: the file where the names can be read.

    >>> with class_numbers(["cat", "\\ue000"], "report.json"):
    ...     drawable("true: \\ue000")
    'true: class 1'
    """
    found: dict[str, str] = {}
    for index, name in enumerate(names):
        if not is_drawable(name):
            found |= dict.fromkeys(_spellings(name), f"class {index}")
    longest_first = {name: found[name] for name in sorted(found, key=len, reverse=True)}
    token = _numbers.set((longest_first, place))
    try:
        yield
    finally:
        _numbers.reset(token)


def _spellings(name: str) -> Iterable[str]:
    """Return a class name as it is, and as people read it."""
    plain = re.sub(r"^\d+\.", "", name).replace("_", " ").strip()
    return [name, plain] if plain and not is_drawable(plain) else [name]


def note_for(figure: Figure) -> str:
    """Return the sentence that a figure with numbers in the place of names needs; "" for any other."""
    from matplotlib.text import Text

    numbers, place = _numbers.get()
    if not numbers:
        return ""
    shown = re.compile(rf"\b({'|'.join(sorted(set(numbers.values())))})\b")
    texts: list[Any] = figure.findobj(Text)
    return NOTE.format(place=place) if any(shown.search(text.get_text()) for text in texts) else ""


def write_png(figure: Figure, stream: Any, title: str) -> None:
    """Write a figure as a PNG, with a line below it where it needs a note."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.image import imsave

    parts = []
    for drawn in (figure, *_note_below(figure)):
        agg = FigureCanvasAgg(drawn)
        layout = drawn.get_layout_engine() if drawn.axes else None
        if layout is not None:
            layout.execute(drawn)  # it settles the second time, in `draw`; savefig draws twice for that
        agg.draw()  # type: ignore[no-untyped-call]
        parts.append(np.asarray(agg.buffer_rgba()))  # type: ignore[no-untyped-call]
    metadata: dict[str, Any] = {"Software": None, "Title": title}
    given = {"compress_level": COMPRESSION}
    imsave(stream, np.concatenate(parts), format="png", dpi=figure.dpi, metadata=metadata, pil_kwargs=given)


def _note_below(figure: Figure) -> list[Figure]:
    from matplotlib.figure import Figure as NewFigure

    note = note_for(figure)
    if not note:
        return []
    width = figure.get_figwidth()
    lines = textwrap.wrap(note, max(int(width * LETTERS_PER_INCH), 20))
    below = NewFigure(figsize=(width, 0.1 + 0.15 * len(lines)), dpi=figure.dpi)
    below.text(0.015, 0.5, "\n".join(lines), va="center", size=8.0)
    return [below]
