"""Other images that exported category models are run on: cut out as the models' training images were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from finegrained.config import FineDataConfig
from finegrained.data.boxes import picture_boxes
from finegrained.data.load import read_fine_data
from finetune.errors import UsageError
from finetune.experiments.config import DataConfig
from finetune.experiments.exported.model import ExportedModel, OtherData
from finetune.experiments.exported.other_data import own_options, shown_to


def other_images(asked: DataConfig, models: Sequence[ExportedModel]) -> OtherData:
    """Return the test part of the data, or every image where they name none.

    Labels are moved to the models' order by name; boxes are cut out where the models were trained so.

    Raises UsageError for options of age data, and models trained on images cut out differently;
    ModelFileError for data of other classes; DataError for data that cannot be used.
    """
    refusal = "for data of age groups only; these models name categories"
    config = own_options(asked, FineDataConfig, refusal, subset=True)
    config = replace(config, **_one_way_to_cut(models))
    manifest = read_fine_data(config).manifest
    return shown_to(models, manifest, picture_boxes(manifest, config))


def _one_way_to_cut(models: Sequence[ExportedModel]) -> dict[str, Any]:
    """Return how the models' training images were cut out; UsageError where it was not one way."""
    cuts = {
        (model.facts.data.get("picture_crop", "image"), float(model.facts.data.get("box_margin") or 0))
        for model in models
    }
    if len(cuts) > 1:
        raise UsageError(
            "the models were trained on images cut out differently ("
            + "; ".join(f"{crop}, margin {margin:g}" for crop, margin in sorted(cuts))
            + "): score them one by one"
        )
    ((crop, margin),) = cuts
    return {"crop": crop, "box_margin": margin}
