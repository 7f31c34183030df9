"""What a user may choose about any task: its data's files, tests, comparisons, and studies of losses.

A task's own options add to these; a field that it describes again has its own words in --help.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from core_losses import LOSSES
from finetune.cli.options import GENERATED_HELP
from finetune.errors import CrlError, DataError, UsageError
from finetune.experiments.study.arms import GRID_ALPHAS, GRID_BETAS, Arm, Matching, build_arms
from finetune.models.names import MARGIN_HEADS, ORDINAL_HEADS, backbone_fault, is_unknown_tag, weights_fault
from finetune.runs.config_file import CONFIG_NAME
from finetune.training.config import ModelConfig
from finetune.training.loss_choice import loss_names


def words_help() -> str:
    """Return the names that a word may begin with: those of all losses, margin heads and ordinal heads."""
    return (
        f"{loss_names()}, the margin heads {', '.join(MARGIN_HEADS)}, and for classes with an order "
        f"{', '.join(ORDINAL_HEADS)}. Those that read the order are not in it unless they are listed."
    )


RATES = ("lr", "head_lr_multiplier", "weight_decay", "epochs")  # of train, which an arm may have of its own
TestCrops = Literal["center", "flip", "ten", "cam"]


@dataclass(frozen=True)
class DataConfig:
    """Where images lie, and what is done about files that are missing, broken or equal.

    Args:
        root: the data set's folder, or the image root of a table.
        table: CSV or parquet with a row per image; its folder is the image root unless root is given.
        missing: what to do with listed images that are not there: error, or drop (counted and recorded).
        skip_bad: drop unreadable images (counted and recorded) instead of stopping.
        follow: allow image paths that leave the data root.
        same_content: images of the same bytes: keep or warn (both keep and report them), error (refuse them
            in training and test), drop (keep the first of each set), or group (each set in one part).
    """

    root: str | None = None
    table: str | None = None
    missing: Literal["error", "drop"] = "error"
    skip_bad: bool = False
    follow: bool = False
    same_content: Literal["warn", "keep", "error", "drop", "group"] = "warn"

    def faults(self, *, needed: bool) -> list[CrlError]:
        """Return why no data can be read: none are named where they are needed, or they are not there."""
        found: list[CrlError] = []
        if self.root is None and self.table is None and needed:
            found.append(UsageError(self.wanted))
        if self.root is not None and not Path(self.root).is_dir():
            found.append(DataError(f"--data.root {self.root}: there is no such folder"))
        if self.table is not None and not Path(self.table).is_file():
            found.append(DataError(f"--data.table {self.table}: there is no such file"))
        return found

    @property
    def wanted(self) -> str:
        """What to give where no data are named."""
        return "no data: give --data.root FOLDER, or --data.table FILE"


def input_faults(parts: Mapping[str, Any], *, needed: bool = True) -> list[CrlError]:
    """Return everything that a command line names and that is not there: data, weights, backbones, a place.

    Args:
        parts: the sections of a configuration by name, and its other options.
        needed: whether the command cannot do without data.

    A run that is resumed needs no weights file: its checkpoint holds its own.
    """
    found: list[CrlError] = []
    run, model = parts.get("run"), parts.get("model")
    if getattr(run, "dir", None) == "":
        found.append(UsageError("no place for the results: give --run.dir FOLDER"))
    if hasattr(parts.get("data"), "faults"):
        found += parts["data"].faults(needed=needed)
    resumed = getattr(run, "resume", "") == "auto" and Path(getattr(run, "dir", ""), CONFIG_NAME).is_file()
    if isinstance(model, ModelConfig):
        asked = [(model.backbone, model.weights, "model.weights")]
        if model.second:
            asked.append((model.second, model.second_weights, "model.second_weights"))
        for backbone, weights, option in asked:
            named = [timm_fault(backbone), None if resumed else weights_fault(weights, option)]
            found += [fault for fault in named if fault is not None]
    return found


def timm_fault(name: str) -> CrlError | None:
    """Return why there is no such backbone, with near names.

    timm itself is asked where it is imported already (a program may have added names), and for odd tags.
    """
    if "timm" not in sys.modules and (
        (fault := backbone_fault(name)) is not None or not is_unknown_tag(name)
    ):
        return fault
    from finetune.models.backbone import published_weights

    try:
        published_weights(name)
    except UsageError as error:
        return error
    return None


@dataclass(frozen=True)
class VerifyConfig:
    """A look at a data set without training.

    Args:
        quick: count and check the lists only; do not open every image.
    """

    data: Any = None  # each task's own
    quick: bool = False


@dataclass(frozen=True)
class EvaluateConfig:
    """How test images are given to the network.

    Args:
        test_crops: center; flip (the centre and its mirror); ten (four corners and the centre, mirrored); or
            cam (the centre, and the region its activations point to, enlarged).
        batch_size: images at once (memory only; the scores do not depend on it).
    """

    test_crops: TestCrops = "center"
    batch_size: int = 64


@dataclass(frozen=True)
class EvaluateAgainConfig:
    """How images are given to a network that was tested before.

    Args:
        test_crops: center, flip, ten or cam; null shows them as the run's own test did.
        batch_size: images at once (memory only; the scores do not depend on it).
    """

    test_crops: TestCrops | None = None
    batch_size: int = 64


@dataclass(frozen=True)
class EvaluateRunConfig:
    """A trained run on its own test images, or on other data.

    Args:
        weights: selected (model.safetensors) or other (the file beside it: best where last was selected).
        device: auto, cpu, cuda or cuda:1.
        cache: where decoded images are kept: auto (the user's cache folder), none, or one named.
        workers: processes that prepare batches; -1 chooses by the number of cores.
        out: folder for predictions.parquet and evaluation.json; null writes nothing.
    """

    data: Any = None  # each task's own
    evaluate: EvaluateAgainConfig = field(default_factory=EvaluateAgainConfig)
    weights: Literal["selected", "other"] = "selected"
    device: str = "auto"
    cache: str = "auto"
    workers: int = -1
    out: str | None = None


@dataclass(frozen=True)
class CalibrateConfig:
    """A finished run's probabilities made honest, by images that its models never saw.

    Args:
        on: the run's own part that calibrates: test (scores are then cross-fitted), validation (where it
            chose no epoch), or auto, which prefers validation. Named data (--data) come before it.
        method: temperature (one number), or vector (a scale and a shift per class; more than 50 people each).
        weigh: images, or people (each person counts alike, however many images show them).
        level: how often the sets are to hold the true class, for a picture of a new person, in (0, 1).
        score: the sets' score: oaps or rps (ordered classes), raps, aps or lac; auto takes oaps or raps.
        unit: who is one person: subject, or user (albums that hold several subjects).
        per_group: a quantile per true class, from at least nine people of it at level 0.9; others are in
            every set.
        batch_size: images at once.
        device: auto, cpu, cuda or cuda:1, where images are shown again.
        cache: where decoded images are kept: auto (the user's cache folder), none, or one named.
        workers: processes that prepare batches; -1 chooses by the number of cores.
    """

    data: Any = None  # each task's own
    on: Literal["auto", "test", "validation"] = "auto"
    method: Literal["temperature", "vector"] = "temperature"
    weigh: Literal["images", "people"] = "images"
    level: float = 0.9
    score: Literal["auto", "oaps", "rps", "aps", "raps", "lac"] = "auto"
    unit: Literal["subject", "user"] = "subject"
    per_group: bool = False
    batch_size: int = 64
    device: str = "auto"
    cache: str = "auto"
    workers: int = -1

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise UsageError(f"--level is how often sets hold the true class, in (0, 1), got {self.level:g}")


@dataclass(frozen=True)
class CompareConfig:
    """A paired comparison of two results.

    Args:
        out: folder for the comparison's page and figures; null puts it beside the second result.
        resamples: bootstrap resamples, at least 1: over subjects where they are known, else over images.
        pictures: draw the gallery and the heat maps.
        allow_precision: compare runs that were trained in different number formats; else they are refused.
    """

    out: str | None = None
    resamples: int = 5000
    pictures: bool = True
    allow_precision: bool = False

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise UsageError(f"resamples must be 1 or more (5000 is usual), got {self.resamples}")

    @property
    def people(self) -> bool:
        """Whether the figures may show people; a task whose images are of people asks the user."""
        return True


@dataclass(frozen=True)
class ComparisonConfig:
    """Which losses are compared, over how many seeds, with which controls.

    Args:
        losses: words NAME or NAME:OPTION=VALUE of losses and heads: crl:alpha=1:beta=0.5,
            lsoftmax:margin=2, crl:head=corn, cel:targets=sord. There are
        baseline: cross-entropy (cel) is always in it, to compare with; without it only where losses lists it.
        seeds: trainings of every loss; training i of all losses has the same seed.
        first_seed: the seeds are first_seed, first_seed + 1, ...
        controls: add the focal loss, cross-entropy with label smoothing, and for every CRL listed
            cross-entropy with the learning rate scaled by that CRL's gradient factor.
        label_smoothing: of the label smoothing control, in [0, 1); 0 leaves it out.
        lr_match: the factors of the lr-matched control: mean (over images, of the gradient magnitude
            divided by cross-entropy's), ratio (of both summed), or both; an empty list leaves it out.
        grid: add CRL for every pair of grid_alphas and grid_betas.
        grid_alphas: alphas of the grid, each >= 0.
        grid_betas: betas of the grid, each >= 0 (0 is cross-entropy itself).
    """

    losses: tuple[str, ...] = field(
        default_factory=lambda: tuple(name for name in LOSSES if not LOSSES.reads_order(name)),
        metadata={GENERATED_HELP: words_help},
    )
    baseline: bool = True
    seeds: int = 5
    first_seed: int = 0
    controls: bool = True
    label_smoothing: float = 0.1
    lr_match: tuple[Matching, ...] = ("mean",)
    grid: bool = False
    grid_alphas: tuple[float, ...] = GRID_ALPHAS
    grid_betas: tuple[float, ...] = GRID_BETAS

    def __post_init__(self) -> None:
        broken = [rule for holds, rule in _rules(self) if not holds]
        try:
            arms_of(self)
        except UsageError as error:
            broken.append(str(error))
        if broken:
            raise UsageError("the comparison is invalid:\n" + "\n".join(f"  {rule}" for rule in broken))


@dataclass(frozen=True)
class OwnRates:
    """What single arms of a study of runs have of their own.

    Args:
        rates: by an arm's name, its own lr, head_lr_multiplier, weight_decay and epochs: crl: {lr: 0.001}.
            `tune` writes them; an arm that is not named has those of the section train.
    """

    rates: dict[str, dict[str, int | float]] = field(default_factory=dict)

    def refuse_unknown(self, names: Sequence[str]) -> None:
        """Raise UsageError for rates of an arm that is not among `names`, or of a setting that is no rate."""
        for arm, own in self.rates.items():
            if arm not in names:
                raise UsageError(f"rates: no arm is called {arm!r}; there are {', '.join(names)}")
            if unknown := sorted(set(own) - set(RATES)):
                raise UsageError(
                    f"rates: {arm} has {', '.join(unknown)}, but an arm may have its own {', '.join(RATES)}"
                )


def arms_of(config: ComparisonConfig) -> tuple[Arm, ...]:
    """Return the arms that a configuration asks for, the baseline first.

    >>> [arm.name for arm in arms_of(ComparisonConfig(losses=("crl",), controls=False))]
    ['cel', 'crl']
    """
    return build_arms(
        config.losses,
        baseline=config.baseline,
        controls=config.controls,
        smoothing=config.label_smoothing,
        lr_match=config.lr_match,
        grid=config.grid,
        grid_alphas=config.grid_alphas,
        grid_betas=config.grid_betas,
    )


def seeds_of(config: ComparisonConfig) -> range:
    """Return the seeds that every arm is trained with.

    >>> list(seeds_of(ComparisonConfig(seeds=3, first_seed=10)))
    [10, 11, 12]
    """
    return range(config.first_seed, config.first_seed + config.seeds)


def _rules(config: ComparisonConfig) -> list[tuple[bool, str]]:
    rules = [
        (config.seeds >= 1, f"seeds must be at least 1, got {config.seeds}"),
        (config.first_seed >= 0, f"first_seed must not be negative, got {config.first_seed}"),
        (
            0 <= config.label_smoothing < 1,
            f"label_smoothing must lie in [0, 1), got {config.label_smoothing}",
        ),
    ]
    for name, values in (("grid_alphas", config.grid_alphas), ("grid_betas", config.grid_betas)):
        right = all(math.isfinite(value) and value >= 0 for value in values)
        single = bool(values) and len(set(values)) == len(values)
        told = f"{name} must hold different numbers >= 0, at least one, got {list(values)}"
        rules.append((right and single, told))
    return rules
