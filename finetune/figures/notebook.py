"""What a call from Python gives back, as a notebook shows it: a page with its figures, and an outcome."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from finetune.errors import DataError
from finetune.figures.markdown import code, escape, table

_IMAGE = re.compile(r"(!\[[^\]]*\])\(([^)\s:]+\.png)\)")
MOST_ROWS = 20


@dataclass(frozen=True)
class Page:
    """A report in Markdown: `str(page)` is its text, `Path(page)` its file; a notebook shows it with figures.

    Args:
        file: the page, which exists.
    """

    file: Path

    def __str__(self) -> str:
        return self.file.read_text(encoding="utf-8")

    def __fspath__(self) -> str:
        return str(self.file)

    def _repr_markdown_(self) -> str:
        """Return the text with its figures inside, so that they show wherever the notebook lies."""
        return _IMAGE.sub(self._embedded, str(self))

    def _embedded(self, found: re.Match[str]) -> str:
        figure = self.file.parent / unquote(found[2])
        if not figure.is_file():
            return found[0]
        return f"{found[1]}(data:image/png;base64,{base64.b64encode(figure.read_bytes()).decode()})"


class Outcome(Mapping[str, Any]):
    """What a command found, by name, as its report in JSON has it.

    Args:
        content: the names and values.
        title: what it is, in a line.
        page: its report in Markdown; None where the command writes none.

    >>> found = Outcome({"images": 12, "classes": {"a": 5}}, "a look at the data")
    >>> found["images"], list(found)
    (12, ['images', 'classes'])
    """

    def __init__(self, content: Mapping[str, Any], title: str, page: Path | None = None) -> None:
        self.content, self.title, self.page = dict(content), title, page

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title}: {', '.join(self.content)})"

    def report(self) -> Page:
        """Return the report; DataError where the command writes none."""
        if self.page is None or not self.page.is_file():
            raise DataError(f"{self.title} has no report: its names are {', '.join(self.content)}")
        return Page(self.page)

    def _repr_markdown_(self) -> str:
        """Return the conclusion and the single values, and where the report lies."""
        return summary(self.title, self.content, self.page)


def summary(title: str, content: Mapping[str, Any], page: Path | None = None) -> str:
    """Return a title, a conclusion if there is one, a table of single values and a report's place.

    >>> print(summary("two runs", {"conclusion": "No difference.", "n": 12, "rows": [1]}))
    **two runs**
    <BLANKLINE>
    No difference.
    <BLANKLINE>
    |  |  |
    | --- | ---: |
    | n | 12 |
    """
    told = content.get("conclusion", ())
    sentences = [told] if isinstance(told, str) else list(told)
    rows = [[escape(name), _shown(value)] for name, value in content.items() if _is_single(name, value)]
    parts = [f"**{escape(title)}**", " ".join(map(escape, sentences))]
    parts.append(table(["", ""], rows[:MOST_ROWS]) if rows else "")
    parts.append(f"report: {code(page)}" if page is not None and page.is_file() else "")
    return "\n\n".join(filter(None, parts))


def _is_single(name: str, value: Any) -> bool:
    return name != "conclusion" and isinstance(value, str | int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else escape(value)
