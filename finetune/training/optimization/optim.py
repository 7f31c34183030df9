"""What moves the weights: parameter groups, optimisers, the learning rate as a pure function, the average."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from finetune.errors import UsageError
from finetune.models.classifier import Classifier, unwrap

Schedule = Literal["cosine", "step", "constant"]
SCHEDULES = ("cosine", "step", "constant")
OPTIMIZERS = ("sgd", "adamw")


def parameter_groups(
    model: Classifier, *, lr: float, head_lr_multiplier: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Return up to four groups: backbone and head, each with and without weight decay, every parameter once.

    Decay spares biases, norms and every other one-dimensional parameter, and what the backbone's authors
    never decay (position tables, class tokens). A group's "part" is "backbone" or "head", which is what
    `set_learning_rates` goes by; a frozen parameter is in its group too and simply receives no gradient.
    """
    decaying = {id(parameter) for parameter in _decaying(model)}
    rates = {"backbone": lr, "head": lr * head_lr_multiplier}
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        part = "head" if name.startswith("head.") else "backbone"
        decays = id(parameter) in decaying
        group = {
            "params": [],
            "part": part,
            "lr": rates[part],
            "weight_decay": weight_decay if decays else 0.0,
        }
        groups.setdefault((part, decays), group)["params"].append(parameter)
    return list(groups.values())


def set_weight_decay(optimizer: torch.optim.Optimizer, model: Classifier, weight_decay: float) -> None:
    """Give every group of `parameter_groups` whose parameters decay this weight decay, the others none."""
    decaying = {id(parameter) for parameter in _decaying(model)}
    for group in optimizer.param_groups:
        group["weight_decay"] = weight_decay if id(group["params"][0]) in decaying else 0.0


def build_optimizer(
    name: str,
    groups: Iterable[dict[str, Any]],
    *,
    lr: float,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.Optimizer:
    """Return "sgd" (Nesterov momentum; plain where momentum is 0) or "adamw" over these groups.

    Each group keeps its own "lr" and "weight_decay"; `lr` serves groups without. Raises UsageError for
    another name, listing the two.
    """
    groups = list(groups)
    if name == "sgd":
        return torch.optim.SGD(
            groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=_can_fuse(groups)
        )
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=_can_fuse(groups))
    raise UsageError(f"no optimizer is called {name!r}; there is {', '.join(OPTIMIZERS)}")


def learning_rate_factor(
    step: int,
    total_steps: int,
    schedule: str = "cosine",
    *,
    warmup_steps: int = 0,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
) -> float:
    """Return the factor on the base learning rate at a zero-based step; a function of its arguments alone.

    Warm-up: (step + 1) / warmup_steps, which ends at exactly 1. After it, with t = (step - warmup_steps) /
    (total_steps - warmup_steps): "cosine" (1 + cos(pi t)) / 2; "step" gamma to the power of the number of
    milestones (in steps from zero) passed; "constant" 1.

    Raises UsageError for another schedule or a step outside [0, total_steps).

    >>> [learning_rate_factor(step, 10, "step", milestones=(4, 8)) for step in (3, 4)]
    [1.0, 0.1]
    >>> [learning_rate_factor(step, 10, "constant", warmup_steps=4) for step in (0, 3, 9)]
    [0.25, 1.0, 1.0]
    """
    if schedule not in SCHEDULES:
        raise UsageError(f"no schedule is called {schedule!r}; there is {', '.join(SCHEDULES)}")
    if not 0 <= step < total_steps:
        raise UsageError(f"step must lie in [0, {total_steps}), got {step}")
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "cosine":
        return (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2
    if schedule == "step":
        return float(gamma ** sum(step >= milestone for milestone in milestones))
    return 1.0


def set_learning_rates(optimizer: torch.optim.Optimizer, rates: Mapping[str, float]) -> float:
    """Give every group the learning rate of its part ("backbone" or "head"); return the highest."""
    for group in optimizer.param_groups:
        group["lr"] = rates[group["part"]]
    return max(rates.values())


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale all gradients to a joint Euclidean norm of at most `max_norm`; return the norm before."""
    return nn.utils.clip_grad_norm_(parameters, max_norm)


@dataclass(frozen=True)
class _Pairs:
    """The tensors of an average and of its model, as lists that one call moves: real and whole numbers."""

    tensors: list[Tensor]
    real: tuple[list[Tensor], list[Tensor]]
    whole: tuple[list[Tensor], list[Tensor]]

    def of(self, tensors: list[Tensor]) -> bool:
        """Return whether they were made of these very tensors."""
        return len(tensors) == len(self.tensors) and all(map(operator.is_, tensors, self.tensors))


def _apart(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [own for own, _ in pairs], [followed for _, followed in pairs]


class Ema:
    """Moving average of a model's weights and of its floating-point buffers (batch norm's statistics).

    After the n-th update (n from 1): average += (1 - d_n) * (value - average), d_n = min(decay, n / (n + 9)):
    the warm-up lets the first, poor weights go quickly. Whole-number buffers are copied.

    Args:
        model: whose values start the average.
        decay: d, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"train.ema must lie in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self._listed: _Pairs | None = None
        self.values = {name: tensor.detach().clone() for name, tensor in unwrap(model).state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model as it is now."""
        self.updates += 1
        share = 1 - min(self.decay, self.updates / (self.updates + 9))
        pairs = self._pairs(unwrap(model))
        torch._foreach_lerp_(*pairs.real, share)
        if pairs.whole[0]:
            torch._foreach_copy_(*pairs.whole)

    def _pairs(self, model: nn.Module) -> _Pairs:
        """Return averages beside what they follow, listed again where the model's tensors are others."""
        now = [*model.parameters(), *model.buffers()]
        if self._listed is None or not self._listed.of(now):
            named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
            followed = [(own, named[name].detach()) for name, own in self.values.items()]
            real = [pair for pair in followed if pair[0].is_floating_point()]
            whole = [pair for pair in followed if not pair[0].is_floating_point()]
            self._listed = _Pairs(now, _apart(real), _apart(whole))
        return self._listed

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's values with the average."""
        _overwrite(unwrap(model), self.values)

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """Let the model hold the average inside the `with`, and its own values, bit for bit, after it."""
        own = {name: tensor.detach().clone() for name, tensor in unwrap(model).state_dict().items()}
        self.copy_to(model)
        try:
            yield
        finally:
            _overwrite(unwrap(model), own)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on."""
        return {"decay": self.decay, "updates": self.updates, "values": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` returned, on the devices of this average."""
        self.decay, self.updates = state["decay"], state["updates"]
        for name, value in self.values.items():
            value.copy_(state["values"][name])


def _decaying(model: Classifier) -> Iterator[nn.Parameter]:
    """Yield the parameters that weight decay is for."""
    spared = {f"backbone.{name}" for name in model.backbone.no_weight_decay()}
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and name not in spared and not name.endswith(".bias"):
            yield parameter


@torch.no_grad()
def _overwrite(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        tensor.copy_(values[name])


def _can_fuse(groups: Iterable[dict[str, Any]]) -> bool:
    """Return whether all parameters lie on one device with a fused kernel (one pass over memory per step)."""
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return devices in ({"cpu"}, {"cuda"})
