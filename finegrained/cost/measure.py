"""`crl fine cost`: what every head costs on a backbone, counted and, where it is wanted, timed."""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from finegrained.cost.meters import (
    count_macs,
    parameters_read,
    step_bytes,
    step_seconds,
)
from finegrained.cost.table import Cost, Rate, for_terminal, notes, page
from finetune.cli.console import progress, say, table
from finetune.cli.machine import core_count, memory_bytes
from finetune.errors import UsageError
from finetune.models.backbone import published_weights
from finetune.models.classifier import Classifier, build_classifier, num_parameters
from finetune.models.heads.registry import check_head_options, head_names
from finetune.runs.files import check_writable, write_bytes
from finetune.runs.folder import versions
from finetune.training.optimization.precision import Precision, choose_precision
from finetune.training.optimization.torch_settings import prepare_torch
from finetune.training.optimization.trial_steps import random_batch, training_step

if TYPE_CHECKING:
    from finegrained.config import CostConfig
    from finetune.models.backbone import Features


class Asked(NamedTuple):
    """A head by its name and the options that differ from its defaults; `text` is how it was asked for."""

    text: str
    name: str
    options: Mapping[str, Any]


def measure_costs(config: CostConfig) -> dict[str, Any]:
    """Count and time the configured heads on the configured backbones; print a table and return its numbers.

    A head is spelled NAME or NAME:OPTION=VALUE (and further :OPTION=VALUE). Parameters, multiply-adds and
    training memory are counted on tensors without numbers, so any size will do on any machine; they are
    exact. Speed is timed on the device with random weights and images, unless `config.repeats` is 0. A head
    that a backbone cannot have (too large, maps that are missing) keeps its row, with the reason.

    Returns the conditions and one object of the fields of `Cost` per row, under "rows".

    Raises UsageError for names and options that do not exist, and numbers out of range.
    """
    _check(config)
    heads = [read_head(text) for text in config.heads or head_names()]
    for backbone in config.backbones:
        published_weights(backbone)  # refuses an unknown name before the first minutes are spent
    if config.out:
        check_writable(Path(config.out).parent)
    precision = choose_precision(config.device)
    prepare_torch(precision)
    conditions = describe_conditions(config, precision)
    say(conditions)
    found = []
    with progress(len(heads) * len(config.backbones), "costs", unit="heads") as bar:
        for backbone in config.backbones:
            for head in heads:
                found.append(cost_of(backbone, head, config, precision))
                bar.advance()
    table("What heads cost:", *for_terminal(found))
    for line in notes(found):
        say(line)
    if config.out:
        Path(config.out).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(Path(config.out), page(found, conditions).encode())
        say(f"written to {config.out}")
    return {
        "conditions": conditions,
        "device": str(precision.device),
        "precision": precision.dtype_name,
        "threads": torch.get_num_threads(),
        "repeats": config.repeats,
        "image_size": config.image_size,
        "classes": config.classes,
        "batch_size": config.batch_size,
        "rows": [asdict(cost) for cost in found],
    }


def read_head(text: str) -> Asked:
    """Return the head that a word such as "bilinear:reduction=256" asks for.

    Raises UsageError for a head or an option that does not exist, or a value of the wrong kind.
    """
    name, *pairs = text.split(":")
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise UsageError(
            "a head's options are written OPTION=VALUE, as in bilinear:reduction=256; "
            f"{text!r} has {wrong[0]!r}"
        )
    values = {key: _value(word) for key, _, word in (pair.partition("=") for pair in pairs)}
    check_head_options(name, values)
    return Asked(text, name, values)


def _value(word: str) -> bool | int | float | str:
    """Return what an option's word stands for."""
    if word in ("true", "false"):
        return word == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(word)
    return word


def cost_of(backbone: str, head: Asked, config: CostConfig, precision: Precision) -> Cost:
    """Return one row, as far as it can be had."""
    try:
        counted = count_cost(backbone, head, config)
    except UsageError as error:
        return Cost(backbone, head.text, note=f"refused: {error}")
    if not config.repeats:
        return counted
    if precision.device.type == "cpu" and counted.training_bytes and counted.training_bytes > memory_bytes():
        return replace(
            counted, note=f"not timed: this machine has {memory_bytes() / 1e9:.1f} GB; lower --batch_size"
        )
    try:
        return time_cost(counted, head, config, precision)
    except torch.OutOfMemoryError:
        return replace(
            counted, note=f"not timed: {precision.device} has too little memory; lower --batch_size"
        )


