"""The commands of a task as functions in Python: keywords in, results that a notebook can show out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from finetune.cli.keywords import Door
from finetune.errors import DataError, UsageError
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import has_own_report
from finetune.experiments.result import Result
from finetune.experiments.task import Task
from finetune.figures.notebook import Outcome, Page, summary
from finetune.runs.folder import read_json
from finetune.seeding import torch_left_as_it_was

if TYPE_CHECKING:
    from finetune.experiments.evaluate import Evaluation

Score: TypeAlias = "Callable[[Task, Path, Any], Evaluation]"
Finished: TypeAlias = "str | PathLike[str] | Result"  # a run folder, or what `train` returned
NOT_SCORES = ("loss_text", "title", "not_drawn", "pictures")


@dataclass(frozen=True, eq=False, repr=False)
class TaskResult(Result):
    """A finished run or cross-validation that knows its task: its scores, predictions and report.

    `predictions.table()` gives the predictions as columns, with class names.
    """

    task: Task = field(kw_only=True)

    @classmethod
    def open(cls, task: Task, folder: Path) -> TaskResult:
        """Read a folder that a run of this task left behind; DataError as `Result.load`."""
        found = Result.load(folder, task.form)
        return cls(found.folder, found.record, found.config, found.predictions, task=task)

    def __repr__(self) -> str:
        return f"TaskResult({self.title}, {len(self.predictions)} test images, {str(self.folder)!r})"

    @cached_property
    def scores(self) -> dict[str, Any]:
        """Every score of the report, by name; the task's headline measures first, in percent.

        Of a cross-validation these are means over folds. Empty where nothing was tested.
        """
        if not len(self.predictions):
            return {}
        self.report()
        stored = read_json(self.folder / "report.json")
        own = {name: value for name, value in stored.items() if name not in {*self.run, *NOT_SCORES}}
        record = self.record.scores or {}
        found = {one.key: stored.get(one.report_name, record.get(one.key)) for one in self.task.measures}
        return {**{key: value for key, value in found.items() if value is not None}, **record, **own}

    def report(self) -> Page:
        """Return report.md, written where it is missing or of an earlier training.

        Raises DataError where nothing was tested.
        """
        if not has_own_report(self.folder):
            from finetune.experiments.report import report_result

            report_result(self.task, self)
        return Page(self.folder / "report.md")

    def _repr_markdown_(self) -> str:
        """Return what was trained, its scores, and where the report lies."""
        tested = {"test images": len(self.predictions), "folder": str(self.folder)}
        numbers = {name: value for name, value in self.scores.items() if isinstance(value, float)}
        title = f"{self.task.title}: {self.title}"
        return summary(title, {**tested, **numbers}, self.folder / "report.md")


class EvaluationOutcome(Outcome):
    """A run scored again: the scores by name, and the `predictions` that were scored.

    It has no report; `scores` is all it holds.
    """

    def __init__(self, content: Mapping[str, Any], title: str, predictions: Predictions) -> None:
        super().__init__(content, title)
        self.predictions = predictions

    @property
    def scores(self) -> dict[str, Any]:
        """Every score, by name."""
        return dict(self.content)


@dataclass(frozen=True)
class TaskDoor(Door):
    """The functions of a task, as `Door`.

    Args:
        task: what is trained, compared and studied.
    """

    task: Task

    def verify(self, given: Mapping[str, Any]) -> Outcome:
        """Count and check a data set."""
        call = self.call("verify", given)
        with call.running():
            found = self.commands["verify"].run(call.config, {})
        return Outcome(found, f"{self.task.title}: the data")

    def train(self, given: Mapping[str, Any], name: str = "train") -> TaskResult:
        """Train and test; return the result in the run folder."""
        call = self.call(name, given)
        self.run(name, call)
        return TaskResult.open(self.task, Path(call.config.run.dir))

    def tune(self, given: Mapping[str, Any]) -> Outcome:
        """Search for rates on validation images; return what report.json holds."""
        found = self.run("tune", self.call("tune", given))
        return Outcome(found, f"{self.task.title}: rates", Path(found["tune"]) / "report.md")

    def study(self, given: Mapping[str, Any]) -> Outcome:
        """Train every loss with every seed; return what report.json holds."""
        found = self.run("study", self.call("study", given))
        return Outcome(found, f"{self.task.title}: losses compared", Path(found["study"]) / "report.md")

    def evaluate(self, given: Mapping[str, Any], score: Score) -> EvaluationOutcome:
        """Score a finished run, the argument `run_folder`, on its own test images or on other data."""
        options = dict(given)
        folder = folder_of(options.pop("run_folder"))
        call = self.call("evaluate", options, [str(folder)])
        with call.running(), torch_left_as_it_was():
            found = score(self.task, folder, call.config)
        return EvaluationOutcome(found.summary, f"{self.task.title}: {folder}", found.predictions)

    def calibrate(self, given: Mapping[str, Any]) -> Outcome:
        """Fit temperature and sets of a finished run, the argument `run_folder`, on images held out."""
        options = dict(given)
        folder = folder_of(options.pop("run_folder"))
        call = self.call("calibrate", options, [str(folder)])
        with call.running(), torch_left_as_it_was():
            from finetune.experiments.probabilities.calibrate import calibrate_run

            found = calibrate_run(self.task, folder, call.config)
        return Outcome(found, f"{self.task.title}: {folder}, calibrated")

    def compare(self, given: Mapping[str, Any]) -> Outcome:
        """Compare two results, or two lists of seeds, the arguments `a` and `b`, on the same images."""
        options = dict(given)
        first, second = (folders_of(options.pop(side)) for side in ("a", "b"))
        sides = [",".join(map(str, side)) for side in (first, second)]
        call = self.call("compare", options, sides)
        with call.running(), torch_left_as_it_was():
            from finetune.experiments.compare.compare import compare_folders

            found = compare_folders(self.task, first, second, call.config)
        return Outcome(found, f"{self.task.title}: {sides[1]} against {sides[0]}", Path(found["page"]))


def score_again(task: Task, folder: Path, config: Any) -> Evaluation:
    """Score a run as `finetune.experiments.evaluate.score_run` does, which is imported when it is called."""
    from finetune.experiments.evaluate import score_run

    return score_run(task, folder, config)


def folder_of(run: Finished) -> Path:
    """Return the folder of a run, given as its result or its path; UsageError for anything else."""
    if isinstance(run, Result):
        return run.folder
    if isinstance(run, str | PathLike):
        return Path(fspath(run))
    raise UsageError(f"a run is its folder or its result, got {type(run).__name__}")


def folders_of(side: Any) -> list[Path]:
    """Return the folders of one side of a comparison: of one run, or of a list of seeds."""
    several = isinstance(side, Sequence) and not isinstance(side, str | bytes)
    found = [folder_of(run) for run in side] if several else [folder_of(side)]
    if not found:
        raise DataError("there is nothing to compare: a side is an empty list")
    return found
