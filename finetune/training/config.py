"""What a user may choose about a training run, as frozen dataclasses that know nothing of files or flags.

Every field's default is the toolkit's own choice unless its comment names a source; `finetune.cli.options`
turns command lines and YAML files into these objects.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from core_losses import LOSSES
from finetune.cli.option_words import suggestion
from finetune.cli.words import Choice
from finetune.errors import CrlError, UsageError
from finetune.training.loss_choice import LossConfig as LossConfig  # a section as the others, in its own file
from finetune.training.loss_choice import loss_refusals


@dataclass(frozen=True)
class ModelConfig:
    """The backbone and where its weights come from.

    Args:
        backbone: any timm classification model by name, with an optional pretrained tag (resnet34.tv_in1k).
        weights: "pretrained" (timm's own, from the local hub cache or the hub), "none", or a file or folder.
        second: a further backbone for a head that reads two (bilinear); empty for none.
        second_weights: where the second backbone's weights come from, as in weights.
        image_size: side of the square network input in pixels; null takes the pretrained configuration's.
        resize: warp squeezes every image into a square, short scales its shorter side and keeps its shape;
            the network then sees a square crop of image_size.
        resize_ratio: pre-resized side over image_size; null takes the pretrained configuration's crop ratio.
        drop_rate: dropout before the backbone's own classifier, in [0, 1).
        drop_path_rate: stochastic depth, in [0, 1).
        unmapped: tensors of a face network's weights file that no rule knows are refused, or dropped; they
            are listed.
    """

    backbone: str = "resnet34"
    weights: str = "pretrained"
    second: str = ""
    second_weights: str = "pretrained"
    image_size: int | None = None
    resize: Literal["warp", "short"] = "warp"
    resize_ratio: float | None = None
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    unmapped: Literal["refuse", "drop"] = "refuse"


@dataclass(frozen=True)
class HeadConfig(Choice):
    """The classifier on top of the backbone.

    Args:
        name: linear, or another head of an installed package (bilinear, dfl, dcl, ...).
        taps: the feature maps it reads in place of its own choice: strides in pixels or last, last-1, ...
        options: the head's own options by name.
    """

    name: str = "linear"
    taps: tuple[int | str, ...] = ()
    options: dict[str, int | float | bool | str] = field(default_factory=dict)

    @staticmethod
    def names() -> Iterable[str]:
        """Return the names of all heads."""
        from finetune.models.heads.registry import head_names

        return head_names()


@dataclass(frozen=True)
class TrainConfig:
    """How long, how fast and on which images the model learns.

    Args:
        epochs: passes over the training rows, the frozen ones included; 0 tests the network untrained.
        frozen_epochs: first epochs in which only the head learns.
        frozen_lr: the head's learning rate in the frozen epochs; null takes lr * head_lr_multiplier.
        frozen_weight_decay: weight decay in the frozen epochs; null takes weight_decay.
        frozen_schedule: cosine, step (the milestones that lie in the frozen epochs) or constant.
        frozen_views: augmented views of every image whose features are cached, so that the frozen backbone is
            run once for each instead of in every epoch (epoch e then shows view e modulo frozen_views);
            0 runs it in every epoch, -1 keeps one view where the augmentation is none and nothing else.
        batch_size: images per optimiser step over all processes (before accumulation); an epoch's last,
            incomplete batch is left out (other images each time).
        accumulate: batches whose gradients are summed into one optimiser step.
        optimizer: sgd (Nesterov momentum) or adamw.
        lr: the backbone's learning rate; the head's is lr * head_lr_multiplier.
        head_lr_multiplier: the head's learning rate over the backbone's.
        momentum: of SGD.
        weight_decay: on weights, never on norms and biases.
        schedule: cosine, step or constant, after the warm-up.
        warmup_epochs: epochs in which the learning rate climbs linearly from zero (fractions count).
        milestones: epochs after which a step schedule multiplies the learning rate by gamma.
        gamma: the step schedule's factor.
        augment: how training images change at random. none: centre crop, the same as in evaluation; flip:
            centre crop, mirrored half of the time; face: affine jitter (10 degrees, 10 % scale, 5 % shift),
            random crop of 80-100 % of the area, mirror, light colour changes: for faces that are aligned or
            tightly cropped; face_fast: the ranges of face, in one step; standard: random crop of 8-100 % of
            the area, sides 3:4 to 4:3, mirror: the ImageNet recipe; strong: standard, affine jitter and
            colour changes, at times grey, blurred or with a patch erased; strong_fast: the ranges of strong,
            in one step; crop: crop of the network's size from anywhere in the image, mirror; rotate_crop:
            rotation by up to 15 degrees, then crop and mirror. Joined by + may follow (alone they follow
            standard): randaugment: two of 14 operations at magnitude 9 of 30; trivialaugment: one of 14
            operations at any strength; random_erasing: in every fourth image, random pixels in a rectangle
            of 2-33 % of the area.
        mixup: alpha of mixup's Beta distribution; 0 switches it off.
        cutmix: alpha of cutmix's Beta distribution; 0 switches it off.
        ema: decay of the weights' moving average, which is then what is evaluated and exported; 0 is off.
        clip_grad: largest gradient norm; 0 is off.
        patience: epochs without a better validation metric before stopping; 0 is off. Frozen epochs do not
            count where others follow: neither they nor their scores are looked at.
        monitor: the validation metric that selects and stops (never a loss value); mae, the mean error in
            classes of ordered ones (years where each class is one), is best when lowest.
        select: which weights are tested: last, or best on validation.
        seed: of everything random.
    """

    epochs: int = 30
    frozen_epochs: int = 0
    frozen_lr: float | None = None
    frozen_weight_decay: float | None = None
    frozen_schedule: Literal["cosine", "step", "constant"] = "constant"
    frozen_views: int = -1
    batch_size: int = 32
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.01
    head_lr_multiplier: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    augment: str = "face"
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    clip_grad: float = 0.0
    patience: int = 0
    monitor: Literal["accuracy", "balanced_accuracy", "one_off", "mae"] = "accuracy"
    select: Literal["last", "best"] = "last"
    seed: int = 0


@dataclass(frozen=True)
class RunConfig:
    """Where a run lives and what it runs on.

    Args:
        dir: the run folder; refused when it holds anything, unless resuming.
        resume: never, or auto (go on from the newest good checkpoint of this folder).
        allow_change: dotted keys whose value may differ from the resumed run's.
        checkpoint_minutes: minutes between checkpoints inside an epoch (one is always made at its end).
        cache: where decoded images are kept: auto (the user's cache folder), none, or a folder.
        workers: processes that prepare batches; -1 chooses by the number of cores, and none where images
            stay on a GPU (with train.augment none, flip or crop, where a third of its free memory is enough).
        precision: auto (the fastest on this machine, by a few steps that are timed), float32, tf32 (float32
            whose factors an NVIDIA GPU rounds to 10 bits), bfloat16 or float16.
        compile: compile the model with torch.compile: true, false, or auto (on an NVIDIA GPU, for more than
            2,000 steps, where it is faster).
        deterministic: ask torch for deterministic algorithms (exact resume needs it on a GPU).
        track: loggers of installed packages that hear of every epoch and of the end; none by default.
    """

    dir: str = ""
    resume: Literal["never", "auto"] = "never"
    allow_change: tuple[str, ...] = ()
    checkpoint_minutes: float = 10.0
    cache: str = "auto"
    workers: int = -1
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"] = "auto"
    compile: bool | Literal["auto"] = "auto"
    deterministic: bool = True
    track: tuple[str, ...] = ()


@dataclass(frozen=True)
class FitConfig:
    """Everything `finetune.training.fit` needs; a study's own configuration has these fields and its data's.

    Args:
        device: auto, cpu, cuda, cuda:1 or mps; what really runs is reported.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    run: RunConfig = field(default_factory=RunConfig)
    device: str = "auto"

    def __post_init__(self) -> None:
        if faults := self.quick_faults(self) or _faults(_refused_options(self)):
            raise faults[0]

    @staticmethod
    def quick_faults(parts: Any) -> list[CrlError]:
        """Return what is wrong with the sections and can be told without torch: one error, or none."""
        return _faults([rule for holds, rule in _rules(parts) if not holds] + _refused_names(parts))


def _faults(broken: list[str]) -> list[CrlError]:
    lines = "\n".join(f"  {rule}" for rule in broken)
    return [UsageError(f"the configuration is invalid:\n{lines}")] if broken else []


def _rules(config: FitConfig) -> list[tuple[bool, str]]:
    model, train, loss, run = config.model, config.train, config.loss, config.run
    return [
        (
            model.image_size is None or model.image_size >= 1,
            f"model.image_size must be at least 1, got {model.image_size}",
        ),
        (
            model.resize_ratio is None or model.resize_ratio >= 1,
            f"model.resize_ratio must be at least 1, got {model.resize_ratio}",
        ),
        (0 <= model.drop_rate < 1, f"model.drop_rate must lie in [0, 1), got {model.drop_rate}"),
        (
            0 <= model.drop_path_rate < 1,
            f"model.drop_path_rate must lie in [0, 1), got {model.drop_path_rate}",
        ),
        (train.epochs >= 0, f"train.epochs must not be negative, got {train.epochs}"),
        (train.epochs > 0 or train.select == "last", "train.select best needs at least one epoch, got 0"),
        (
            0 <= train.frozen_epochs <= train.epochs,
            f"train.frozen_epochs are the first of train.epochs and must lie in [0, {train.epochs}], "
            f"got {train.frozen_epochs}",
        ),
        (
            train.frozen_lr is None or train.frozen_lr > 0,
            f"train.frozen_lr must be positive, got {train.frozen_lr}",
        ),
        (
            train.frozen_weight_decay is None or train.frozen_weight_decay >= 0,
            f"train.frozen_weight_decay must not be negative, got {train.frozen_weight_decay}",
        ),
        (
            train.frozen_epochs > 0 or not _frozen_settings(train),
            f"{', '.join(_frozen_settings(train))} would change nothing with train.frozen_epochs 0: give "
            "a number of frozen epochs, or leave them out",
        ),
        (train.frozen_views >= -1, f"train.frozen_views must be -1, 0 or more, got {train.frozen_views}"),
        (train.batch_size >= 1, f"train.batch_size must be at least 1, got {train.batch_size}"),
        (train.accumulate >= 1, f"train.accumulate must be at least 1, got {train.accumulate}"),
        (train.lr > 0, f"train.lr must be positive, got {train.lr}"),
        (
            train.head_lr_multiplier > 0,
            f"train.head_lr_multiplier must be positive, got {train.head_lr_multiplier}",
        ),
        (train.weight_decay >= 0, f"train.weight_decay must not be negative, got {train.weight_decay}"),
        (0 <= train.momentum < 1, f"train.momentum must lie in [0, 1), got {train.momentum}"),
        (0 <= train.ema < 1, f"train.ema must lie in [0, 1), got {train.ema}"),
        (train.mixup >= 0, f"train.mixup must not be negative, got {train.mixup}"),
        (train.cutmix >= 0, f"train.cutmix must not be negative, got {train.cutmix}"),
        (train.clip_grad >= 0, f"train.clip_grad must not be negative, got {train.clip_grad}"),
        (train.gamma > 0, f"train.gamma must be positive, got {train.gamma}"),
        (train.patience >= 0, f"train.patience must not be negative, got {train.patience}"),
        (train.warmup_epochs >= 0, f"train.warmup_epochs must not be negative, got {train.warmup_epochs}"),
        (
            0 <= loss.label_smoothing < 1,
            f"loss.label_smoothing must lie in [0, 1), got {loss.label_smoothing}",
        ),
        (
            run.checkpoint_minutes > 0,
            f"run.checkpoint_minutes must be positive, got {run.checkpoint_minutes}",
        ),
        (run.workers >= -1, f"run.workers must be -1 (by the number of cores) or more, got {run.workers}"),
    ]


def _frozen_settings(train: TrainConfig) -> list[str]:
    """Return the keys of the settings that only frozen epochs have and that were given."""
    given = {
        "frozen_lr": train.frozen_lr is not None,
        "frozen_weight_decay": train.frozen_weight_decay is not None,
        "frozen_schedule": train.frozen_schedule != "constant",
        "frozen_views": train.frozen_views > 0,
    }
    return [f"train.{name}" for name, is_given in given.items() if is_given]


def _refused_names(config: FitConfig) -> list[str]:
    """Return what is wrong with the choices by name: the loss, augmentation, head and loggers."""
    from finetune.models.names import head_names

    refused = _refused_augment(config.train.augment)
    known = head_names()
    if config.head.name not in known:
        near = suggestion(config.head.name, known, listed=False)
        refused.append(f"head.name must be one of {', '.join(known)}, got {config.head.name!r}{near}")
    if config.loss.name not in LOSSES:
        refused += loss_refusals(config.loss, head_names())
    if config.run.track:
        from finetune.training.loggers import unknown_loggers

        refused += unknown_loggers(config.run.track)
    return refused


def _refused_augment(policy: str) -> list[str]:
    from finetune.images.augmentation.policies import EXTRAS, POLICIES, POLICY_RULE, policy_parts

    try:
        policy_parts(policy)
    except UsageError:
        near = suggestion(policy, [*POLICIES, *EXTRAS], listed=False)
        return [f"train.augment: {POLICY_RULE}; got {policy!r}{near}"]
    return []


def _refused_options(config: FitConfig) -> list[str]:
    """Return what is wrong with the options of the loss and of the head."""
    from finetune.models.heads.registry import check_head_options, unknown_branches
    from finetune.models.names import head_names

    refused = loss_refusals(config.loss, head_names())
    try:
        check_head_options(config.head.name, config.head.options)
    except UsageError as error:
        return [*refused, f"head.options: {error}"]
    return refused + unknown_branches(config.head.name, config.head.options, config.loss.branches)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain dicts and lists, ready for YAML and JSON."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
        return [plain(item) for item in value] if isinstance(value, (tuple, list)) else value

    result: dict[str, Any] = plain(config)
    return result
