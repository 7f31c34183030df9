"""A run's record, run.json: what was trained on what, how, where, and what came out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import DataError
from finetune.images.checks import subjects_known
from finetune.runs.folder import read_json, write_json
from finetune.runs.former_epochs import RECORD_SCHEMA, record_today
from finetune.runs.former_losses import loss_text, recorded_loss

if TYPE_CHECKING:
    from finetune.training.config import FitConfig
    from finetune.training.learner import Learner

RECORD_FILE = "run.json"
MODEL_FILE = "model.safetensors"  # the weights that a run was tested with
# What the card of a run's other weights says.
UNTESTED = f"These weights on any test image: the run tested others ({MODEL_FILE})."
# What report.json says of a training: where run.json differs, the report is of an earlier training.
TOLD_BY_REPORT = ("n", "scores", "minutes", "epochs_run", "train")
PRECISION_CHOICE = "precision_choice"  # what run.precision auto came to, and by which times
FORMAT = re.compile(r"; (float32|tf32|bfloat16|float16|float64), channels (?:last|first)")  # in `precision`
# Written as null where a run has them and could not record their value: a run without validation.
NULLABLE = ("best_validation", "best_epoch")


@dataclass(frozen=True)
class RunRecord:
    """What run.json holds; a field is None where the run did not record it, and is then not written.

    Args:
        kind: which task's run it is, and whether of one part or of all folds (age_fold, age_cv, fine_run).
        class_names: the K classes in the order of the probabilities.
        manifest: fingerprint of the table of images.
        policy: the rule by which labels were read: a label policy, or a data set's layout.
        split: hash of the parts.
        pictures: hash of the images' bytes.
        protocol: how the parts were made.
        test_crops: the views of a test image whose probabilities are averaged.
        command: the command line.
        loss: name and parameters, flat.
        backbone: timm's name of the network.
        head: the head's name.
        head_options: its options, defaults included.
        pretraining: where the first weights came from.
        seed: of the training.
        precision: number formats, in words.
        preprocess: the PreprocessSpec as plain values.
        image_size: pixels.
        epochs: asked for.
        batch_size: of all processes together.
        processes: that trained together.
        threads: of each.
        train: the section train of the configuration.
        device: asked, used and name.
        versions: of Python, this toolkit and its libraries.
        warnings: what speaks against the data or the training, a sentence each, as the console said it.
        scores: of the test images, in percent; empty where nothing was tested.
        n: test images.
        n_train: training images.
        train_counts: training images of each class.
        n_validation: validation images.
        counts: what the reader met.
        data_root: the folder that the images were read from.
        selected: which weights were kept: last or best.
        minutes: of training.
        best_validation: the best validation score.
        best_epoch: the epoch it came from, counted from 1 as in metrics.jsonl and on the console.
        epochs_run: epochs trained.
        schema: what the keys mean; files without it count best_epoch from 0, and are read.
        extra: what only one task records, and keys of other versions, as they are in the file.
    """

    kind: str
    class_names: tuple[str, ...]
    manifest: str | None = None
    policy: str | None = None
    split: str | None = None
    pictures: str | None = None
    protocol: str | None = None
    test_crops: str | None = None
    command: str | None = None
    loss: Mapping[str, Any] | None = None
    backbone: str | None = None
    head: str | None = None
    head_options: Mapping[str, Any] | None = None
    pretraining: Mapping[str, Any] | None = None
    seed: int | None = None
    precision: str | None = None
    preprocess: Mapping[str, Any] | None = None
    image_size: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    processes: int | None = None
    threads: int | None = None
    train: Mapping[str, Any] | None = None
    device: Mapping[str, Any] | None = None
    versions: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] | None = None
    scores: Mapping[str, Any] | None = None
    n: int | None = None
    n_train: int | None = None
    train_counts: Sequence[int] | None = None
    n_validation: int | None = None
    counts: Mapping[str, Any] | None = None
    data_root: str | None = None
    selected: str | None = None
    minutes: float | None = None
    best_validation: float | None = None
    best_epoch: int | None = None
    epochs_run: int | None = None
    schema: int = RECORD_SCHEMA
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RunRecord:
        """Return the record of a JSON object; keys that are no field go to `extra`."""
        known = {item.name for item in fields(cls)} - {"extra"}
        own = {key: value for key, value in content.items() if key in known}
        own["class_names"] = tuple(own.get("class_names", ()))
        if isinstance(own.get("loss"), Mapping):
            own["loss"] = recorded_loss(own["loss"])
        if own.get("warnings") is not None:
            own["warnings"] = tuple(map(str, own["warnings"]))
        return cls(**{"kind": "", **own}, extra={key: v for key, v in content.items() if key not in known})

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object: every field that is recorded, then `extra`."""
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "extra"}
        own["class_names"] = list(self.class_names)
        own["warnings"] = None if self.warnings is None else list(self.warnings)
        kept = {
            key: value
            for key, value in own.items()
            if value is not None or (key in NULLABLE and self.epochs_run is not None)
        }
        return kept | dict(self.extra)

    @classmethod
    def read(cls, file: Path) -> RunRecord:
        """Read a run.json.

        Raises DataError, naming the file, where it is missing or damaged, or records no classes.
        """
        content = read_json(file)
        if not isinstance(content, Mapping):
            raise DataError(f"{file} must hold a JSON object, got {type(content).__name__}")
        if not isinstance(content.get("class_names"), list) or not content["class_names"]:
            raise DataError(f"{file} lacks class_names, the list of classes in order")
        return cls.from_dict(record_today(content))

    def write(self, file: Path) -> None:
        """Write run.json, whole or not at all."""
        write_json(file, self.to_dict())

    @property
    def crop(self) -> Mapping[str, Any]:
        """How images are cut before they are resized: kind and margin; empty where nothing is recorded."""
        found = self.extra.get("crop")
        return found if isinstance(found, Mapping) else {}

    @property
    def counted(self) -> Mapping[str, Any]:
        """What the reader met; empty where nothing is recorded."""
        return self.counts or {}

    @property
    def baseline(self) -> Mapping[str, Any] | None:
        """The scores of the majority-class baseline, where the run's own scores hold them."""
        return (self.scores or {}).get("baseline")

    @property
    def device_used(self) -> str:
        """The device that the run trained on: cpu or cuda:0; empty where it is not recorded."""
        return str((self.device or {}).get("used", ""))

    @property
    def fold(self) -> int:
        """The fold that the run was tested on; -1 where it is of no fold, or of all."""
        return int(self.extra.get("fold", -1))

    @property
    def subjects(self) -> int | None:
        """How many subjects the images show; None where they are not known."""
        return self.extra.get("subjects") if subjects_known(self.counted) else None

    @property
    def shared_subjects(self) -> int | None:
        """How many subjects are in both training and test images; None where that is not recorded."""
        return self.extra.get("shared_people")

    @property
    def data_set(self) -> str:
        """The short name of the data set by its layout and classes; empty for any other."""
        return str(self.extra.get("data_set") or "")

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What two runs of the same images share: table, bytes and split."""
        return {"manifest": self.manifest, "pictures": self.pictures, "split": self.split}


def recorded_format(record: Mapping[str, Any]) -> str | None:
    """Return the number format that a run.json says its run trained in; None where it says nothing of it.

    >>> recorded_format({"precision": "device: asked auto, using cpu (cpu); bfloat16, channels last: fast"})
    'bfloat16'
    """
    told = str(record.get("precision"))
    found = FORMAT.search(f"; {told}, channels last" if told.isalnum() else told)
    return found and found.group(1)


def has_own_report(folder: Path) -> bool:
    """Return whether a run folder has a report, of the training that its run.json records.

    One that calls the loss otherwise than it is called now (NLLR, which was the exact form) does not count.
    """
    if not ((folder / "report.md").is_file() and (folder / "report.json").is_file()):
        return False
    record, report = read_json(folder / RECORD_FILE), read_json(folder / "report.json")
    called = report.get("loss_text")
    if called is not None and record.get("loss") and called != loss_text(record["loss"]):
        return False
    return all(record[key] == report[key] for key in TOLD_BY_REPORT if key in record and key in report)


def training_facts(config: FitConfig, learner: Learner) -> dict[str, Any]:
    """Return a run's command, model, loss, preprocessing, settings, device and versions, by field."""
    import torch

    from finetune.cli.command import command_line
    from finetune.runs.folder import versions
    from finetune.training.config import to_dict
    from finetune.training.learner import loss_settings

    return {
        "command": command_line(),
        "loss": loss_settings(config.loss),
        "backbone": config.model.backbone,
        "head": config.head.name,
        "head_options": dict(config.head.options),
        "pretraining": learner.provenance,
        "seed": config.train.seed,
        "device": {
            "asked": config.device,
            "used": str(learner.precision.device),
            "name": learner.precision.device_name,
        },
        "precision": learner.precision.describe(),
        **({PRECISION_CHOICE: choice.to_dict()} if (choice := learner.precision.choice) else {}),
        "preprocess": learner.spec.to_dict(),
        "image_size": learner.spec.image_size,
        "epochs": config.train.epochs,
        "batch_size": config.train.batch_size,
        "processes": learner.world.size,
        "threads": torch.get_num_threads(),
        "train": to_dict(config.train),
        "versions": versions(),
    }
