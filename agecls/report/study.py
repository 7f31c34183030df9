"""What the page of an age study says of its own: the cells, their folds, and what others reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agecls.config import AgeStudyConfig
from agecls.data.years import years_of
from agecls.report.published import accuracy_by_arm
from agecls.report.report_sections import reported_by_others
from finetune.experiments.task import StudyText

NOTES = (
    "Every cell is an ordinary result in cells/ARM/seed-N: `crl age compare` pairs two of them, or two lists "
    "of seeds, subject by subject, and `crl export` takes any of their models.",
    "Seeds are not subjects: a difference that holds over seeds holds for these test subjects; what others "
    "would have shown is what the intervals of `crl age compare` are about.",
)


def study_text(config: AgeStudyConfig, report: Mapping[str, Any]) -> StudyText:
    """Return what a cell is, and the accuracies that others reported on Adience's folds.

    Args:
        config: the study.
        report: report.json of a cell.
    """
    whole, backbone = config.cell == "cv", config.model.backbone
    kind = "cross-validation" if whole else "training"
    folds = f"folds {', '.join(map(str, report['folds']))}"
    on_adience = whole and reported_by_others(report) is not None
    classes = "age groups" if years_of(report["class_names"]) is None else "ages in years"
    return StudyText(
        f"Losses compared: {classes}, {backbone}, {report['policy']}",
        f"cell: one {kind} ({folds}, protocol {config.data.rule})",
        NOTES,
        accuracy_by_arm(backbone, config.model.weights != "none") if on_adience else {},
    )
