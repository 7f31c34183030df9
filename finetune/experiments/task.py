"""What the shared code asks of a task, and how tasks are found.

A task is a kind of question to images: which age group, which category. It says how its data are read, split,
scored and reported; training, testing, reports, comparisons and studies are written once, for all of them.
Tasks are found by entry points of installed packages in the group "crl_toolkit.tasks": a name and a `Task`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from finetune.errors import DataError, UsageError
from finetune.experiments.exported.model import CropChoice, ModelWords
from finetune.experiments.exported.number_line import NumberLine
from finetune.experiments.measures import Measure, Place, Resampling, shown_in
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import RunRecord
from finetune.experiments.records.splits import Split, Splits
from finetune.experiments.result import Result, ResultForm
from finetune.experiments.task_data import TaskData as TaskData  # a contract as the task, in its own file
from finetune.images.class_names import labels_in
from finetune.images.manifest import Manifest

if TYPE_CHECKING:
    from finetune.experiments.config import DataConfig
    from finetune.experiments.exported.model import CardText, ExportedFacts, ExportedModel, OtherData
    from finetune.figures.markdown import Picture

ENTRY_POINTS = "crl_toolkit.tasks"
SINGLE_RUN_FILES = (
    *("run.json", "predictions.parquet", "manifest.parquet", "model.safetensors"),
    *("report.json", "report.md"),
)
Sections = Sequence[tuple[str, str | None]]


def measures_for(task: Task, place: Place, class_names: Sequence[str] | None = None) -> tuple[Measure, ...]:
    """Return the task's measures that are shown in this place, in the task's order: of these classes."""
    return shown_in(task.measures, place, class_names)


@dataclass(frozen=True)
class FoldsRun:
    """A run over several folds, joined into one result.

    `train(config, experiment)` leaves the complete result of a configuration, which is of `config_type`, with
    its report in config.run.dir, from the experiment's data. Finished folds are not trained again.
    """

    config_type: type[Any]
    train: Callable[[Any, Any], object]


@dataclass(frozen=True)
class StudyText:
    """What a task says on the page of a study of losses.

    Args:
        title: of the page.
        cell: what one cell is, in a line; empty where it is a run on the one split there is.
        notes: what a reader must know.
        published: what others report by the arm's name, with its source; empty where the data, the network
            or the test differ from theirs.
    """

    title: str
    cell: str = ""
    notes: tuple[str, ...] = ()
    published: Mapping[str, str] = field(default_factory=dict)


class Task(Protocol):
    """Everything that the shared code asks of a task.

    What has a value or a body is a default for tasks that inherit from this class: one test part, whole
    images, no columns, scores and figures besides those that every task has.
    """

    name: str  # the noun of the command line: age, fine
    title: str  # of its pages: "Age groups"
    form: ResultForm  # what its result folders hold
    class_unit: str = "class"  # what one class is: group, class
    part_unit: str = "run"  # what one learning curve is of: fold, run
    ordered: bool = False  # whether the classes have an order, young to old
    tuning_hint: str = "name validation images in the data"  # where there are none to choose settings by
    measures: tuple[Measure, ...]  # every score that is shown anywhere; the first is the headline
    config_type: type[Any]  # the configuration of a single run
    call_options: tuple[str, ...] = ()  # of one call: config.yaml of joined results lacks them
    cell_files: tuple[str, ...] = SINGLE_RUN_FILES  # of a finished cell of a study; report.md comes last

    def read(self, config: Any, *, lists_only: bool = False) -> TaskData:
        """Read the configured data set; with `lists_only` absent images are counted, not refused."""

    def read_other(self, config: Any, result: Result) -> TaskData:
        """Read data that a finished run's models are shown, and say what there is to know of them."""
        return self.read(config)

    def splits(self, data: TaskData, config: Any) -> Splits:
        """Return the parts to train, validate and test on; no image is in two parts of a split."""

    def describe(self, data: TaskData, splits: Splits) -> str:
        """Return the line that says what was read and how it is used."""
        manifest, (split, *_) = data.manifest, splits
        parts = f"{len(split.train)} train, {len(split.val)} validation, {len(split.test)} test"
        return f"{data.policy}: {len(manifest)} images of {manifest.num_classes} classes: {parts}"

    def title_of(self, class_names: Sequence[str]) -> str:
        """Return the title of pages on results of these classes."""
        return self.title

    def check(self, data: TaskData, splits: Splits, config: Any) -> TaskData:
        """Say what the reader noticed, and refuse or report equal images in two parts."""
        return data

    def verify_lists(self, data: TaskData, splits: Splits, config: Any) -> dict[str, Any]:
        """Print the counts of a data set, do what options of `verify` ask, and return what is reported."""
        from finetune.cli.console import say

        say(self.describe(data, splits))
        return {}

    def faults(self, data: TaskData, config: Any) -> list[str]:
        """Return why `verify` refuses the lists of a data set, each fault in words."""
        return []

    def configure(self, config: Any, data: TaskData) -> Any:
        """Return the configuration with what depends on the data set filled in."""
        return config

    def part_config(self, config: Any, split: Split) -> Any:
        """Return the configuration of the run on one split."""
        return config

    def chosen_fold(self, config: Any) -> int:
        """Return the fold that a single run tests."""
        return 0

    def tuning_splits(self, data: TaskData, config: Any) -> list[Split]:
        """Return the splits whose validation parts may choose settings, all of one test part; at least one.

        None is returned where the configuration makes no validation part; `tuning_hint` says what to do.
        """
        split = self.splits(data, config.data).of_fold(self.chosen_fold(config), len(data.manifest))
        return [split] if len(split.val) else []

    def boxes(self, manifest: Manifest, crop: Mapping[str, Any]) -> np.ndarray | None:
        """Return the part of each image that is looked at, (N, 4) in px; None for whole images."""
        return None

    def crop_of(self, config: Any) -> Mapping[str, Any]:
        """Return how a configuration cuts its images out, as run.json records it under "crop"."""
        return {}

    def validation_scores(self, probs: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Return what an epoch's validation reports, in the unit interval."""
        from finetune.training.data import plain_scores

        return plain_scores(probs, target)

    def labels(self, manifest: Manifest, class_names: Sequence[str]) -> np.ndarray:
        """Return a table's labels as indices of a model's classes; ModelFileError for unknown ones."""
        return labels_in(manifest, class_names, "the model")

    def class_bounds(self, class_names: Sequence[str]) -> Sequence[tuple[float, float]] | None:
        """Return each ordered class's (lower, upper) on a scale such as years; None where there is none."""
        return None

    def image_columns(self, manifest: Manifest, rows: np.ndarray, fold: int) -> dict[str, np.ndarray]:
        """Return the task's own columns of the predictions of these rows."""
        return {}

    def scores(self, predictions: Predictions, train_labels: np.ndarray | None = None) -> dict[str, Any]:
        """Return every score of these predictions, ready for JSON; with training labels a baseline's too."""

    def facts(self, config: Any, data: TaskData, splits: Splits, split: Split) -> dict[str, Any]:
        """Return what run.json records of this task's data besides what every task's does."""
        return {}

    def table(self, data: TaskData, split: Split) -> Manifest:
        """Return the table of images as a single run keeps it, by default with the part of each."""
        manifest = data.manifest
        return manifest.with_column("part", split.part_names(len(manifest)))

    def summary(self, record: RunRecord, split: Split) -> str | None:
        """Return a tested run's scores in one line; None where they are printed with the report."""
        return None

    def report_scores(
        self, result: Result, train_labels: Mapping[int, np.ndarray] | None, *, resamples: int, seed: int
    ) -> dict[str, Any]:
        """Return every score of a result that its report shows, ready for JSON."""
        return self.scores(result.predictions)

    def figures(self, result: Result, record: Mapping[str, Any]) -> tuple[list[Picture], list[str]]:
        """Draw the task's own figures; return them in order, and why others could not be drawn."""
        return [], []

    def write_tables(self, result: Result, record: Mapping[str, Any]) -> None:
        """Write the task's own tables beside the report."""
        return

    def sections(self, record: Mapping[str, Any]) -> Sections:
        """Return the first sections of a report, (title, Markdown); None leaves one out."""

    def data_section(self, record: Mapping[str, Any]) -> str:
        """Return which images were used, and the hashes that two comparable runs share."""
        from finetune.experiments.sections import same_data

        return same_data(record, "label rule")

    def reported_by_others(self, record: Mapping[str, Any]) -> str | None:
        """Return published numbers of this very test, or None."""
        return None

    def closing_sections(self, record: Mapping[str, Any]) -> Sections:
        """Return the last sections of a report."""
        return []

    def tell(self, report: Mapping[str, Any]) -> None:
        """Print the headline of a report."""

    def evaluation_scores(self, predictions: Predictions) -> dict[str, Any]:
        """Return the scores of an evaluation, ready for JSON."""
        return self.scores(predictions)

    def tell_evaluation(self, summary: Mapping[str, Any]) -> None:
        """Print an evaluation: its scores, and run, data, weights and test_crops."""
        self.tell(summary)

    def resampling(self, predictions: Predictions) -> Resampling:
        """Return what is drawn again for intervals of these predictions; by default single images."""
        count = len(predictions)
        return Resampling("image", np.arange(count), np.zeros(count, dtype=np.int64))

    def tested(self, predictions: Predictions) -> dict[str, Any]:
        """Return what is counted of the tested images besides their number, such as subjects."""
        return {}

    def model_rows(self, record: RunRecord, manifest: Manifest, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that a run's model of `fold` learned from and was tested on; -1 is of no fold."""
        if "part" not in manifest:
            raise DataError("the run's table of images does not record which were trained and tested on")
        return np.flatnonzero(manifest["part"] == "train"), np.flatnonzero(manifest["part"] == "test")

    def model_crop(
        self, folder: Path, record: RunRecord, asked: CropChoice
    ) -> tuple[Mapping[str, Any] | None, str]:
        """Return how a face is cut out for a run's models, None for no face, and how that is known."""
        if asked.face_crop != "auto" or asked.face_margin is not None or asked.detector is not None:
            raise UsageError(
                f"{folder} is a run of {self.title}, whose images show no faces: leave out --face_crop, "
                "--face_margin and --detector"
            )
        return None, ""

    @property
    def words(self) -> ModelWords:
        """By which words this task's exported models are shown."""
        return ModelWords(self.name, self.title)

    def card(self, folder: Path, fold: int | None, *, tested: bool) -> dict[str, Any]:
        """Return {"metrics", "card"} of a run's model, and under "data" what else is known of its data.

        `tested` is whether the card is about the weights that the run tested; others have no scores.
        """
        from finetune.experiments.exported.card import plain_card

        result = Result.load(folder, self.form)
        return plain_card(result, fold, self.scores, self.measures, tested=tested)

    def card_text(self, facts: ExportedFacts) -> CardText:
        """Return what the model card says of the facts that `card` gave, besides what every card does."""
        from finetune.experiments.exported.card import plain_text

        return plain_text(facts, self.measures)

    def model_warnings(self, facts: ExportedFacts) -> tuple[str, ...]:
        """Return what else speaks against an exported model, as Markdown; its facts may be anybody's."""
        return ()

    def other_data(self, asked: DataConfig, models: Sequence[ExportedModel]) -> OtherData:
        """Return the images that `asked` names for exported models; refuse options of other tasks."""
        from finetune.experiments.exported.other_data import own_options, shown_to

        config = own_options(asked, type(self.config_type().data), f"not for data of {self.title}")
        manifest = self.read(config).manifest
        return shown_to(models, manifest, self.boxes(manifest, self.crop_of(config)))

    def tell_parts(self, scores: Mapping[str, Any]) -> None:
        """Print what `evaluation_scores` found of parts of other data."""
        return

    def folds_run(self, config: Any) -> FoldsRun | None:
        """Return the run over folds that a cell of this study is; None where it is a single run."""
        return None

    def study_text(self, config: Any, report: Mapping[str, Any]) -> StudyText:
        """Return what a study's page says of this task; `report` is the report.json of any cell."""
        return StudyText(f"Losses compared: {self.title}, {config.model.backbone}, {report['policy']}")

    def number_line(self, class_names: Sequence[str]) -> NumberLine | None:
        """Return the numbers that these classes stand for, such as years; None of other classes."""
        return None

    def read_as(self, class_names: Sequence[str], words: str) -> tuple[Sequence[str], np.ndarray]:
        """Return other classes that answers can be read as, and which of these belong to them, (K, G)."""
        raise UsageError(f"answers of {self.title} are not read as other classes")

    def guessing(self, predictions: Predictions, train_labels: np.ndarray) -> list[str] | None:
        """Return warnings beside a constant answer; None where accuracy beside the majority class says it."""
        return None

    def draw_comparison(self, a: Result, b: Result, names: Sequence[str], out: Path) -> list[Picture]:
        """Draw where two results differ under `out`; return the figures in the page's order."""
        return []


@cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}


def task_names() -> list[str]:
    """Return the names of the installed tasks, sorted; no task is imported."""
    return sorted(_entry_points())


def load_task(name: str) -> Task:
    """Return an installed task; UsageError lists those there are."""
    if name not in _entry_points():
        raise UsageError(
            f"no task is called {name!r}; there is {', '.join(task_names()) or 'none'} (crl doctor shows why "
            "one may be missing)"
        )
    found: Task = _entry_points()[name].load()
    return found


def find_task(kind: str) -> Task | None:
    """Return the installed task whose runs are of this kind; None where no task has such runs."""
    return next((task for task in map(load_task, task_names()) if kind in task.form.kinds), None)
