"""Configuration -> what learns: model, objective, optimiser, recipe and precision in one object."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core_losses import loss_options
from finetune.cli.allocator import keep_freed_memory
from finetune.cli.collector import collect_as_usual
from finetune.cli.console import say
from finetune.errors import ModelFileError, UsageError
from finetune.images.preprocess import PreprocessSpec
from finetune.models.backbone import build_backbone
from finetune.models.bundle import load_bundle
from finetune.models.classifier import Classifier, build_classifier, num_parameters
from finetune.models.heads.base import HeadOutput
from finetune.seeding import derive_seed, seed_torch
from finetune.training.config import FitConfig, LossConfig
from finetune.training.data import TrainingData
from finetune.training.epoch_metrics import Totals
from finetune.training.loss_choice import HARD
from finetune.training.objective import Objective
from finetune.training.optimization.account import Account, is_compiled
from finetune.training.optimization.distributed import World
from finetune.training.optimization.measuring import Workload, planned_steps, training_precision
from finetune.training.optimization.optim import Ema, build_optimizer, parameter_groups, set_weight_decay
from finetune.training.optimization.precision import Choice, Precision
from finetune.training.optimization.recipe import Recipe, fine_tune_recipe
from finetune.training.optimization.torch_settings import prepare_torch


@dataclass
class Learner:
    """The model and everything that changes while it learns, or decides how.

    `core` is the classifier itself; `model` is what the forward pass goes through, which may wrap it
    (torch.compile, several processes).
    """

    core: Classifier
    objective: Objective
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    precision: Precision
    world: World
    spec: PreprocessSpec
    config: FitConfig
    num_classes: int
    scaler: torch.amp.GradScaler | None = None
    ema: Ema | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    account: Account | None = None
    compiled_for_all: bool | None = None  # what run.compile auto means in all runs of a study
    was_compiled: bool = False  # the steps of the checkpoint that this stage goes on from were

    def __post_init__(self) -> None:
        self.model: nn.Module = self.core

    def settle(self, output: HeadOutput, target: Tensor, totals: Totals) -> Tensor:
        """Return the loss of a batch to go back from, and add the batch to the totals.

        On a GPU, where the model is compiled, both are one compiled function.
        """
        if self.account is None or self.account.objective is not self.objective:
            self.account = Account(self.objective, self.world, was_compiled=self.was_compiled)
        on_gpu = self.precision.device.type == "cuda"
        return self.account(output, target, totals, compiled=on_gpu and is_compiled(self.model))

    def state(self) -> dict[str, Any]:
        """Return everything that later steps depend on, as plain values and tensors."""
        return {
            "model": self.core.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "ema": self.ema.state_dict() if self.ema else None,
            "provenance": self.provenance,
            "notes": self.notes,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned; learning rates, decay and momentum stay as they are configured now.

        Raises ValueError, KeyError or RuntimeError for the state of another model or optimiser.
        """
        self.core.load_state_dict(state["model"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.provenance, self.notes = state["provenance"], state["notes"]
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema and state["ema"]:
            decay = self.ema.decay
            self.ema.load_state_dict(state["ema"])
            self.ema.decay = decay
        elif self.ema:
            self.ema = Ema(self.core, self.ema.decay)

    def enter_stage(self, epoch: int) -> None:
        """Freeze and free parameters, and set the weight decay, as the stage of this epoch wants it."""
        self.recipe.enter(self.core, epoch)
        decay = self.recipe.stage_at(epoch).weight_decay
        own = self.config.train.weight_decay if decay is None else decay
        set_weight_decay(self.optimizer, self.core, own)

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of every part that is trained: `lr_backbone` and `lr_head`."""
        rates = {str(group["part"]): float(group["lr"]) for group in self.optimizer.param_groups}
        return {f"lr_{part}": rates[part] for part in sorted(rates)}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model hold the moving average inside the `with`, where there is one."""
        if self.ema is None:
            yield
            return
        with self.ema.swapped(self.core):
            yield


def build_learner(
    task: TrainingData,
    config: FitConfig,
    world: World,
    *,
    from_checkpoint: bool = False,
    begun: Choice | None = None,
) -> Learner:
    """Return a learner at the start of its run; the first weights depend on the seed alone.

    With `from_checkpoint` no pretrained weights are looked for, because `load_state` brings them. `begun` is
    what `run.precision` auto came to when this run, or the first of those it belongs to, began.
    """
    steps = planned_steps(config, len(task.train))
    work = workload(config, task.manifest.num_classes, task.spec, steps, processes=world.size)
    precision = training_precision(work, world, begun)
    prepare_torch(precision, deterministic=config.run.deterministic)
    say(precision.describe())
    seed_torch(derive_seed(config.train.seed, "weights"))
    core = build_core(config, task.manifest.num_classes, task.spec, from_checkpoint=from_checkpoint)
    precision.place(core)
    if not from_checkpoint:
        source = core.backbone.weights.describe()
        say(f"{config.model.backbone}: {num_parameters(core):,} parameters, {source}")
        for note in core.backbone.notes:
            say(note)
    train = config.train
    rates = {"lr": train.lr, "head_lr_multiplier": train.head_lr_multiplier}
    groups = parameter_groups(core, weight_decay=train.weight_decay, **rates)
    return Learner(
        core=core,
        objective=build_objective(config, task, precision.device),
        optimizer=build_optimizer(train.optimizer, groups, lr=train.lr, momentum=train.momentum),
        recipe=build_recipe(config, core),
        precision=precision,
        world=world,
        spec=task.spec,
        config=config,
        num_classes=task.manifest.num_classes,
        scaler=precision.build_scaler(),
        ema=Ema(core, train.ema) if train.ema else None,
        provenance=core.backbone.weights.to_dict(),
        notes=list(core.backbone.notes),
    )


def workload(
    config: FitConfig,
    classes: int,
    spec: PreprocessSpec,
    steps: int,
    *,
    processes: int = 1,
    threads: int = 0,
) -> Workload:
    """Return the training whose number format is to be chosen; see `Workload` for what is given."""
    build = partial(build_core, config, classes, spec, from_checkpoint=True)
    batch = max(1, config.train.batch_size // processes)
    return Workload(config, classes, spec.image_size, batch, steps, build, threads)


def build_core(
    config: FitConfig, num_classes: int, spec: PreprocessSpec, *, from_checkpoint: bool = False
) -> Classifier:
    """Return the configured classifier, with the configured weights unless a checkpoint will bring them."""
    model = config.model
    return build_classifier(
        model.backbone,
        config.head.name,
        num_classes,
        weights="none" if from_checkpoint else model.weights,
        image_size=spec.image_size,
        drop_rate=model.drop_rate,
        drop_path_rate=model.drop_path_rate,
        unmapped=model.unmapped,
        second=model.second,
        second_weights="none" if from_checkpoint else model.second_weights,
        taps=config.head.taps or None,
        head_options=config.head.options,
    )


def spec_of(config: FitConfig) -> PreprocessSpec:
    """Return the preprocessing of a configuration; no weights are looked for."""
    model = config.model
    shape = build_backbone(model.backbone, "none", image_size=model.image_size)
    return shape.preprocess_spec(model.image_size, model.resize, model.resize_ratio)


def build_recipe(config: FitConfig, core: Classifier) -> Recipe:
    """Return the stages of the configured training."""
    train = config.train
    return fine_tune_recipe(
        max(1, train.epochs),  # a network that is tested untrained has a recipe all the same
        train.frozen_epochs,
        lr=train.lr,
        head_lr_multiplier=train.head_lr_multiplier,
        schedule=train.schedule,
        warmup_epochs=train.warmup_epochs,
        milestones=train.milestones,
        gamma=train.gamma,
        frozen_lr=train.frozen_lr,
        frozen_weight_decay=train.frozen_weight_decay,
        frozen_schedule=train.frozen_schedule,
        hooks=core.head.hooks(),
    )


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load moments and counts alone: torch's own loading would bring back the earlier options too."""
    own = [
        {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    if [group.keys() for group in own] != [group.keys() - {"params"} for group in state["param_groups"]]:
        raise ValueError("the checkpoint was written by another optimiser")
    # Torch places the counts of steps by the options that it is given: by the fused kernel's those of now.
    groups = [
        {**options, "params": group["params"]}
        for options, group in zip(own, state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


def build_objective(config: FitConfig, task: TrainingData, device: torch.device) -> Objective:
    """Return the class loss for every classifier of the head, and the losses chosen for single ones."""
    branches = {name: LossConfig(word).build().to(device) for name, word in config.loss.branches.items()}
    rows = build_target_rows(config.loss, task)
    loss = build_class_loss(config.loss, task).to(device)
    return Objective(loss, branches, None if rows is None else rows.to(device))


def build_target_rows(config: LossConfig, task: TrainingData) -> Tensor | None:
    """Return the soft target of every class (K, K), as configured; None for hard targets.

    NLLR with rows of more than one half on the class itself has no best answer: that is said.

    Raises UsageError for distances in years between classes that have none.
    """
    places = task.places if config.distance == "years" else range(task.manifest.num_classes)
    if places is None:
        raise UsageError(
            "loss.distance years: the classes of this task lie on no scale; give --loss.distance index"
        )
    rows: Tensor | None = config.rows(places)
    if rows is not None and config.name == "nllr" and (sure := int((rows.diag() > 0.5).sum())):
        say(
            "warning: nllr falls without end along soft targets of more than 1/2 on the class itself, as "
            f"{sure} of {len(rows)} rows have: only its clamp bounds it there"
        )
    return rows


def build_class_loss(config: LossConfig, task: TrainingData) -> nn.Module:
    """Return the configured loss, its class weights taken from the training rows."""
    counts = np.bincount(task.manifest.label[task.train], minlength=task.manifest.num_classes)
    options: dict[str, Any] = {}
    if config.class_weights != "none":
        options["weight"] = torch.tensor(class_weights(counts, config.class_weights), dtype=torch.float32)
    loss: nn.Module = config.build(**options)
    return loss


def loss_settings(config: LossConfig) -> dict[str, Any]:
    """Return the loss's name and all that decides its value: parameters with their defaults, and options.

    >>> loss_settings(LossConfig("crl:beta=0.5"))["alpha"]
    1.5
    """
    options: dict[str, Any] = {
        "label_smoothing": config.label_smoothing,
        "class_weights": config.class_weights,
    }
    if config.targets != HARD:
        soft = {"targets": config.targets, "target_width": config.width, "distance": config.distance}
        options |= soft
    if config.branches:
        options["branches"] = dict(config.branches)
    return {"name": config.name, **loss_options(config.name), **config.parameters(), **options}


def class_weights(counts: np.ndarray, rule: str) -> np.ndarray:
    """Return a weight per class for counts (K,), proportional to 1 / n or 1 / sqrt(n), mean one over images.

    A class without an image gets the weight of one with a single image; nothing ever multiplies it.
    """
    frequency = np.maximum(counts, 1).astype(float)
    raw = 1 / frequency if rule == "inverse" else 1 / np.sqrt(frequency)
    weights: np.ndarray = raw * counts.sum() / (raw * counts).sum()
    return weights


def load_classifier(file: Path) -> tuple[Classifier, PreprocessSpec, dict[str, Any]]:
    """Return the finished model in a model.safetensors, its preprocessing and its facts, ready to evaluate.

    Raises ModelFileError for a file that is damaged or does not hold what it says.
    """
    keep_freed_memory()
    collect_as_usual()
    state, facts = load_bundle(file)
    try:
        spec = PreprocessSpec.from_dict(facts["preprocess"])
        model, head = facts["model"], facts["head"]
        core = build_classifier(
            model["backbone"],
            head["name"],
            len(facts["class_names"]),
            weights="none",
            image_size=spec.image_size,
            second=model.get("second", ""),
            second_weights="none",
            taps=tuple(head.get("taps", ())) or None,
            head_options=head.get("options", {"dropout": head["dropout"]} if head.get("dropout") else {}),
        )
        core.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise ModelFileError(f"{file} does not hold the model that its facts describe: {error}") from None
    return core.eval(), spec, facts
