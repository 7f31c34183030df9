"""Exported models in an age audit: shown a table of faces, and the same faces changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from agecls.audit.answers import Answers, from_probabilities
from agecls.audit.config import AuditConfig
from agecls.audit.decode import decode_ages
from agecls.data.read import read_data, tell_reading
from finetune.errors import ModelFileError, UsageError
from finetune.experiments.exported.model import ExportedFacts, ExportedModel
from finetune.experiments.exported.other_data import refuse_seen
from finetune.images.decode import decode_image
from finetune.images.manifest import Manifest
from finetune.images.people import SLICE, slice_names

EVERY_AGE = "0-17,18+"  # groups without a gap: no row of the table is left out


class Answered(Protocol):
    """What a model predicts for one image."""

    @property
    def probs(self) -> np.ndarray:
        """Probabilities (K,)."""


class AuditedFacts(ExportedFacts, Protocol):
    """What the file of an audited model says of itself."""

    @property
    def task(self) -> str:
        """What files call the task that the model was trained for."""


class AuditedModel(ExportedModel, Protocol):
    """An exported model that answers images: `apps.session.OnnxClassifier` is one."""

    @property
    def title(self) -> str:
        """What the model is called."""

    @property
    def facts(self) -> AuditedFacts:
        """What the file says of itself."""

    def predict(
        self, images: Any, *, batch_size: int = 32, maps: bool = False, test_crops: str | None = None
    ) -> Sequence[Answered]:
        """Return one prediction per image."""


OpenModel = Callable[[Path, AuditConfig], AuditedModel]


class ShownModel:
    """An exported model with the faces of a table that it is audited on.

    Args:
        model: the loaded model.
        config: the audit's options; `data` names the table.

    Attributes: `manifest`, the faces; `answers`, what the model says of them.

    Raises UsageError without a table; ModelFileError for a model of another task; DataError for faces that
    the model was trained on.
    """

    def __init__(self, model: AuditedModel, config: AuditConfig) -> None:
        if config.data.table is None and config.data.root is None:
            raise UsageError(
                "an exported model is audited on faces: give --data.table FILE (path, age, subject)"
            )
        if model.facts.task != "age":
            raise ModelFileError(f"{model.path} is a model of the task {model.facts.task!r}, not of ages")
        self.model, self.config = model, config
        decode_ages(np.ones((1, len(model.class_names))), model.class_names, config.decode, config.open_age)
        data = read_data(replace(config.data, groups=EVERY_AGE), with_folds=False)
        tell_reading(data)
        self.manifest: Manifest = data.manifest
        refuse_seen([model], self.manifest, [], f"{len(self.manifest)} images of other data")
        self.answers = self._answer()

    def _answer(self) -> Answers:
        images, model = self.manifest, self.model
        files = [images.file(row) for row in range(len(images))]
        count = len(images)
        return from_probabilities(
            self.config,
            name=self.config.name or model.title,
            source=Path(self.config.data.table or self.config.data.root or "").name,
            class_names=model.class_names,
            probs=self.probs(files),
            path=images["path"],
            age=images["age"] if "age" in images else np.full(count, np.nan),
            unit=images["subject"],
            sex=images["gender"] if "gender" in images else np.full(count, ""),
            attributes={name.removeprefix(SLICE): images[name] for name in slice_names(images.columns)},
        )

    def probs(self, images: Sequence[Any]) -> np.ndarray:
        """Return the probabilities (N, K) of files or pixels, shown as the model's own test was."""
        found = self.model.predict(list(images), batch_size=self.config.batch_size, test_crops="run")
        return np.stack([one.probs for one in found])

    def ages(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return the predicted ages in years, (N,), of images."""
        decoded, _ = decode_ages(
            self.probs(images), self.model.class_names, self.config.decode, self.config.open_age
        )
        return decoded[self.config.decode]

    def images(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the pixels of rows of the answers, uint8 (H, W, 3) RGB each."""
        root = self.manifest.root
        return [decode_image(root / path) for path in self.answers.path[rows].tolist()]
