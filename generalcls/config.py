"""What a user may choose about a general study: data, network, training, losses and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from finetune.cli.option_words import suggestion
from finetune.cli.options import GENERATED_HELP
from finetune.cli.words import WORD
from finetune.errors import CrlError, DataError, UsageError
from finetune.experiments.config import ComparisonConfig, input_faults, timm_fault, words_help

AUTO, TIMM = "auto", "timm/"
NETWORK_NAMES = (
    *("logistic", "mlp", "mnist_cnn", "cifar_cnn", "resnet34", "resnet50", "resnet101", "resnet164"),
    *("vgg16_bn", "vgg19_bn", "densenet40", "mobilenetv2"),
)
DataName = Literal["digits", "mnist", "cifar10", "cifar100", "svhn", "imagenet", "folders"]


@dataclass(frozen=True)
class GeneralDataConfig:
    """A general data set, by name and folder; scikit-learn's digits need no folder.

    Args:
        name: digits, mnist, cifar10, cifar100, svhn, imagenet, or folders (own class folders).
        root: the data set's folder; its parent or child will do.
        image_size: side in pixels that images of imagenet (224) and folders (64) are brought to; the others
            have a size of their own.
        train_fraction: fraction of each class's training images that is used, in (0, 1].
        test_fraction: fraction of each class's test images that is used, in (0, 1].
        test_share: fraction of each class that tests where the data name no test part, in (0, 1).
        split_seed: seed of these fractions.
        extra: SVHN: its extra part joins the training images, as in the papers.
        subset: accept files in a published format that are not the published ones (a part of them, or another
            data set of that format): their test part is then not official.
        download: fetch a data set that torchvision can fetch into root; nothing is ever fetched otherwise.
        missing: what to do with listed images that are not there: error, or drop (counted and recorded).
        skip_bad: drop unreadable images (counted and recorded) instead of stopping.
    """

    name: DataName = "digits"
    root: str | None = None
    image_size: int | None = None
    train_fraction: float = 1.0
    test_fraction: float = 1.0
    test_share: float = 0.25
    split_seed: int = 0
    extra: bool = True
    subset: bool = False
    download: bool = False
    missing: Literal["error", "drop"] = "error"
    skip_bad: bool = False

    def faults(self, *, needed: bool) -> list[CrlError]:  # noqa: ARG002  # digits need no folder
        """Return why no data can be read: the folder is not there, and nothing is to be fetched into it."""
        if self.root is None or self.download or Path(self.root).is_dir():
            return []
        return [DataError(f"--data.root {self.root}: there is no such folder")]

    def __post_init__(self) -> None:
        _refuse(
            [
                (
                    0 < self.train_fraction <= 1,
                    f"data.train_fraction must lie in (0, 1], got {self.train_fraction}",
                ),
                (
                    0 < self.test_fraction <= 1,
                    f"data.test_fraction must lie in (0, 1], got {self.test_fraction}",
                ),
                (0 < self.test_share < 1, f"data.test_share must lie in (0, 1), got {self.test_share}"),
                (
                    self.image_size is None or self.image_size >= 8,
                    f"data.image_size must be at least 8, got {self.image_size}",
                ),
            ]
        )


@dataclass(frozen=True)
class NetworkConfig:
    """The network that all losses train.

    Args:
        name: logistic, mlp, mnist_cnn, cifar_cnn, resnet34, resnet50, resnet101, resnet164, vgg16_bn,
            vgg19_bn, densenet40, mobilenetv2, timm/NAME, or auto (one that suits the data set).
    """

    name: str = "auto"

    def faults(self) -> list[CrlError]:
        """Return why there is no such network, with the nearest name."""
        if self.name.startswith(TIMM):
            fault = timm_fault(self.name.removeprefix(TIMM))
            return [] if fault is None else [fault]
        if self.name in (AUTO, *NETWORK_NAMES):
            return []
        hint = suggestion(self.name, [AUTO, *NETWORK_NAMES], listed=False)
        return [
            UsageError(f"no network is called {self.name!r}{hint}; {', '.join(NETWORK_NAMES)}, or {TIMM}NAME")
        ]


def general_faults(parts: Mapping[str, Any]) -> list[CrlError]:
    """Return everything that a command line names and that is not there: a place, data, a network."""
    network = parts.get("network")
    named = network.faults() if isinstance(network, NetworkConfig) else []
    return [*input_faults(parts, needed=False), *named]


@dataclass(frozen=True)
class GeneralTrainConfig:
    """How long, how fast and on which images the network learns; equal for all losses.

    Args:
        epochs: passes over the training images.
        batch_size: images per step; an epoch's last, incomplete batch is left out (other images each time).
        optimizer: sgd (Nesterov), adamw, adam, rmsprop or adadelta (Keras's constants in the last two).
        lr: the learning rate.
        momentum: of SGD.
        weight_decay: on weights, never on norms and biases.
        schedule: step, cosine, constant, or inverse (lr / (1 + decay * step), Keras's).
        milestones: fractions of the epochs after which a step schedule multiplies the learning rate by gamma.
        gamma: the step schedule's factor.
        decay: the inverse schedule's decay per step.
        augment: none, crop_flip (zero padding, random crop, mirror) or shift_flip (shifts of up to a tenth of
            the side with edge pixels repeated, mirror; Keras's CIFAR-10 example).
        evaluate_every: epochs between two looks at the test images for the curves; the last epoch is always
            tested, and nothing is ever selected by it.
    """

    epochs: int = 30
    batch_size: int = 64
    optimizer: Literal["sgd", "adamw", "adam", "rmsprop", "adadelta"] = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["step", "cosine", "constant", "inverse"] = "step"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    decay: float = 1e-6
    augment: Literal["none", "crop_flip", "shift_flip"] = "none"
    evaluate_every: int = 1


@dataclass(frozen=True)
class GeneralRunConfig:
    """Where it goes and what it runs on.

    Args:
        dir: the folder; refused when it holds anything, unless resuming.
        resume: never, or auto (go on with what is in this folder; finished cells are never run again).
        allow_change: dotted keys whose value may differ from the previous run's.
        checkpoint_minutes: minutes between checkpoints of the models that are in training.
        together: models trained side by side as one; 0 chooses by device, network and free memory.
        precision: auto (float32 on a CPU, bfloat16 where a GPU has it), float32, bfloat16 or float64.
        deterministic: ask torch for deterministic algorithms (the same weights each time need it on a GPU).
        compile: torch.compile for the step of models side by side: auto (on a GPU, for more than 2,000 steps;
            goes on without where it fails), on, or off.
        cache: where decoded images of folders are kept: auto (the user's cache folder), none, or a folder.
        track: loggers of installed packages that hear of every epoch and of the end; none by default.
    """

    dir: str = ""
    resume: Literal["never", "auto"] = "never"
    allow_change: tuple[str, ...] = ()
    checkpoint_minutes: float = 5.0
    together: int = 0
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    deterministic: bool = True
    compile: Literal["auto", "on", "off"] = "auto"
    cache: str = "auto"
    track: tuple[str, ...] = ()


@dataclass(frozen=True)
class GeneralConfig:
    """Data, network, training and place of a general study or run.

    Args:
        device: auto, cpu, cuda or cuda:1; what really runs is reported.
    """

    data: GeneralDataConfig = field(default_factory=GeneralDataConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    train: GeneralTrainConfig = field(default_factory=GeneralTrainConfig)
    run: GeneralRunConfig = field(default_factory=GeneralRunConfig)
    device: str = "auto"

    def __post_init__(self) -> None:
        train, run = self.train, self.run
        shares = [0.0, *train.milestones, 1.0]
        _refuse(
            [
                (train.epochs >= 1, f"train.epochs must be at least 1, got {train.epochs}"),
                (train.batch_size >= 1, f"train.batch_size must be at least 1, got {train.batch_size}"),
                (train.lr > 0, f"train.lr must be positive, got {train.lr}"),
                (0 <= train.momentum < 1, f"train.momentum must lie in [0, 1), got {train.momentum}"),
                (
                    train.weight_decay >= 0,
                    f"train.weight_decay must not be negative, got {train.weight_decay}",
                ),
                (train.gamma > 0, f"train.gamma must be positive, got {train.gamma}"),
                (train.decay >= 0, f"train.decay must not be negative, got {train.decay}"),
                (
                    shares == sorted(set(shares)),
                    f"train.milestones are rising fractions of the epochs in (0, 1), got {train.milestones}",
                ),
                (
                    train.evaluate_every >= 1,
                    f"train.evaluate_every must be at least 1, got {train.evaluate_every}",
                ),
                (run.together >= 0, f"run.together must not be negative, got {run.together}"),
                (
                    run.checkpoint_minutes > 0,
                    f"run.checkpoint_minutes must be positive, got {run.checkpoint_minutes}",
                ),
                *((False, told) for told in _refused_loggers(run.track)),
            ]
        )


@dataclass(frozen=True)
class GeneralRunOneConfig(GeneralConfig):
    """One network trained with one loss.

    Args:
        loss: the loss (or margin head) by name, with options: crl, crl:alpha=1:beta=0.5, lsoftmax:margin=2;
            --loss.name crl --loss.options.alpha 1 says the same. There are
        seed: of the first weights, the order of the images, augmentation and dropout.
    """

    loss: str = field(default="cel", metadata={WORD: True, GENERATED_HELP: words_help})
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse([(self.seed >= 0, f"seed must not be negative, got {self.seed}")])


@dataclass(frozen=True)
class GeneralStudyConfig(GeneralConfig, ComparisonConfig):
    """A study: every loss with every seed, under equal budgets."""

    def __post_init__(self) -> None:
        GeneralConfig.__post_init__(self)
        ComparisonConfig.__post_init__(self)


def _refused_loggers(track: tuple[str, ...]) -> list[str]:
    if not track:
        return []
    from finetune.training.loggers import unknown_loggers

    return unknown_loggers(track)


def _refuse(rules: list[tuple[bool, str]]) -> None:
    broken = [told for holds, told in rules if not holds]
    if broken:
        raise UsageError("the configuration is invalid:\n" + "\n".join(f"  {line}" for line in broken))
