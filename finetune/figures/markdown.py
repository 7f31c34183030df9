"""Markdown that shows a text as it is, whatever file or class it names; tables and numbers in one style."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

NOT_MEASURED = "n/a"
_SPECIAL = re.compile(r"([\\`*_\[\]|~$])")
_HTML = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


class Picture(NamedTuple):
    """A figure of a report: its place under the report's folder, what it is, what to know about it."""

    file: PurePosixPath
    title: str
    caption: str


def escape(text: object) -> str:
    """Return `text` on one line, with every sign that Markdown or HTML would read made harmless.

    >>> escape("a|b_<i>")
    'a\\\\|b\\\\_&lt;i&gt;'
    """
    return _SPECIAL.sub(r"\\\1", _one_line(text).translate(_HTML))


def unescaped(text: str) -> str:
    """Return the plain text behind a line of Markdown that `escape` made: no bold type, no backslashes.

    >>> unescaped("**Not** for " + escape("a_b & <i>"))
    'Not for a_b & <i>'
    """
    return html.unescape(re.sub(r"\\(.)|\*\*", lambda found: found[1] or "", text))


def code(text: object) -> str:
    r"""Return `text` as code, fit for a table cell too.

    >>> code("x|y"), code("a`b")
    ('`x\\|y`', '``a`b``')
    """
    line = _one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line.replace('|', chr(92) + '|')}{space}{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers_from: int = 1) -> str:
    """Return a Markdown table of ready cells; the columns from `numbers_from` on are set flush right."""
    marks = ["---" if column < numbers_from else "---:" for column in range(len(header))]
    lines = [header, marks, *rows]
    if any(len(line) != len(header) for line in lines):
        raise ValueError(f"every row of a table needs the {len(header)} cells of its header")
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def image(alternative: str, path: PurePosixPath) -> str:
    """Return a figure's tag; `path` is relative to the Markdown file and may hold any character."""
    return f"![{escape(alternative)}]({quote(path.as_posix())})"


def number(value: float | None, digits: int = 2) -> str:
    """Return a number with `digits` decimals; None or NaN, which nothing measured, is "n/a".

    >>> number(0.5), number(float("nan"))
    ('0.50', 'n/a')
    """
    return NOT_MEASURED if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def interval(ends: Sequence[float] | None, digits: int = 1) -> str:
    """Return a pair of ends as words.

    >>> interval([46.34, 51.2]), interval(None)
    ('46.3 to 51.2', 'n/a')
    """
    return NOT_MEASURED if ends is None else f"{number(ends[0], digits)} to {number(ends[1], digits)}"


def signed(value: float | None) -> str:
    """Return a difference in points with its sign; zero has none.

    >>> signed(0.4), signed(-0.004), signed(-0.005001), signed(None)
    ('+0.40', '0.00', '-0.01', 'n/a')
    """
    if value is None:
        return number(None)
    text = f"{value:+.2f}"
    return text if float(text) else text[1:]


def points(ends: Sequence[float] | None) -> str:
    """Return the ends of a difference's interval with signs, and digits enough to tell them from zero.

    >>> points([0.004, 8.02]), points([4e-16, 8.02]), points(None)
    ('+0.004 to +8.02', '0.00 to +8.02', 'n/a')
    """
    return NOT_MEASURED if ends is None else f"{_end(ends[0])} to {_end(ends[1])}"


def _end(value: float) -> str:
    texts = (f"{value:+.{digits}f}" for digits in range(2, 9))
    return next((text for text in texts if float(text)), "0.00")


def p_text(p: float | None, *, equals: bool = False, limit: float = 0.05) -> str:
    """Return a p-value as it is printed, with the sign before it where a sentence needs one.

    It has digits enough to stay on its own side of the limit: 0.0504 is not 0.05, nor is 0.04998.

    >>> p_text(0.0123), p_text(0.04998), p_text(0.050397), p_text(0.00001), p_text(0.5, equals=True)
    ('0.0123', '0.04998', '0.0504', '<0.0001', '= 0.5')
    """
    if p is None or not math.isfinite(p):
        return number(None)
    if p < 1e-4:
        return "< 0.0001" if equals else "<0.0001"
    texts = (f"{p:.{digits}g}" for digits in range(3, 17))
    text = next((one for one in texts if _side(float(one), limit) == _side(p, limit)), repr(p))
    return f"= {text}" if equals else text


def _side(p: float, limit: float) -> int:
    return (p > limit) - (p < limit)


def bullets(texts: Iterable[object]) -> str | None:
    """Return a line per text, shown as it is; None for nothing.

    >>> bullets(["a_b", "c"]), bullets([])
    ('* a\\\\_b\\n* c', None)
    """
    return "\n".join(f"* {escape(text)}" for text in texts) or None


def method_mark(row: Mapping[str, Any], key: str) -> str:
    """Return " (Wilson interval)" where a record says that its interval `key` is no bootstrap's; else "".

    >>> method_mark({"exact_interval": [97.6, 100.0], "exact_interval_method": "Wilson"}, "exact_interval")
    ' (Wilson interval)'
    """
    method = row.get(f"{key}_method")
    return f" ({method} interval)" if method else ""


def show_pictures(pictures: Sequence[Picture]) -> str | None:
    """Return the figures, each under its title with its caption; None where there are none."""
    shown = [f"### {p.title}\n\n{image(p.title, p.file)}\n\n{p.caption}" for p in pictures]
    return "\n\n".join(shown) or None


def page(title: str, sections: Iterable[tuple[str, str | None]], introduction: str | None = None) -> str:
    """Return a whole page: a ready title, an introduction if any, and the sections that have a body.

    >>> page("Birds", [("Result", "All right."), ("Doubts", None)])
    '# Birds\\n\\n## Result\\n\\nAll right.\\n'
    """
    parts = [f"## {name}\n\n{body}" for name, body in sections if body]
    return "\n\n".join(filter(None, [f"# {title}", introduction, *parts])) + "\n"


def _one_line(text: object) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in str(text))
