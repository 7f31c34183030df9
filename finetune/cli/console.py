"""What a user sees: lines, tables, a progress bar, or exactly one JSON object for a program.

Lines go to the standard output; after `use_json()` they go to the standard error, so that the standard output
holds the JSON object and nothing else. After `quiet()` (every process but the first) nothing is printed.
"""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from finetune.runs.files import json_text

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

BAR_WIDTH = 24  # characters
NOTEBOOK_SECONDS = 0.2  # between two lines of a notebook's bar, each of which is a message to the browser


WARNINGS = ("warning: ", "notice: ", "note: ")  # how a message begins that a record keeps
FIRST_LINES = 3  # of a list below a warning that a record keeps


@dataclass
class _Output:
    json: bool = False
    quiet: bool = False
    heard: list[list[str]] = field(default_factory=list)

    @property
    def stream(self) -> TextIO:
        return sys.stderr if self.json else sys.stdout

    def is_terminal(self) -> bool:
        """Return whether a person sees it; a program may have been started without such a stream."""
        return self.stream is not None and self.stream.isatty()


_output = _Output()


def use_json() -> None:
    """Keep the standard output for one `print_json`; lines for people go to the standard error."""
    _output.json = True


def quiet() -> None:
    """Print nothing from now on: this is not the process that speaks."""
    _output.quiet = True


def reset() -> None:
    """Go back to lines on the standard output, as at the start of a program."""
    _output.json = _output.quiet = False


def say(message: str) -> None:
    """Print one message for the user; escape sequences in it (from a file's name, say) are spelled out."""
    if message.startswith(WARNINGS):
        for heard in _output.heard:
            heard.append(_as_kept(message))
    if not _output.quiet:
        print(printable(message), file=_output.stream, flush=True)


@contextmanager
def hear_warnings() -> Iterator[list[str]]:
    """Collect the warnings, notices and notes said inside the `with`, each as one line.

    A list below a warning is kept up to its third line.

    >>> with hear_warnings() as heard:
    ...     say("warning: 5 images are gone:\\n  a.jpg\\n  b.jpg")
    warning: 5 images are gone:
      a.jpg
      b.jpg
    >>> heard
    ['5 images are gone: a.jpg, b.jpg']
    """
    heard: list[str] = []
    _output.heard.append(heard)
    try:
        yield heard
    finally:
        _output.heard[:] = [other for other in _output.heard if other is not heard]


@contextmanager
def silently() -> Iterator[None]:
    """Print nothing inside the `with`; warnings are heard all the same."""
    before = _output.quiet
    _output.quiet = True
    try:
        yield
    finally:
        _output.quiet = before


@contextmanager
def unheard() -> Iterator[None]:
    """Keep what is said inside the `with` from those who listen outside it; it is printed all the same."""
    before = list(_output.heard)
    _output.heard.clear()
    try:
        yield
    finally:
        _output.heard[:] = before


def _as_kept(message: str) -> str:
    first, *rest = (line.strip() for line in message.partition(": ")[2].splitlines())
    more = ", ..." if len(rest) > FIRST_LINES else ""
    return f"{first} {', '.join(rest[:FIRST_LINES])}{more}".strip()


def printable(text: str) -> str:
    r"""Return lines for a terminal: what cannot be printed, but for line ends and tabs, is spelled out.

    >>> print(printable("a\x1b[2J"))
    a\x1b[2J
    """
    return "".join(letter if letter in "\n\t" else on_one_line(letter) for letter in text)


def on_one_line(text: str) -> str:
    r"""Return `text` for a terminal: what cannot be printed (line ends, escape sequences) is spelled out.

    >>> print(on_one_line("a\x1b[2J\nb"))
    a\x1b[2J\nb
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "backslashreplace").decode()
        for letter in text
    )


def print_json(value: Mapping[str, Any]) -> None:
    """Print the result as one JSON object on one line of the standard output (NaN becomes null)."""
    if not isinstance(value, Mapping):
        raise TypeError(f"the result must be one JSON object, got {type(value).__name__}")
    if not _output.quiet:
        text = json_text(value)
        print(text if _can_print(text) else json_text(value, ascii_only=True), flush=True)


def _can_print(text: str) -> bool:
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table: the title, the header, a rule and the rows, aligned."""
    say(f"{title}\n{format_table(header, rows)}")


