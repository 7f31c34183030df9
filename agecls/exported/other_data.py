"""Other faces that exported age models are run on: read without folds, labels by the groups' own order."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from agecls.config import AgeDataConfig
from agecls.data.folds import assign_folds
from agecls.data.read import read_data, with_groups_of
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.config import DataConfig
from finetune.experiments.exported.model import ExportedModel, OtherData
from finetune.experiments.exported.other_data import own_options, refuse_seen, short_list
from finetune.images.manifest import Manifest


def other_faces(asked: DataConfig, models: Sequence[ExportedModel]) -> OtherData:
    """Return all faces of Adience or a table, which may have as few subjects as it likes.

    Raises ModelFileError for other groups than the models', DataError for images that a model has seen.
    """
    config = own_options(asked, AgeDataConfig, "not for data of age groups")
    first = models[0]
    config = with_groups_of(config, first.class_names)
    manifest = read_data(config, with_folds=False).manifest
    if first.class_names != manifest.class_names:
        told = f"{short_list(first.class_names)}; the data has {short_list(manifest.class_names)}"
        raise ModelFileError(f"{first.path} has other classes than the data: {told} (--data.groups)")
    if not len(manifest):
        raise DataError("the data holds no image with a label: nothing can be scored")
    trained_on = [model.facts.data.get("manifest") for model in models]
    known = _fingerprints(manifest, config) if any(trained_on) else []
    told = refuse_seen(models, manifest, known, f"{len(manifest)} images of other data")
    return OtherData(manifest, manifest.label, told)


def _fingerprints(manifest: Manifest, config: AgeDataConfig) -> list[str]:
    """Return the fingerprints that a run of this data may have recorded, with and without folds made."""
    found = [manifest.fingerprint]
    with contextlib.suppress(DataError, UsageError):  # data of too few subjects for folds trained no run
        folds = assign_folds(manifest, n_folds=config.n_folds, seed=config.fold_seed)
        found.append(manifest.with_column("fold", folds).fingerprint)
    return found
