"""Check 4: one training step of every head on the GPU against the processor, and in half precision."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from apps.doctor.gpu.bounds import HALF_COSINE, HEAD_GRADIENT, HEAD_LOSS, TRUNK_COSINE
from apps.doctor.gpu.outcome import Findings, Outcome
from apps.doctor.gpu.setup import Setup
from apps.doctor.gpu.work.drawn import MEAN, STD, random_classifier, small_batch
from finetune.images.batches import normalise
from finetune.images.loading.copies import to_device
from finetune.models.classifier import Classifier
from finetune.models.heads.registry import head_names, head_options
from finetune.training.config import LossConfig
from finetune.training.objective import Objective
from finetune.training.optimization.precision import Precision, choose_precision

# Options that keep a step short, of every head that has one of these names.
SHORT: dict[str, Any] = {
    "dim": 64,
    "order": 4,
    "gamma": 0.5,
    "detectors": 3,
    "init": "random",
    "filter_norm": "none",
    "regions": 4,
}
TINY_GRADIENT = 1e-3  # of the largest gradient's norm: smaller ones are measured by this
REPAIR = "train this head on the CPU (--device cpu) until this is fixed, and send gpu-check.json"
HALF_REPAIR = "train this head in float32: --run.precision float32; send gpu-check.json"


class Step(NamedTuple):
    """What a step gives: the loss, and each weight's gradient by name, on the CPU in float64."""

    loss: float
    head: dict[str, Tensor]
    trunk: dict[str, Tensor]


def head_step(core: Classifier, images: Tensor, target: Tensor, precision: Precision) -> Step:
    """Return loss and gradients of one training step with the loss CRL, as the training loop makes them."""
    precision.place(core).train()
    there = normalise(to_device(images, precision.device), MEAN, STD)
    given, wanted = precision.arrange(there), to_device(target, precision.device)
    change = core.head.hooks().batch_transform
    if change is not None:
        given, wanted = change(given, wanted, np.random.default_rng(0))
    objective = Objective(LossConfig("crl").build().to(precision.device))
    with precision.autocast():
        output = core(given, wanted)
    total = objective(output, wanted).total
    total.backward()  # type: ignore[no-untyped-call]
    gradients = {
        name: weight.grad.detach().to("cpu", torch.float64)
        for name, weight in core.named_parameters()
        if weight.grad is not None
    }
    head = {name: value for name, value in gradients.items() if name.startswith("head.")}
    trunk = {name: value for name, value in gradients.items() if name not in head}
    return Step(float(total.detach()), head, trunk)


def without_chance(core: Classifier) -> Classifier:
    """Return the classifier without dropout, which draws other numbers on another device."""
    for module in core.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return core


def check_heads(setup: Setup) -> Outcome:
    """Return how far a step of every head is from the processor's, and from itself in half precision.

    The gradients of a head's own weights are held to their relative error, those of the trunk to their
    direction: where a value is near zero, rounding decides whether it passes a ReLU.
    """
    found = Findings()
    exact = setup.precision("float32")
    plain = choose_precision("cpu", "float32")
    halves = [setup.precision(half) for half in setup.card.halves]
    worst_loss, worst_gradient, names = 0.0, 0.0, head_names()
    for name in names:
        on_cpu, step = _step(setup, name, plain), _step(setup, name, exact)
        loss = abs(step.loss - on_cpu.loss) / max(abs(on_cpu.loss), 1e-30)
        loss = math.inf if math.isnan(loss) else loss
        gradient, weight = largest_error(step.head, on_cpu.head)
        trunk = likeness(step.trunk, on_cpu.trunk)
        worst_loss, worst_gradient = max(worst_loss, loss), max(worst_gradient, gradient)
        found.numbers[name] = {"loss": loss, "gradient": gradient, "trunk_cosine": trunk}
        apart = f"gradient of {weight} by {gradient:.1e}, trunk's cosine {trunk:.4f}"
        right = loss <= HEAD_LOSS and gradient <= HEAD_GRADIENT and trunk >= TRUNK_COSINE
        found.require(right, f"{name}: loss off by {loss:.1e}, {apart}", REPAIR)
        for half in halves:
            _half(name, _step(setup, name, half), step, half.dtype_name, found)
    found.add(f"{len(names)} heads: losses within {worst_loss:.1e}, gradients within {worst_gradient:.1e}")
    return found.outcome()


def _step(setup: Setup, name: str, precision: Precision) -> Step:
    sizes = setup.sizes
    options = {option: value for option, value in SHORT.items() if option in head_options(name)}
    core = random_classifier(sizes.trunk, name, sizes.side, options=options)
    images, target = small_batch(setup, sizes.side, core.head.hooks().views)
    return head_step(without_chance(core), images, target, precision)


def _half(name: str, step: Step, exact: Step, half: str, found: Findings) -> None:
    cosine, trunk = likeness(step.head, exact.head), likeness(step.trunk, exact.trunk)
    found.numbers[name][half] = {"cosine": cosine, "trunk_cosine": trunk}
    finite = all(map(math.isfinite, (step.loss, cosine, trunk)))
    what = "gradients of another direction" if finite else "not finite"
    told = f"{name} in {half}: {what} (cosine {cosine:.3f})"
    found.require(finite and cosine >= HALF_COSINE, told, HALF_REPAIR)


def largest_error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[float, str]:
    """Return the largest relative error (L2) of a gradient, and whose it is; infinite for a missing one."""
    if found.keys() != wanted.keys():
        return math.inf, next(iter(found.keys() ^ wanted.keys()))
    floor = TINY_GRADIENT * max(float(gradient.norm()) for gradient in wanted.values())
    apart = {
        name: float((found[name] - gradient).norm() / max(float(gradient.norm()), floor))
        for name, gradient in wanted.items()
    }
    name = max(apart, key=lambda key: math.inf if math.isnan(apart[key]) else apart[key])
    return (math.inf if math.isnan(apart[name]) else apart[name]), name


def likeness(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Return the cosine between all gradients of two steps; NaN where they are of other weights."""
    if found.keys() != wanted.keys():
        return math.nan
    one = torch.cat([found[name].flatten() for name in wanted])
    other = torch.cat([gradient.flatten() for gradient in wanted.values()])
    return float(one @ other / (one.norm() * other.norm()))
