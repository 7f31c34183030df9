"""Who hears of a run's epochs: metrics.jsonl, the console, and loggers of installed packages, if asked for.

Further loggers are found by the entry points of installed packages in the group "crl_toolkit.loggers": a name
and what is called without arguments for a new `Logger`, usually its class. None is used unless it is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from finetune.cli.console import say
from finetune.cli.option_words import suggestion
from finetune.runs.folder import RunFolder
from finetune.runs.lock import LOCK_NAME
from finetune.training.epoch_metrics import GRADIENT_MEANS

ENTRY_POINTS = "crl_toolkit.loggers"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunFacts:
    """What a logger learns of a run before its first row.

    Args:
        folder: the run's; in a study cells/ARM/seed-N, in a cross-validation foldN.
        config: the resolved configuration, nested plain values as in config.yaml.
        tags: what tells the data and the run apart from others: fingerprints, and arm and seed of a cell.
        versions: of Python, the toolkit and the packages it trains with.
        device: what computes, and in what precision.
        epochs: the run's length; it may end earlier.
        first_epoch: the epoch of the next row, from 1.
        resumed: whether it goes on from a checkpoint.
        rows: the rows of all epochs before, in order, as far as they are known.
    """

    folder: Path
    config: Mapping[str, Any]
    tags: Mapping[str, Any]
    versions: Mapping[str, str]
    device: str
    epochs: int
    first_epoch: int = 1
    resumed: bool = False
    rows: Sequence[Row] = ()


class Logger(Protocol):
    """Hears of one run in one process: `begin`, `row` after every epoch, `end`.

    Calls come from the main process alone, one at a time, and the run waits for them: slow sending belongs
    into a thread of the logger's own. What a logger raises is told once; it then hears nothing more, and the
    run goes on.

    A row comes when it is saved that the epoch is over, so that a resumed run never takes a row back. A kill
    may fall between the saving and the row. The process that goes on makes a new logger, whose `begin` says
    `resumed` and holds all rows before `first_epoch`: those that were not sent are to be sent then. If a
    damaged checkpoint, or none, makes epochs train again, their rows come a second time with `first_epoch`
    below the last one sent; the later row counts.
    """

    def begin(self, facts: RunFacts) -> None:
        """Hear what the run is and where it stands; called once, before any row."""

    def row(self, row: Row) -> None:
        """Hear what metrics.jsonl holds of one epoch: `epoch` from 1, and numbers by name."""

    def end(self, scores: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Hear the test scores, as in run.json, and the files of the run folder.

        Both are empty when the run stops before its end: by a signal, by an error. A killed process calls
        nothing.
        """


class MetricsFile:
    """metrics.jsonl of an open run folder: the rows of all epochs, each once."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def begin(self, facts: RunFacts) -> None:
        """Let the file hold the rows before the first epoch and no others."""
        self.folder.replace_metrics(facts.rows)

    def row(self, row: Row) -> None:
        """Add a row; it is on the disk when this returns."""
        self.folder.append_metrics(row)

    def end(self, scores: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Leave the file as it is."""


class Console:
    """A line for every epoch: the losses and scores of its row, but for the gradients' means."""

    def begin(self, facts: RunFacts) -> None:
        """Note how many epochs there are."""
        self.epochs = facts.epochs

    def row(self, row: Row) -> None:
        """Print the line."""
        shown = [name for name in row if name.startswith(("train_", "val_")) and name not in GRADIENT_MEANS]
        told = [f"{name} {row[name]:.4f}" for name in shown]
        say(f"epoch {row['epoch']}/{self.epochs}  {'  '.join(told)}")

    def end(self, scores: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Print nothing: the command tells the scores."""


class Loggers:
    """All loggers of one run; as a context it tells them when the run stops before its end.

    Args:
        own: the toolkit's, whose errors are the run's.
        track: names of installed loggers, made in `begin`; their errors cost the run nothing.
    """

    def __init__(self, own: Sequence[Logger] = (), track: Sequence[str] = ()) -> None:
        self._own = tuple(own)
        self._track = tuple(dict.fromkeys(track))
        self._tracked: dict[str, Logger] = {}
        self._open = False

    def begin(self, facts: RunFacts) -> None:
        """Make the loggers that were asked for, and let all begin."""
        self._open = True
        for name in self._track:
            self._guard(name, partial(self._make, name))
        self._call(lambda logger: logger.begin(facts))

    def row(self, row: Row) -> None:
        """Give every logger its own copy of a row."""
        self._call(lambda logger: logger.row(dict(row)))

    def end(self, scores: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Say that the run is finished, or with nothing that it stops here; a second call does nothing."""
        if self._open:
            self._open = False
            self._call(lambda logger: logger.end(dict(scores), tuple(files)))

    def __enter__(self) -> Loggers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end({}, ())

    def _make(self, name: str) -> None:
        self._tracked[name] = build_logger(name)

    def _call(self, call: Callable[[Logger], None]) -> None:
        for logger in self._own:
            call(logger)
        for name, logger in list(self._tracked.items()):
            self._guard(name, partial(call, logger))

    def _guard(self, name: str, act: Callable[[], None]) -> None:
        """Do it; a logger that fails, or that asks the process to leave, is told of and left out."""
        try:
            act()
        except (Exception, SystemExit) as error:
            self._tracked.pop(name, None)
            say(
                f"notice: the logger {name} failed ({type(error).__name__}: {error}); it hears nothing more, "
                "the run goes on"
            )


def run_loggers(folder: RunFolder, track: Sequence[str] = ()) -> Loggers:
    """Return the loggers of a run in an open folder; none where this process does not write there."""
    return Loggers([MetricsFile(folder), Console()], track) if folder.writer else Loggers()


def rows_before(epochs: int, folder: RunFolder, last: Row | None) -> list[Row]:
    """Keep the rows of so many epochs in metrics.jsonl; return them, and a missing last one.

    `last` is that row as the checkpoint holds it: a kill may have come before it was written.
    """
    folder.truncate_metrics(epochs)
    rows: list[Row] = [*folder.read_metrics()]
    if last is None or any(row.get("epoch") == epochs for row in rows):
        return rows
    return [*rows, {**last, "epoch": epochs}]  # checkpoints of earlier versions count from 0


def run_files(folder: Path) -> list[Path]:
    """Return the files of a run folder, sorted, without checkpoints, locks and other hidden files."""
    parts = ((file, file.relative_to(folder).parts) for file in sorted(folder.rglob("*")) if file.is_file())
    return [
        file
        for file, names in parts
        if file.name != LOCK_NAME and names[0] != "checkpoints" and not any(n.startswith(".") for n in names)
    ]


def logger_names() -> list[str]:
    """Return the names of the installed loggers, sorted; none is imported."""
    return sorted({point.name for point in metadata.entry_points(group=ENTRY_POINTS)})


def build_logger(name: str) -> Logger:
    """Return a new logger of this name, which must be installed."""
    (point, *_) = metadata.entry_points(group=ENTRY_POINTS, name=name)
    found: Logger = point.load()()
    return found


def unknown_loggers(track: Sequence[str]) -> list[str]:
    """Return a sentence for every name under which no logger is installed."""
    known = logger_names() if track else []
    there = f"there is {', '.join(known)}" if known else "none is installed"
    return [
        f"run.track: no logger is called {name!r}; {there}{suggestion(name, known, listed=False)}"
        for name in track
        if name not in known
    ]
