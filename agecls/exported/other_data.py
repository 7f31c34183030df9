"""Other faces that exported age models are run on: read without folds, labels by the groups' own order."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from agecls.config import AgeDataConfig
from agecls.data.folds import assign_folds
from agecls.data.read import read_data, with_groups_of
from finetune.errors import DataError, UsageError
from finetune.experiments.config import DataConfig
from finetune.experiments.exported.model import ExportedModel, OtherData
from finetune.experiments.exported.other_data import own_options, refuse_seen, tell_without_samples
from finetune.images.class_names import labels_in
from finetune.images.manifest import Manifest


def other_faces(asked: DataConfig, models: Sequence[ExportedModel]) -> OtherData:
    """Return all faces of Adience or a table, which may have as few subjects as it likes.

    Raises ModelFileError for groups that the models do not know, DataError for images that a model has seen.
    """
    config = own_options(asked, AgeDataConfig, "not for data of age groups")
    first = models[0]
    config = with_groups_of(config, first.class_names)
    manifest = read_data(config, with_folds=False).manifest
    target = labels_in(manifest, first.class_names, str(first.path))
    if not len(manifest):
        raise DataError("the data holds no image with a label: nothing can be scored")
    trained_on = [model.facts.data.get("manifest") for model in models]
    known = _fingerprints(manifest, config) if any(trained_on) else []
    told = refuse_seen(models, manifest, known, f"{len(manifest)} images of other data")
    tell_without_samples(first.class_names, target)
    return OtherData(manifest, target, told)


def _fingerprints(manifest: Manifest, config: AgeDataConfig) -> list[str]:
    """Return the fingerprints that a run of this data may have recorded, with and without folds made."""
    found = [manifest.fingerprint]
    with contextlib.suppress(DataError, UsageError):  # data of too few subjects for folds trained no run
        folds = assign_folds(manifest, n_folds=config.n_folds, seed=config.fold_seed)
        found.append(manifest.with_column("fold", folds).fingerprint)
    return found
