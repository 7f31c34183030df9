"""Checks 2 and 3: every loss on the GPU against float64 on the processor, plain and compiled."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from apps.doctor.gpu.bounds import LOSS_ERROR
from apps.doctor.gpu.outcome import Findings, Outcome, error_text
from apps.doctor.gpu.setup import Setup
from core_losses import LOSSES, LossModule, build_loss, loss_options
from finetune.seeding import derive_seed

ALPHA = 0.1  # below 1/2, the losses with this option take another way
GROUP, LARGEST = 16, 4.0  # images of each scale of logits; the largest scale is 10 ** LARGEST
SCALES = 12
COMPILING = 35.0  # seconds, after which no further loss is compiled
FLOOR = 0.1  # of the largest value of a group: what is smaller is measured by this
SEND = (
    "the losses are not to be trusted on this GPU: train on the CPU (--device cpu), and send gpu-check.json"
)

Run = Callable[[LossModule, Tensor, Tensor], tuple[Tensor, Tensor]]


class Case(NamedTuple):
    """A loss with options, and whether its targets are distributions."""

    name: str
    loss: str
    options: dict[str, Any]
    soft: bool = False

    def build(self, dtype: torch.dtype, device: torch.device) -> LossModule:
        """Return the loss, one value for each image."""
        options = {
            key: value.to(dtype) if isinstance(value, Tensor) else value
            for key, value in self.options.items()
        }
        with warnings.catch_warnings(category=UserWarning, action="ignore"):  # values below zero, by intent
            return build_loss(self.loss, reduction="none", **options).to(device)


def cases(classes: int, names: tuple[str, ...] = tuple(LOSSES)) -> Iterator[Case]:
    """Yield every loss with hard, soft, smoothed and weighted targets, and below alpha 1/2."""
    weight = torch.linspace(0.5, 2.0, classes, dtype=torch.float64)
    for name in names:
        yield Case(name, name, {})
        yield Case(f"{name}, soft targets", name, {}, soft=True)
        yield Case(f"{name}, smoothed", name, {"label_smoothing": 0.1})
        yield Case(f"{name}, class weights", name, {"weight": weight})
        if "alpha" in loss_options(name):
            yield Case(f"{name}, alpha {ALPHA}", name, {"alpha": ALPHA})


def drawn_logits(classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits in groups of one scale, up to 1e4 in size, hard targets, and soft ones, float32."""
    source = torch.Generator().manual_seed(derive_seed(0, "logits"))
    raw = torch.randn(SCALES, GROUP, classes, generator=source, dtype=torch.float64)
    scale = torch.logspace(-1, LARGEST, SCALES, dtype=torch.float64)
    logits = raw / raw.abs().amax((1, 2), keepdim=True) * scale[:, None, None]
    count = SCALES * GROUP
    hard = torch.randint(classes, (count,), generator=source)
    soft = torch.rand(count, classes, generator=source, dtype=torch.float64)
    return logits.flatten(0, 1).float(), hard, (soft / soft.sum(1, keepdim=True)).float()


