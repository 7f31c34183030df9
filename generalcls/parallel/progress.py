"""What a training says and writes while it runs: test accuracy and time left in lines, and metrics.jsonl."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.cli.console import Progress, say
from finetune.experiments.study.arms import Arm
from finetune.experiments.study.schedule import time_text
from finetune.runs.folder import RunFolder
from generalcls.parallel.objectives import has_plain_logits

if TYPE_CHECKING:
    from generalcls.parallel.engine import Training

Row = dict[str, Any]
SAY_EVERY = 60.0  # seconds between two lines
SAY_TESTS_EVERY = 15.0  # the same, where the images were just tested


@dataclass
class Curve:
    """metrics.jsonl of a run, a row for every epoch as soon as it ends.

    Args:
        opened: the run's folder.
        arm: what it trains.
    """

    opened: RunFolder
    arm: Arm

    def begin(self, history: Sequence[Row]) -> None:
        """Let the file hold the epochs before the first step, after a kill those of the checkpoint.

        It may hold later ones too, which are trained again and give the same rows.
        """
        self.opened.replace_metrics(curve_rows(self.arm, history))

    def add(self, row: Row) -> None:
        """Add an epoch's row; it is on the disk when this returns."""
        self.opened.append_metrics(curve_rows(self.arm, [row])[0])


class Diary:
    """Says how far a long training is, once in a minute and after tests: a log shows no moving bar.

    Args:
        told: what is in training.
        training: it.
        bar: what a terminal shows; it gets the epoch and the last test accuracy too.
        curve: where the first model's epochs are written to; None for nowhere.
    """

    def __init__(self, told: str, training: Training, bar: Progress, curve: Curve | None = None) -> None:
        self.told, self.training, self.bar, self.curve = told, training, bar, curve
        self._start = self._last = time.monotonic()
        self._from = self.epochs_done
        self._tested = next(filter(None, map(accuracy_text, self._epochs())), "")

    @property
    def epochs_done(self) -> float:
        """Epochs that are trained, with the share of the one that is not yet."""
        return self.training.epoch + self.training.step / self.training.batches.steps_per_epoch

    def after_step(self, images: int) -> None:
        """Count a step's images; say how far it is where nothing was said for a minute."""
        self.bar.advance(images)
        self._say_after(SAY_EVERY)

    def after_epoch(self) -> None:
        """Write the epoch's row, and say how far it is where it tested."""
        if self.curve is not None:
            self.curve.add(self.training.history[0][-1])
        newest = accuracy_text(next(self._epochs()))
        self._tested = newest or self._tested
        shown = {"test": self._tested} if self._tested else {}
        self.bar.advance(0, epoch=f"{self.training.epoch}/{self.training.config.epochs}", **shown)
        self._say_after(SAY_TESTS_EVERY if newest else SAY_EVERY)

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

    >>> accuracy_text([{"epoch": 4, "test_error": 42.3}, {"epoch": 4, "test_error": 50.0}])
    '50.00 to 57.70 % (epoch 5)'
    >>> accuracy_text([{"epoch": 4}])
    ''
    """
    found = sorted(100 - row["test_error"] for row in rows if "test_error" in row)
    if not found:
        return ""
    ends = dict.fromkeys(f"{end:.2f}" for end in (found[0], found[-1]))
    return f"{' to '.join(ends)} % (epoch {rows[0]['epoch'] + 1})"


def curve_rows(arm: Arm, history: Sequence[Row]) -> list[Row]:
    """Return a model's rows as they are kept: those of a margin head have no gradient factor."""
    if has_plain_logits(arm):
        return list(history)
    return [{**row, "gradient_factor": None, "gradient_ratio": None} for row in history]