def format_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return aligned columns two spaces apart; columns that hold only numbers are aligned to the right.

    >>> print(format_table(["loss", "exact"], [["ce", 58.2], ["crl", 60.1]]))
    loss  exact
    ----  -----
    ce     58.2
    crl    60.1
    """
    cells = [list(row) for row in rows]
    wrong = [row for row in cells if len(row) != len(header)]
    if wrong:
        raise ValueError(f"every row needs {len(header)} cells ({', '.join(header)}), got {wrong[0]}")
    columns = [[str(name), *(str(row[index]) for row in cells)] for index, name in enumerate(header)]
    numeric = [all(isinstance(row[index], int | float) for row in cells) for index in range(len(header))]
    widths = [max(map(len, column)) for column in columns]
    lines = [[column[line] for column in columns] for line in range(len(cells) + 1)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(_aligned(line, widths, numeric) for line in lines)


def _aligned(line: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    pairs = zip(line, widths, numeric, strict=True)
    return "  ".join(
        cell.rjust(width) if right else cell.ljust(width) for cell, width, right in pairs
    ).rstrip()


def progress(
    total: int | Sequence[Any], description: str, *, unit: str = "img", keep: bool = False, done: int = 0
) -> Progress:
    """Return a context that shows how far long work is.

    On a terminal and in a notebook it is a live bar: description, done/total, rate, the last fields, time
    left. Elsewhere nothing shows before the end.

    Args:
        total: the number of units, or a sequence of them.
        description: what is being done, such as "epoch 3".
        unit: what is counted.
        keep: leave the finished bar on a terminal, print one line elsewhere; for work whose result is
            not told otherwise.
        done: units done before, by the run that this one continues; they do not count for the rate.
    """
    return Progress(total if isinstance(total, int) else len(total), description, unit, keep, done)


class Progress:
    """The context that `progress` returns: call `advance` as units are done."""

    def __init__(self, total: int, description: str, unit: str, keep: bool, done: int) -> None:
        self.total, self.description, self.unit, self.keep = total, description, unit, keep
        self.done = self._before = done
        self._fields: dict[str, object] = {}
        self._start = time.monotonic()
        self._bar: RichProgress | None = None
        self._cell: NotebookBar | None = None

    def __enter__(self) -> Progress:
        self._start = time.monotonic()
        if _output.quiet:
            return self
        if (display := notebook_display()) is not None:
            self._cell = NotebookBar(display)
            self._cell.show(self._line())
        elif _output.is_terminal():
            self._bar = _live_bar(_output.stream, transient=not self.keep)
            self._bar.add_task(self.description, total=self.total, completed=self.done, facts="")
            self._bar.start()
        return self

    def advance(self, count: int = 1, **fields: object) -> None:
        """Count `count` more units as done; `fields` (such as loss=1.2) replace the ones shown before."""
        self.done += count
        self._fields.update(fields)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done, facts=self._facts())
        if self._cell is not None and self._cell.is_due():
            self._cell.show(self._line())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._cell is not None:
            self._cell.show(self._line() if self.keep else "")
        elif self.keep and kind is None:
            seconds = time.monotonic() - self._start
            say(f"{self.description}: {self.done}/{self.total} in {seconds:.1f} s, {self._facts()}")

    def _line(self) -> str:
        """Return the bar as one line: description, bar, done/total, rate, the last fields, time left."""
        part = min(self.done / self.total, 1.0) if self.total else 1.0
        bar = "━" * round(BAR_WIDTH * part) + "─" * (BAR_WIDTH - round(BAR_WIDTH * part))
        new = self.done - self._before
        seconds = (time.monotonic() - self._start) * (self.total - self.done) / new if new else 0
        left = f", {int(seconds) // 60}:{int(seconds) % 60:02} left" if seconds >= 1 else ""
        return f"{self.description} {bar} {self.done}/{self.total} {self._facts()}{left}"

    def _facts(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        shown = [f"{(self.done - self._before) / seconds:.4g} {self.unit}/s"]
        shown += [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self._fields.items()
        ]
        return ", ".join(shown)


class NotebookBar:
    """One line in a notebook's cell that is written again and again: a Jupyter kernel is no terminal.

    Args:
        display: IPython's function of that name.
    """

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display, self._shown = display, 0.0
        self._handle: Any = None

    def is_due(self) -> bool:
        """Return whether the last line is old enough for another one."""
        return time.monotonic() - self._shown >= NOTEBOOK_SECONDS

    def show(self, line: str) -> None:
        """Write the line in the place of the one before; an empty one leaves nothing."""
        self._shown = time.monotonic()
        marked = f"<pre>{html.escape(line)}</pre>" if line else ""
        content = {"text/plain": line, "text/html": marked}
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def notebook_display() -> Callable[..., Any] | None:
    """Return IPython's `display` inside a Jupyter kernel; None elsewhere, a terminal's IPython included."""
    shell = sys.modules.get("IPython")
    running = None if shell is None else shell.get_ipython()
    if running is None or not hasattr(running, "kernel"):
        return None
    from IPython.display import display

    found: Callable[..., Any] = display
    return found


def _live_bar(stream: TextIO, transient: bool) -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
        TimeRemainingColumn(),
        console=Console(file=stream),
        transient=transient,
    )
