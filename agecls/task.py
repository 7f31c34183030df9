"""The age task: what the shared code asks about faces with age groups, their folds and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agecls.config import AgeConfig, AgeDataConfig, AgeStudyConfig, CrossValidationConfig, VerifyAgeConfig
from agecls.data.folds import shared_people
from agecls.data.groups import bounds_in_years
from agecls.data.read import (
    check_contents,
    image_columns,
    images_of,
    make_age_splits,
    read_data,
    tell_reading,
    with_groups_of,
)
from agecls.data.tuning_parts import tuning_splits
from agecls.data.years import read_as, years_of
from agecls.exported.words import WORDS
from agecls.measures import AGE_RESULT, MEASURES
from finetune.errors import DataError
from finetune.experiments.exported.model import CropChoice
from finetune.experiments.exported.number_line import NumberLine
from finetune.experiments.measures import Resampling
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.splits import ALL, Split, Splits
from finetune.experiments.task import FoldsRun, Sections, StudyText, Task, TaskData
from finetune.images.checks import known_count, subjects_known
from finetune.images.manifest import Manifest

if TYPE_CHECKING:
    from finetune.experiments.config import DataConfig
    from finetune.experiments.exported.model import CardText, ExportedFacts, ExportedModel, OtherData
    from finetune.experiments.records.record import RunRecord
    from finetune.experiments.result import Result
    from finetune.figures.markdown import Picture


class AgeTask(Task):
    """Age groups of faces, young to old, tested on subjects that no model was trained on."""

    name = "age"
    title = "Age groups"
    form = AGE_RESULT
    class_unit = "group"
    part_unit = "fold"
    ordered = True
    tuning_hint = "the folds that are learned from must be two at least (data.n_folds, data.fold_column)"
    config_type = AgeConfig
    call_options = ("folds", "devices", "report")
    cell_files = ("run.json", "predictions.parquet", "manifest.parquet", "report.json", "report.md")
    measures = MEASURES
    words = WORDS

    def title_of(self, class_names: Sequence[str]) -> str:
        """Return the task's title, or that of ages in years."""
        return "Ages in years" if years_of(class_names) is not None else self.title

    def read(self, config: AgeDataConfig, *, lists_only: bool = False) -> TaskData:
        """Read Adience or a table, with folds."""
        return read_data(config, lists_only=lists_only)

    def read_other(self, config: AgeDataConfig, result: Result) -> TaskData:
        """Read Adience or a table in the run's groups, without making folds: few subjects will do."""
        return read_data(with_groups_of(config, result.class_names), with_folds=False)

    def splits(self, data: TaskData, config: AgeDataConfig) -> Splits:
        """Return one split per fold; no subject is in two parts of a split."""
        return make_age_splits(data, config)

    def describe(self, data: TaskData, splits: Splits) -> str:  # noqa: ARG002
        """Return how many images, subjects and images of each group there are."""
        manifest = data.manifest
        counts = zip(manifest.class_names, manifest.class_counts(), strict=True)
        groups = ", ".join(f"{name} {count}" for name, count in counts)
        people = images_of(len(manifest), len(set(manifest["subject"].tolist())), data.report)
        return f"{people}, policy {data.policy}: {groups}"

    def check(self, data: TaskData, splits: Splits, config: AgeDataConfig) -> TaskData:
        """Report rows left out, groups that a part lacks, and equal images; add these to the data."""
        tell_reading(data)
        return check_contents(data, splits, config)

    def verify_lists(self, data: TaskData, splits: Splits, config: VerifyAgeConfig) -> dict[str, Any]:
        """Count folds, groups and subjects; export the splits or compare them with exported ones."""
        from agecls.data.verify import verify_lists

        return verify_lists(data, splits, config)

    def faults(self, data: TaskData, config: AgeDataConfig) -> list[str]:
        """Return the listed images that are not there."""
        from agecls.data.verify import faults

        return faults(data, config)

    def part_config(self, config: AgeConfig, split: Split) -> AgeConfig:
        """Return the configuration of one fold."""
        return replace(config, data=replace(config.data, fold=split.fold))

    def chosen_fold(self, config: AgeConfig) -> int:
        """Return data.fold; -1 trains on everything."""
        return config.data.fold

    def tuning_splits(self, data: TaskData, config: AgeConfig) -> list[Split]:
        """Return one split for each fold that is learned from, which validates; of "grouped" its own."""
        return tuning_splits(data, config.data)

    def validation_scores(self, probs: np.ndarray, target: np.ndarray) -> dict[str, float]:
        """Return accuracy, balanced accuracy, one-off accuracy in the unit interval, and the MAE in classes.

        The mean absolute error is that of the median, in classes: years where each class is a year.
        """
        from agecls.decoders import decode_median
        from finetune.training.data import plain_scores

        one_off = float((np.abs(probs.argmax(1) - target) <= 1).mean())
        mae = float(np.abs(decode_median(probs) - target).mean())
        return {**plain_scores(probs, target), "one_off": one_off, "mae": mae}

    def class_bounds(self, class_names: Sequence[str]) -> Sequence[tuple[float, float]]:
        """Return the years of each group; an open last one is taken to last 30."""
        return bounds_in_years(class_names)

    def image_columns(self, manifest: Manifest, rows: np.ndarray, fold: int) -> dict[str, np.ndarray]:
        """Return what is known of the subject of each image, and the fold that it was tested in."""
        return image_columns(manifest, rows, fold)

    def scores(
        self,
        predictions: Predictions,
        train_labels: np.ndarray | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Return exact and one-off accuracy, ordinal errors and calibration, and errors in years.

        A report has the baseline beside them.
        """
        from agecls.scores import age_scores
        from agecls.year_scores import plain_year_scores

        return age_scores(predictions.probs, predictions.target) | plain_year_scores(predictions)

    def facts(self, config: AgeConfig, data: TaskData, splits: Splits, split: Split) -> dict[str, Any]:
        """Return the fold, the protocol, and how many subjects there are and are shared, if that is known."""
        manifest, known = data.manifest, subjects_known(data.report)
        return {
            "fold": split.fold,
            "protocol": config.data.rule,
            "subjects": known_count(manifest["subject"], known=known),
            "shared_people": shared_people(splits.splits, manifest) if known else None,
        }

    def table(self, data: TaskData, split: Split) -> Manifest:  # noqa: ARG002
        """Return the table as it was read."""
        return data.manifest

    def summary(self, record: RunRecord, split: Split) -> str | None:
        """Return the fold's accuracies and minutes; None where nothing was tested."""
        scores = record.scores
        if not scores:
            return None
        told = f"exact {scores['exact']:.2f} %, one-off {scores['one_off']:.2f} %"
        if "mae_years" in scores:
            told = f"mean absolute error {scores['mae_years']:.2f} years, CS@5 {scores['cs5']:.2f} %"
        return f"fold {split.fold}: {told} of {scores['n']} test images, {record.minutes:.1f} min"

    def report_scores(
        self,
        result: Result,
        train_labels: Mapping[int, np.ndarray] | None,
        *,
        resamples: int,
        seed: int,
    ) -> dict[str, Any]:
        """Return the scores over folds with their baseline, the slices, and the confusion matrix."""
        from agecls.report.report import report_scores

        return report_scores(result, train_labels, resamples=resamples, seed=seed)

    def figures(self, result: Result, record: Mapping[str, Any]) -> tuple[list[Picture], list[str]]:
        """Draw the confusion matrix, the bars of the groups and a softmax heat map."""
        from agecls.report.report import draw_figures

        return draw_figures(result, record), []

    def write_tables(self, result: Result, record: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Write the files of the CVPR 2024 benchmark where the result is of its splits."""
        from agecls.report.benchmark import is_benchmark, write_benchmark

        if is_benchmark(result):
            write_benchmark(result)

    def sections(self, record: Mapping[str, Any]) -> Sections:
        """Return the result, the folds, the groups and other slices, and calibration."""
        from agecls.report.report import sections

        return sections(record, self.measures)

    def data_section(self, record: Mapping[str, Any]) -> str:
        """Return which images were tested, by which label rule."""
        from agecls.report.report_sections import data_line

        return data_line(record)

    def reported_by_others(self, record: Mapping[str, Any]) -> str | None:
        """Return the numbers published on Adience, or None on other data."""
        from agecls.report.report_sections import reported_by_others

        return reported_by_others(record)

    def closing_sections(self, record: Mapping[str, Any]) -> Sections:
        """Return what the model must not be used for."""
        from agecls.report.report_sections import responsible_use

        return [("Use", responsible_use(record))]

    def tell(self, report: Mapping[str, Any]) -> None:
        """Print the accuracies over folds with their intervals."""
        from agecls.report.report import tell

        tell(report, self.measures)

    def evaluation_scores(self, predictions: Predictions) -> dict[str, Any]:
        """Return the pooled scores and their slices."""
        from agecls.evaluation import evaluation_scores

        return evaluation_scores(predictions)

    def tell_evaluation(self, summary: Mapping[str, Any]) -> None:
        """Print both accuracies, and a table per slice."""
        from agecls.evaluation import tell_evaluation

        tell_evaluation(summary)

    def resampling(self, predictions: Predictions) -> Resampling:
        """Return subjects within folds, and albums where these hold several; images of unknown ones."""
        subject, user = predictions["subject"], predictions["user"]
        further = {"user": user} if len(np.unique(user)) != len(np.unique(subject)) else {}
        unit = "subject" if subjects_known(predictions) else "image"
        return Resampling(unit, subject, predictions.fold, further)

    def tested(self, predictions: Predictions) -> dict[str, Any]:
        """Return how many known subjects and users there are, and the subjects' effective number (Kish)."""
        from finetune.metrics.bootstrap import effective_clusters

        if not subjects_known(predictions):
            return {}
        subject = predictions["subject"]
        return {
            "subjects": len(np.unique(subject)),
            "users": len(np.unique(predictions["user"])),
            "effective_subjects": effective_clusters(subject),
        }

    def model_rows(self, record: RunRecord, manifest: Manifest, fold: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the fold's rows; -1 learned from all and was tested on none."""
        from agecls.data.overlapping import splits_of

        splits = splits_of(manifest, record.protocol or "fixed", allow_subject_overlap=True)
        if fold not in (ALL, *(split.fold for split in splits)):
            raise DataError(
                f"the table of images has folds {[split.fold for split in splits]}, none is {fold}"
            )
        own = Splits(tuple(splits), "").of_fold(fold, len(manifest))
        return own.train, own.test

    def model_crop(
        self, folder: Path, record: RunRecord, asked: CropChoice
    ) -> tuple[Mapping[str, Any] | None, str]:
        """Return the crop that the run or the options give, or that a detector measures on its images."""
        from agecls.report.card_facts import face_crop_of

        crop, source = face_crop_of(folder, record.to_dict(), asked)
        return crop.to_dict(), source

    def card(self, folder: Path, fold: int | None, *, tested: bool) -> dict[str, Any]:
        """Return what `agecls.report.card.age_card` finds."""
        from agecls.report.card import age_card

        return age_card(folder, fold, self.measures, tested=tested)

    def card_text(self, facts: ExportedFacts) -> CardText:
        """Return the scores by group, gender and head pose, the errors across 18, and the limits of all."""
        from agecls.exported.card_text import age_text

        return age_text(facts, self.measures)

    def model_warnings(self, facts: ExportedFacts) -> tuple[str, ...]:
        """Return whether ages lack a group, subjects are unknown, and crops of faces were not measured."""
        from agecls.exported.card_text import age_warnings

        return age_warnings(facts)

    def other_data(self, asked: DataConfig, models: Sequence[ExportedModel]) -> OtherData:
        """Return all faces of Adience or a table."""
        from agecls.exported.other_data import other_faces

        return other_faces(asked, models)

    def tell_parts(self, scores: Mapping[str, Any]) -> None:
        """Print a table per slice."""
        from agecls.evaluation import tell_slices

        tell_slices(scores)

    def folds_run(self, config: AgeStudyConfig) -> FoldsRun | None:
        """Return the cross-validation that a cell is, unless it is one model of `train`."""
        from agecls.cross_validation import cross_validate

        if config.cell == "train":
            return None
        return FoldsRun(CrossValidationConfig, partial(cross_validate, self))

    def study_text(self, config: AgeStudyConfig, report: Mapping[str, Any]) -> StudyText:
        """Return what a cell is, and the accuracies that others reported on Adience's folds."""
        from agecls.report.study import study_text

        return study_text(config, report)

    def number_line(self, class_names: Sequence[str]) -> NumberLine | None:
        """Return the ages that classes of years stand for; None of groups."""
        return years_of(class_names)

    def read_as(self, class_names: Sequence[str], words: str) -> tuple[Sequence[str], np.ndarray]:
        """Return groups that years are read as, and which years belong to them."""
        return read_as(class_names, words)

    def guessing(self, predictions: Predictions, train_labels: np.ndarray) -> list[str] | None:
        """Return whether ages in years are no better than the median age of the training images."""
        from agecls.year_scores import guessed_years

        return guessed_years(predictions, train_labels)

    def draw_comparison(self, a: Result, b: Result, names: Sequence[str], out: Path) -> list[Picture]:
        """Draw the gallery of disagreements and the heat maps of the most telling images."""
        from agecls.report.figures import draw_comparison

        return draw_comparison(a, b, names, out)


TASK = AgeTask()
