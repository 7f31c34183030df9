"""The category task: what the shared code asks about fine-grained images, their one test part, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finegrained.config import FineConfig, FineDataConfig, FineStudyConfig, VerifyFineConfig
from finegrained.data.boxes import picture_boxes
from finegrained.data.load import check_contents, make_fine_split, read_fine_data, tell_reading
from finegrained.measures import FINE_RESULT, MEASURES
from finetune.cli.console import say
from finetune.experiments.exported.model import ModelWords
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.splits import Split, Splits
from finetune.experiments.task import Sections, StudyText, Task, TaskData
from finetune.images.manifest import Manifest
from finetune.metrics.classification import confusion_matrix

if TYPE_CHECKING:
    from finetune.experiments.config import DataConfig
    from finetune.experiments.exported.model import CardText, ExportedFacts, ExportedModel, OtherData
    from finetune.experiments.result import Result
    from finetune.figures.markdown import Picture

STUDY_NOTES = (
    "Every cell is an ordinary run in cells/ARM/seed-N: `crl fine compare` pairs two of them, or two lists "
    "of seeds, image by image, and `crl export` takes any.",
)


WORDS = ModelWords(
    kind="category",
    tab="Fine-grained",
    question="Which of many visually similar classes is it? Fine-grained classes differ in small details, "
    "which is where losses differ most.",
    missing=("No fine-grained model yet", "crl export runs/birds", "crl demo runs/birds/export/*/*.onnx"),
)


class CategoryTask(Task):
    """Visually similar categories with one test part."""

    name = "fine"
    title = "Fine-grained recognition"
    form = FINE_RESULT
    config_type = FineConfig
    tuning_hint = "give data.val_share, such as 0.1"
    measures = MEASURES
    words = WORDS

    def read(self, config: FineDataConfig, *, lists_only: bool = False) -> TaskData:
        """Read CUB-200-2011, Stanford Cars, class folders or a table."""
        return read_fine_data(config, lists_only=lists_only)

    def read_other(self, config: FineDataConfig, result: Result) -> TaskData:
        """Read the data, and say where images are cut out otherwise than the run's."""
        data = read_fine_data(config)
        tell_reading(data)
        own, asked = result.record.crop, self.crop_of(config)
        if own and own != asked:
            say(
                f"note: the model was trained with --data.crop {own['kind']} --data.box_margin "
                f"{own['margin']:g}; these images are shown with {asked['kind']} and {asked['margin']:g}"
            )
        return data

    def splits(self, data: TaskData, config: FineDataConfig) -> Splits:
        """Return the one split."""
        return make_fine_split(data, config)

    def check(self, data: TaskData, splits: Splits, config: FineDataConfig) -> TaskData:
        """Report what the reader noticed; return the data with the files of equal bytes in their report."""
        tell_reading(data)
        return check_contents(data, splits.splits[0], config)

    def verify_lists(self, data: TaskData, splits: Splits, config: VerifyFineConfig) -> dict[str, Any]:
        """Count images, classes and parts; write the table of images."""
        from finegrained.data.verify import verify_lists

        return verify_lists(data, splits, config)

    def faults(self, data: TaskData, config: FineDataConfig) -> list[str]:
        """Return the listed images that are not there and the boxes that hold no pixel."""
        from finegrained.data.verify import faults

        return faults(data, config)

    def configure(self, config: FineConfig, data: TaskData) -> FineConfig:
        """Return the configuration with the head's presets for this data set."""
        from finegrained.recipes import data_set_of, with_presets

        return with_presets(config, data_set_of(data.policy, data.manifest.class_names))

    def boxes(self, manifest: Manifest, crop: Mapping[str, Any]) -> np.ndarray | None:
        """Return the boxes to cut out where the crop is "box"."""
        kind, margin = crop.get("kind", "image"), crop.get("margin", 0.0)
        return picture_boxes(manifest, FineDataConfig(crop=kind, box_margin=margin))

    def crop_of(self, config: FineDataConfig) -> Mapping[str, Any]:
        """Return whether images are cut to their boxes, and by which margin."""
        return {"kind": config.crop, "margin": config.box_margin}

    def scores(self, predictions: Predictions, train_labels: np.ndarray | None = None) -> dict[str, Any]:
        """Return top-1 with its interval, top-5, scores per class, and the majority-class baseline."""
        from finegrained.scores import commonest_class_baseline, fine_scores

        names, target = predictions.class_names, predictions.target
        found = fine_scores(predictions.probs, target, names)
        if train_labels is None:
            return found
        return {**found, "baseline": commonest_class_baseline(train_labels, target, names)}

    def facts(
        self,
        config: FineConfig,
        data: TaskData,
        splits: Splits,  # noqa: ARG002
        split: Split,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Return the data set, whether it is the published one, how images are cut, and the protocol."""
        from finegrained.recipes import data_set_of

        return {
            "data_set": data_set_of(data.policy, data.manifest.class_names),
            "subset": config.data.subset,
            "official": bool(data.report.get("official", False)),
            "crop": dict(self.crop_of(config.data)),
            "protocol": protocol(data, config.data),
        }

    def report_scores(
        self,
        result: Result,
        train_labels: Mapping[int, np.ndarray] | None,  # noqa: ARG002
        *,
        resamples: int,  # noqa: ARG002
        seed: int,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Return top-1 with its interval, scores per class and the most confused pairs."""
        from finegrained.report import report_scores

        return report_scores(result)

    def figures(self, result: Result, record: Mapping[str, Any]) -> tuple[list[Picture], list[str]]:
        """Draw the classes, the most confused pairs, a heat map, and where the model looked."""
        from finegrained.report import draw_figures

        return draw_figures(result, record)

    def write_tables(self, result: Result, record: Mapping[str, Any]) -> None:
        """Write per_class.csv and confusions.csv."""
        from finegrained.report import write_tables

        found = result.predictions
        confusion = confusion_matrix(found.probs, found.target, len(found.class_names))
        write_tables(result.folder, record["per_class"], confusion, found.class_names)

    def sections(self, record: Mapping[str, Any]) -> Sections:
        """Return the result, the classes, the most confused pairs, and calibration."""
        from finegrained.report import sections

        return sections(record, self.measures)

    def data_section(self, record: Mapping[str, Any]) -> str:
        """Return which images were used, and their flaws."""
        from finegrained.report_sections import data_line

        return data_line(record)

    def reported_by_others(self, record: Mapping[str, Any]) -> str | None:
        """Return the published numbers where the whole official test part was tested, else None."""
        from finegrained.report_sections import reported_by_others

        return reported_by_others(record)

    def tell(self, report: Mapping[str, Any]) -> None:
        """Print the scores in one line."""
        from finegrained.report import tell

        tell(report)

    def tell_evaluation(self, summary: Mapping[str, Any]) -> None:
        """Print the scores and the classes with the lowest accuracy."""
        from finegrained.evaluation import tell_evaluation

        tell_evaluation(summary)

    def card(self, folder: Path, fold: int | None, *, tested: bool) -> dict[str, Any]:  # noqa: ARG002
        """Return what `finegrained.card.fine_card` finds."""
        from finegrained.card import fine_card

        return fine_card(folder, self.measures, tested=tested)

    def card_text(self, facts: ExportedFacts) -> CardText:
        """Return the scores, the categories of lowest accuracy, and how images were cut."""
        from finegrained.exported.card_text import category_text

        return category_text(facts, self.measures)

    def model_warnings(self, facts: ExportedFacts) -> tuple[str, ...]:
        """Return whether it learned from images cut to the object's box."""
        from finegrained.exported.card_text import category_warnings

        return category_warnings(facts)

    def other_data(self, asked: DataConfig, models: Sequence[ExportedModel]) -> OtherData:
        """Return the test part of the data, cut out as the models' training images were."""
        from finegrained.exported.other_data import other_images

        return other_images(asked, models)

    def study_text(self, config: FineStudyConfig, report: Mapping[str, Any]) -> StudyText:
        """Return which head was trained, and the scores that others reported with it on the official test."""
        from finegrained.published import top1_by_arm
        from finegrained.report_sections import reported_by_others

        official = reported_by_others(report) is not None
        return StudyText(
            f"Losses compared: {config.head.name} on {config.model.backbone}, {report['policy']}",
            notes=STUDY_NOTES,
            published=top1_by_arm(report["head"], report["backbone"], report["data_set"]) if official else {},
        )

    def draw_comparison(self, a: Result, b: Result, names: Sequence[str], out: Path) -> list[Picture]:
        """Draw the gallery of disagreements and the heat maps of the most telling images."""
        from finegrained.figures.disagreements import draw_comparison

        return draw_comparison(a, b, names, out)


def protocol(data: TaskData, config: FineDataConfig) -> str:
    """Return in words where the validation part and the test part come from, and what was tested once."""
    report = data.report
    validation = f"validation {config.val_share:g} of train"
    if report.get("val"):
        validation = f"validation the data's own part of {report['val']}"
    test = "test split" if report.get("test") else f"held-out test part ({config.test_share:g})"
    return f"{validation}, {test} scored once"


TASK = CategoryTask()