def count_cost(backbone: str, head: Asked, config: CostConfig) -> Cost:
    """Return what needs no computing; raises UsageError where the backbone cannot have this head."""
    with torch.device("meta"):
        core = _build(backbone, head, config)
    core.to("meta").eval()  # buffers that were drawn on the CPU too
    images, target = random_batch(core, config.image_size, config.batch_size, config.classes)
    one = images[:1]
    features = _features(core, one)
    return Cost(
        backbone,
        head.text,
        backbone_parameters=num_parameters(core.backbone),
        head_parameters=num_parameters(core.head),
        head_parameters_at_test=parameters_read(core.head, core.head.infer(features)),
        macs=count_macs(core.infer, one),
        head_macs=count_macs(core.head.infer, features),
        training_bytes=step_bytes(core, images, target),
    )


def _features(core: Classifier, one: Tensor) -> Features:
    try:
        with torch.no_grad():
            features: Features = core.backbone(one)
    except (RuntimeError, AssertionError) as error:  # what the layers of timm raise
        raise UsageError(f"it does not read images of {one.shape[-1]} px: {error}") from error
    return features


def time_cost(counted: Cost, head: Asked, config: CostConfig, precision: Precision) -> Cost:
    """Return the row with its speeds, and with what a GPU's allocator held at most."""
    gc.collect()  # the row before may lie in cycles, on a GPU that is asked for its peak
    core = _build(counted.backbone, head, config)
    precision.place(core)
    images, target = random_batch(core, config.image_size, config.batch_size, config.classes)
    images = precision.arrange(images)
    device, shown = precision.device, images[: config.batch_size]
    core.eval()
    with torch.inference_mode():
        testing = step_seconds(lambda: core.infer(shown), config.repeats, device)
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    training = step_seconds(training_step(core, images, target, precision), config.repeats, device)
    return replace(
        counted,
        inference=Rate.of(config.batch_size, testing),
        training=Rate.of(config.batch_size, training),
        peak_bytes=torch.cuda.max_memory_allocated(device) if on_cuda else None,
    )


def describe_conditions(config: CostConfig, precision: Precision) -> str:
    """Return in a sentence or two what the numbers hold for."""
    known = versions()
    software = f"torch {known['torch']}, timm {known['timm']}"
    inputs = f"{config.image_size} px, {config.classes} classes, batches of {config.batch_size}, {software}"
    if not config.repeats:
        return f"Counted, nothing timed: {inputs}."
    where = f"{precision.device} ({precision.device_name})"
    if precision.device.type == "cpu":
        where += f", {torch.get_num_threads()} thread(s) on {core_count()} cores"
    if hasattr(os, "getloadavg"):
        where += f", load average {os.getloadavg()[0]:.1f} at the start"
    return (
        f"Timed on {where}: {inputs}; random weights and images, "
        f"the median of {config.repeats} steps, the slowest and the fastest in brackets. "
        f"Training in {precision.dtype_name}, inference in float32."
    )


def _build(backbone: str, head: Asked, config: CostConfig) -> Classifier:
    core = build_classifier(
        backbone,
        head.name,
        config.classes,
        weights="none",
        image_size=config.image_size,
        head_options=dict(head.options),
    )
    core.backbone.preprocess_spec(config.image_size)  # refuses a size that a training would refuse
    return core


def _check(config: CostConfig) -> None:
    if not config.backbones:
        raise UsageError("name at least one backbone: --backbones resnet50,vgg16")
    if config.image_size < 1:
        raise UsageError(f"--image_size is the side in pixels and must be positive, got {config.image_size}")
    if config.classes < 2 or config.batch_size < 2:
        raise UsageError(
            "--classes and --batch_size must be at least 2 (a batch norm does not learn from one image); "
            f"got {config.classes} and {config.batch_size}"
        )
    if config.repeats < 0:
        raise UsageError(f"--repeats must be 0 (count, time nothing) or more, got {config.repeats}")
