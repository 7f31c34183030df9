"""What a user may choose about fine-grained data, training and evaluation, with this task's own defaults.

The defaults are a place to start from: 448 px as in the papers of this field, the trunk at a tenth of the
learning rate of new layers (SGD with Nesterov momentum, weight decay 5e-4), 30 epochs of one cosine after one
epoch of warm-up. On a CPU alone, --model.image_size 224 costs a quarter. The files in configs/ hold what
single papers did instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from finetune.errors import UsageError
from finetune.experiments.config import (
    CalibrateConfig,
    ComparisonConfig,
    DataConfig,
    EvaluateAgainConfig,
    EvaluateConfig,
    EvaluateRunConfig,
    OwnRates,
    VerifyConfig,
    arms_of,
)
from finetune.experiments.tune.config import TuneConfig
from finetune.training.config import FitConfig, ModelConfig, TrainConfig

TABLE_SUFFIXES = (".csv", ".parquet")
Layout = Literal["auto", "cub", "cars-O", "cars-S", "cars-K", "folders"]


@dataclass(frozen=True)
class FineDataConfig(DataConfig):
    """CUB-200-2011, Stanford Cars, class folders, or a table of images and classes.

    Args:
        root: the data set's folder (its parent or a doubled folder will do), or the image root of a table.
        layout: auto looks for each layout's own files; naming one refuses the others.
        subset: the folder holds part of the official data set: counts are reported and not asserted.
        metadata_only: read the lists alone; images need not be there (verify only).
        crop: image takes whole images, box cuts each out by its bounding box.
        box_margin: fraction of the box's sides added on every side, at least 0.
        val_share: fraction of each class's training images that validates, in [0, 1); 0 trains on all.
        test_share: fraction of each class's images that tests where the data name no test part, in (0, 1).
        split_seed: seed of both fractions.
        same_content: images of the same bytes: keep or warn (both keep and report them), error (refuse them
            in training and test), drop (keep the first of each set), or group (each set in one part).
    """

    layout: Layout = "auto"
    subset: bool = False
    metadata_only: bool = False
    crop: Literal["image", "box"] = "image"
    box_margin: float = 0.0
    val_share: float = 0.1
    test_share: float = 0.2
    split_seed: int = 0

    @property
    def wanted(self) -> str:
        """What to give where no data are named."""
        return (
            "no data: give --data.root FOLDER (CUB-200-2011, Stanford Cars or class folders) or --data.table "
            "FILE (any table of images and classes)"
        )

    def __post_init__(self) -> None:
        rules = [
            (0 <= self.val_share < 1, f"data.val_share must lie in [0, 1), got {self.val_share}"),
            (0 < self.test_share < 1, f"data.test_share must lie in (0, 1), got {self.test_share}"),
            (self.box_margin >= 0, f"data.box_margin must not be negative, got {self.box_margin}"),
        ]
        broken = [told for holds, told in rules if not holds]
        if broken:
            raise UsageError("the configuration is invalid:\n" + "\n".join(f"  {x}" for x in broken))


@dataclass(frozen=True)
class FineModelConfig(ModelConfig):
    """The backbone and where its weights come from (torchvision's ResNet-50 at 448 px by default)."""

    backbone: str = "resnet50.tv_in1k"
    image_size: int | None = 448


@dataclass(frozen=True)
class FineTrainConfig(TrainConfig):
    """How long, how fast and on which images the model learns."""

    batch_size: int = 16
    lr: float = 0.002
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    augment: str = "crop"


@dataclass(frozen=True)
class FineConfig(FitConfig):
    """A whole fine-grained experiment: data, model, head, loss, training, evaluation and where it goes."""

    model: FineModelConfig = field(default_factory=FineModelConfig)
    train: FineTrainConfig = field(default_factory=FineTrainConfig)
    data: FineDataConfig = field(default_factory=FineDataConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data.metadata_only:
            raise UsageError("data.metadata_only reads lists without images: it belongs to verify")


@dataclass(frozen=True)
class FineStudyConfig(FineConfig, ComparisonConfig, OwnRates):
    """A study of losses: one experiment trained with every loss and every seed, under equal budgets."""

    def __post_init__(self) -> None:
        FineConfig.__post_init__(self)
        ComparisonConfig.__post_init__(self)
        self.refuse_unknown([arm.name for arm in arms_of(self)])


@dataclass(frozen=True)
class FineTuneConfig(FineConfig, TuneConfig):
    """A search for the rates of a fine-grained experiment, on its validation part."""

    def __post_init__(self) -> None:
        FineConfig.__post_init__(self)
        TuneConfig.__post_init__(self)


@dataclass(frozen=True)
class VerifyFineConfig(VerifyConfig):
    """A look at a data set without training.

    Args:
        write: file to write the table of images to (.csv or .parquet); null writes none.
    """

    data: FineDataConfig = field(default_factory=FineDataConfig)
    write: str | None = None

    def __post_init__(self) -> None:
        if self.write is not None and Path(self.write).suffix.lower() not in TABLE_SUFFIXES:
            raise UsageError(f"--write {self.write}: the table must end in {' or '.join(TABLE_SUFFIXES)}")


@dataclass(frozen=True)
class EvaluateFineConfig(EvaluateRunConfig):
    """A trained run on its own test images, or on any other data of its classes."""

    data: FineDataConfig = field(default_factory=FineDataConfig)
    evaluate: EvaluateAgainConfig = field(default_factory=EvaluateAgainConfig)


@dataclass(frozen=True)
class CostConfig:
    """What heads cost on backbones: parameters, operations, speed and memory; nothing is downloaded.

    Args:
        heads: the heads to measure, by name or NAME:OPTION=VALUE; empty takes all.
        backbones: the backbones, by name.
        image_size: side of the network's input in pixels.
        classes: number of classes.
        batch_size: images at once where speed and memory are measured; at least 2.
        repeats: timed steps after the warm-up, of which the median is told; 0 only counts.
        device: auto, cpu, cuda or cuda:1.
        out: Markdown file to write the table to; null writes none.
    """

    heads: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ("resnet50",)
    image_size: int = 448
    classes: int = 200
    batch_size: int = 4
    repeats: int = 5
    device: str = "auto"
    out: str | None = None


@dataclass(frozen=True)
class FineCalibrateConfig(CalibrateConfig):
    """A finished run's probabilities made honest, by images that its models never saw.

    Args:
        data: other data than the run's own; without, its validation or its test images calibrate.
    """

    data: FineDataConfig = field(default_factory=FineDataConfig)
