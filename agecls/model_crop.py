"""Which face crop an exported model carries: told by its run, or measured on the run's own pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agecls.crop_evaluation import can_measure, crop_for_run
from agecls.faces.crop import FaceCrop, crop_of_run
from agecls.faces.detector import build_detector
from finetune.cli.console import say
from finetune.experiments.task import CropChoice

GIVEN, FROM_LAYOUT = "given at the export", "that of the pictures it was trained on"
NOT_MEASURED = "a default that nobody measured"


def face_crop_of(folder: Path, run: Mapping[str, Any], config: CropChoice) -> tuple[FaceCrop, str]:
    """Return how faces are to be cut out for a run's models and where that is known from, and say so.

    Args:
        folder: the run.
        run: the contents of its run.json.
        config: its face_crop, face_margin and detector are used.

    Of a run on a table of pictures the crop is measured by a face detector, which takes some seconds. Where
    none is found the plain crop's default is used, and it is said how to measure.
    Raises UsageError for a crop, margin or detector that is not offered, or a detector file that is absent.
    """
    rule = crop_of_run(run, config.face_crop, config.face_margin)
    chosen = config.face_crop != "auto" or config.face_margin is not None
    source = GIVEN if chosen else FROM_LAYOUT
    if can_measure(run, config.face_crop, config.face_margin):
        detector = build_detector(config.detector)
        if detector is None:
            source = NOT_MEASURED
            say(
                "no face detector was found, so how this run's pictures frame their faces was not measured: "
                "photographs will be cut by a default that may cost accuracy. Export again with --detector "
                "FILE (YuNet), or set --face_crop and --face_margin"
            )
        else:
            rule = crop_for_run(folder, detector)
            source = f"measured on the run's own pictures by {detector.name}"
    say(f"faces of photographs will be cut out like this: {rule.describe()} ({source})")
    return rule, source
