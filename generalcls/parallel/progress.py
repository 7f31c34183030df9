"""What a training says and writes while it runs: test accuracy and time left in lines, and metrics.jsonl."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from finetune.cli.console import Progress, say
from finetune.experiments.study.arms import Arm
from finetune.experiments.study.cells import CellPlan
from finetune.experiments.study.schedule import time_text
from finetune.training.loggers import Loggers, MetricsFile, RunFacts
from generalcls.parallel.objectives import has_plain_logits

if TYPE_CHECKING:
    from generalcls.parallel.engine import Training

Row = dict[str, Any]
SAY_EVERY = 60.0  # seconds between two lines
SAY_TESTS_EVERY = 15.0  # the same, where the images were just tested


class CellLog:
    """What hears of a cell's epochs: metrics.jsonl, and the loggers that are asked for.

    The file has a row as soon as its epoch ends; after a kill it begins with those that the checkpoint holds,
    and the others are trained again and come again, equal. Loggers get a row when a checkpoint or the
    finished cell holds it. As a context it tells them when the cell stops before its end.

    Args:
        plan: the cell.
        file: metrics.jsonl of an open run; None for a cell of a study, whose cell.json holds the rows.
        track: names of installed loggers.
    """

    def __init__(self, plan: CellPlan, file: MetricsFile | None = None, track: Sequence[str] = ()) -> None:
        self.plan, self.file, self.loggers = plan, file, Loggers(track=track)
        self._waiting: list[Row] = []

    def begin(self, facts: RunFacts) -> None:
        """Begin with the rows before the first step, after a kill those of the checkpoint."""
        facts = replace(facts, rows=curve_rows(self.plan.arm, facts.rows))
        if self.file is not None:
            self.file.begin(facts)
        self.loggers.begin(facts)

    def add(self, row: Row) -> None:
        """Add an epoch's row to the file, where it is on the disk when this returns."""
        [row] = curve_rows(self.plan.arm, [row])
        if self.file is not None:
            self.file.row(row)
        self._waiting.append(row)

    def saved(self) -> None:
        """Give the loggers the rows so far: they are saved."""
        for row in self._waiting:
            self.loggers.row(row)
        self._waiting = []

    def end(self, scores: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Say that the cell is finished."""
        self.loggers.end(scores, files)

    def __enter__(self) -> CellLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end({}, ())


class Diary:
    """Says how far a long training is, once in a minute and after tests: a log shows no moving bar.

    Args:
        told: what is in training.
        training: it.
        bar: what a terminal shows; it gets the epoch and the last test accuracy too.
        logs: who else hears of the models' epochs, in the order of the models; empty for nobody.
    """

    def __init__(self, told: str, training: Training, bar: Progress, logs: Sequence[CellLog] = ()) -> None:
        self.told, self.training, self.bar, self.logs = told, training, bar, logs
        self._start = self._last = time.monotonic()
        self._from = self.epochs_done
        self._tested = next(filter(None, map(accuracy_text, self._epochs())), "")

    @property
    def epochs_done(self) -> float:
        """Epochs that are trained, with the fraction of the one that is not yet."""
        return self.training.epoch + self.training.step / self.training.batches.steps_per_epoch

    def after_step(self, images: int) -> None:
        """Count a step's images; say how far it is where nothing was said for a minute."""
        self.bar.advance(images)
        self._say_after(SAY_EVERY)

    def after_epoch(self) -> None:
        """Hand over the epoch's rows, and say how far it is where it tested."""
        for log, history in zip(self.logs, self.training.history, strict=False):
            log.add(history[-1])
        newest = accuracy_text(next(self._epochs()))
        self._tested = newest or self._tested
        shown = {"test": self._tested} if self._tested else {}
        self.bar.advance(0, epoch=f"{self.training.epoch}/{self.training.config.epochs}", **shown)
        self._say_after(SAY_TESTS_EVERY if newest else SAY_EVERY)

    def after_save(self) -> None:
        """Let the loggers have the rows that a checkpoint holds."""
        for log in self.logs:
            log.saved()

    def _epochs(self) -> Iterator[list[Row]]:
        """Yield the rows of all models of an epoch, the last epoch first."""
        yield from map(list, zip(*(reversed(rows) for rows in self.training.history), strict=True))

    def _say_after(self, seconds: float) -> None:
        now, epochs, done = time.monotonic(), self.training.config.epochs, self.epochs_done
        if now - self._last < seconds or done >= epochs or done == self._from:
            return
        self._last = now
        left = (epochs - done) * (now - self._start) / (done - self._from)
        tested = f", test accuracy {self._tested}" if self._tested else ""
        say(f"{self.told}: epoch {done:.4g} of {epochs}{tested}, about {time_text(left)} left")


def accuracy_text(rows: Sequence[Row]) -> str:
    """Return the test accuracy in an epoch's rows, one for each model; empty where nothing was tested.

    >>> accuracy_text([{"epoch": 5, "test_error": 42.3}, {"epoch": 5, "test_error": 50.0}])
    '50.00 to 57.70 % (epoch 5)'
    >>> accuracy_text([{"epoch": 5}])
    ''
    """
    found = sorted(100 - row["test_error"] for row in rows if "test_error" in row)
    if not found:
        return ""
    ends = dict.fromkeys(f"{end:.2f}" for end in (found[0], found[-1]))
    return f"{' to '.join(ends)} % (epoch {rows[0]['epoch']})"


def curve_rows(arm: Arm, history: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return a model's rows as they are kept: those of a margin head have no gradient factor."""
    if has_plain_logits(arm):
        return [dict(row) for row in history]
    return [{**row, "gradient_factor": None, "gradient_ratio": None} for row in history]