def run_loss(loss: LossModule, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return a loss of each image and the gradient of their sum."""
    given = logits.detach().requires_grad_()
    value = loss(given, target)
    value.sum().backward()
    assert given.grad is not None
    return value.detach(), given.grad


def errors(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return the relative errors of values (each image) and gradients (L2 of each group); NaN is infinite."""
    value, gradient = (part.to("cpu", torch.float64) for part in found)
    right, slope = (part.to("cpu", torch.float64) for part in wanted)
    floor = FLOOR * right.abs().view(SCALES, GROUP).amax(1).repeat_interleave(GROUP)
    by_value = ((value - right).abs() / torch.maximum(right.abs(), floor).clamp_min(1e-30)).max()
    apart = (gradient - slope).view(SCALES, -1).norm(dim=1)
    size = slope.view(SCALES, -1).norm(dim=1)
    by_gradient = (apart / size.clamp_min(FLOOR * float(size.max()))).max()
    both = torch.stack([by_value, by_gradient]).nan_to_num(nan=torch.inf)
    return float(both[0]), float(both[1])


def check_losses(setup: Setup) -> Outcome:
    """Return how far every loss and its gradient is from float64 on the processor."""
    found = Findings()
    worst, where = _compare(setup, found, tuple(LOSSES), run_loss, "wrong", SEND)
    found.add(f"{len(LOSSES)} losses within {worst:.1e} of float64 ({where})", largest_error=worst)
    _halves(setup, found)
    return found.outcome()


def check_compiled_losses(setup: Setup) -> Outcome:
    """Return whether losses compile to one graph, and what compiled ones compute.

    Nothing here is wrong: a training goes on uncompiled.
    """
    found = Findings()

    def compiled(loss: LossModule, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        made = setup.card.compiled(loss)
        return run_loss(made, logits, target)  # type: ignore[arg-type]  # it is called as the loss is

    repair = "compile off: leave --run.compile out of a fine-tuning, give --run.compile off in crl general"
    plain, *own = LOSSES
    worst, where, done, start = -1.0, "", 0, time.monotonic()
    for name in (*own, plain):
        if done and time.monotonic() - start > COMPILING:
            break
        try:
            error, whose = _compare(setup, found, (name,), compiled, "note", repair, kinds=1)
        except Exception as error:  # whatever breaks in a compiler; told as the finding
            found.fault("note", f"torch.compile fails at {name} ({error_text(error)})", repair)
            found.numbers["compiles"] = False
            return found.outcome()
        worst, where, done = *max((worst, where), (error, whose)), done + 1
    told = (
        f"{done} of {len(LOSSES)} losses compile to one graph each, within {worst:.1e} of float64 ({where})"
    )
    found.add(told, compiles=True, largest_error=worst)
    return found.outcome()


def _compare(
    setup: Setup, found: Findings, names: tuple[str, ...], run: Run, status: Any, repair: str, kinds: int = 9
) -> tuple[float, str]:
    """Tell every case of these losses that is out of bounds; return the largest error, and whose it is.

    `kinds` bounds how many cases of each loss are looked at.
    """
    classes, device = setup.sizes.logits, setup.device
    logits, hard, soft = drawn_logits(classes)
    worst, where, each = -1.0, "", dict[str, list[float]]()
    for name in names:
        for case in list(cases(classes, (name,)))[:kinds]:
            target = soft if case.soft else hard
            exact = target.double() if case.soft else target
            cpu = torch.device("cpu")
            wanted = run_loss(case.build(torch.float64, cpu), logits.double(), exact)
            got = run(case.build(torch.float32, device), logits.to(device), target.to(device))
            value, gradient = errors(got, wanted)
            each[case.name] = [value, gradient]
            if max(value, gradient) > worst:
                worst, where = max(value, gradient), case.name
            told = f"{case.name}: relative error {value:.1e} of the loss, {gradient:.1e} of its gradient"
            found.require(max(value, gradient) <= LOSS_ERROR, told, repair, status)
    found.numbers["errors"] = {**found.numbers.get("errors", {}), **each}
    return worst, where


def _halves(setup: Setup, found: Findings) -> None:
    """Look whether logits in half precision give what the same numbers in float32 give."""
    logits, hard, _ = drawn_logits(setup.sizes.logits)
    for half in setup.card.halves:
        rounded = logits.to(setup.device, getattr(torch, half))
        for case in (case for case in cases(setup.sizes.logits) if not case.soft):
            loss, target = case.build(torch.float32, setup.device), hard.to(setup.device)
            value, slope = run_loss(loss, rounded, target)
            other, wide = run_loss(loss, rounded.float(), target)
            same = torch.equal(value.float(), other) and torch.equal(slope, wide.to(slope.dtype))
            found.require(same, f"{case.name}: {half} logits give another loss than float32 ones", SEND)
    found.add(f"{' and '.join(setup.card.halves)} logits give float32's loss")
