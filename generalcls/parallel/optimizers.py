"""How stacked weights are updated: torch's optimisers on slices of them, a learning rate for every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.errors import UsageError
from finetune.experiments.study.cells import CellPlan
from finetune.training.optimization.optim import learning_rate_factor
from generalcls.config import GeneralTrainConfig
from generalcls.parallel.model_stack import ModelStack


@dataclass(frozen=True)
class Member:
    """One model of a stack: its seed, the learning rate's factor, and the name of its cell."""

    name: str
    seed: int
    lr_factor: float = 1.0

    @classmethod
    def of(cls, plans: Sequence[CellPlan]) -> list[Member]:
        """Return the models of these cells."""
        return [cls(plan.arm.name, plan.seed, plan.lr_factor) for plan in plans]


def rate_factor(config: GeneralTrainConfig, step: int, total_steps: int) -> float:
    """Return what the learning rate is multiplied by at a step counted from 0."""
    if config.schedule == "inverse":
        return 1 / (1 + config.decay * step)
    milestones = [round(share * total_steps) for share in config.milestones]
    return learning_rate_factor(step, total_steps, config.schedule, milestones=milestones, gamma=config.gamma)


def build_optimizer(
    config: GeneralTrainConfig, stack: ModelStack, members: Sequence[Member]
) -> torch.optim.Optimizer:
    """Return torch's optimiser over slices of the stacked weights, a group per learning rate and decay.

    Every one of these optimisers works element by element, so models in one tensor never see each other.
    RMSprop and Adadelta have the constants of the Keras examples (rho .9 and .95, epsilon 1e-7).
    """
    groups = []
    for first, last in equal_runs([member.lr_factor for member in members]):
        for decays in (True, False):
            names = [name for name in stack.params if stack.decays[name] == decays]
            group = {
                "params": [stack.params[name].detach()[first:last] for name in names],
                "names": names,
                "models": [first, last],
                "factor": members[first].lr_factor,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            groups += [group] if names else []
    lr = config.lr
    # Fused: one pass over memory, where the plain ones make a tensor as large as the weights at every step.
    if config.optimizer == "sgd":
        nesterov = config.momentum > 0
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=nesterov, fused=True)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=lr, fused=True)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, alpha=0.9, eps=1e-7)
    if config.optimizer == "adadelta":
        return torch.optim.Adadelta(groups, lr=lr, rho=0.95, eps=1e-7)
    raise UsageError(f"no optimizer is called {config.optimizer!r}")


def equal_runs(values: Sequence[float]) -> list[tuple[int, int]]:
    """Return (first, behind the last) of every run of equal neighbours.

    >>> equal_runs([1, 1, 2, 1])
    [(0, 2), (2, 3), (3, 4)]
    """
    starts = [i for i, value in enumerate(values) if i == 0 or values[i - 1] != value]
    return list(zip(starts, [*starts[1:], len(values)], strict=True))


def hand_over_gradients(optimizer: torch.optim.Optimizer, stack: ModelStack) -> None:
    """Give every slice that the optimiser holds its slice of the gradient; nothing is copied.

    Both must lie in memory alike: a CPU's fused optimisers read them as plain rows of numbers.
    """
    for group in optimizer.param_groups:
        first, last = group["models"]
        for name, parameter in zip(group["names"], group["params"], strict=True):
            gradient = stack.gradient(name)[first:last]
            assert gradient.stride() == parameter.stride() or _strides(gradient) == _strides(parameter), (
                f"{name}'s gradient lies otherwise in memory"
            )
            parameter.grad = gradient


def _strides(tensor: Tensor) -> list[int]:
    """Return the strides of the dimensions along which there is more than one number."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
