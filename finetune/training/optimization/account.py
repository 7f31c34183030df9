"""What a step makes of a head's output: the loss to go back from, and the epoch's totals, as one function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core_losses import LossModule
from core_losses.factor import bare_loss
from finetune.models.heads.base import HeadOutput
from finetune.training.epoch_metrics import Totals, pushes
from finetune.training.objective import Objective
from finetune.training.optimization.compiling import compiled_or_eager
from finetune.training.optimization.distributed import World

_OF_THE_COMPILER = r"The \.grad attribute of a Tensor that is not a leaf"  # which it asks of each input


class Account:
    """The loss of a batch, and its sums added to the totals.

    One after the other these are some ninety small operations. Compiled they are few, and their values differ
    in the last digits at most. Where compiling fails, `compiled_or_eager` says so: they are done one by one.

    Args:
        objective: what is minimised.
        world: the processes that train together.
        was_compiled: the run goes on from a checkpoint whose steps were compiled.
    """

    def __init__(
        self, objective: Objective, world: World | None = None, *, was_compiled: bool = False
    ) -> None:
        self.objective = objective
        self._world, self._was_compiled = world, was_compiled
        self._bare = bare_loss(objective.main) if isinstance(objective.main, LossModule) else None
        self._way: Callable[..., Tensor] | None = None  # compiled or not, once it was tried

    def __call__(
        self, output: HeadOutput, target: Tensor, totals: Totals, *, compiled: bool = False
    ) -> Tensor:
        """Return the value to minimise."""
        if not compiled:
            return self._take(output, target, totals)
        if self._way is None:
            return self._first(output, target, totals)
        return self._way(output, target, totals)

    def _first(self, output: HeadOutput, target: Tensor, totals: Totals) -> Tensor:
        warnings.filterwarnings("ignore", message=_OF_THE_COMPILER)
        whole: Any = torch.compile(self._take, fullgraph=True)
        way: list[Callable[..., Tensor]] = [whole]
        losses: list[Tensor] = []
        before = totals.sums.clone()

        def step() -> None:
            losses.append(way[0](output, target, totals))

        def to_eager() -> None:
            way[0] = self._take
            totals.sums.copy_(before)  # another process failed, and this one had counted

        compiled_or_eager(
            step,
            to_eager,
            by_name=False,
            world=self._world,
            what="loss and totals are",
            was_compiled=self._was_compiled,
        )
        self._way = way[0]
        return losses[-1]

    def _take(self, output: HeadOutput, target: Tensor, totals: Totals) -> Tensor:
        loss = self.objective(output, target).total
        seen = self.objective.softened(target)
        totals.add(loss, output, target, pushes(self.objective.main, output, seen, self._bare))
        return loss


def is_compiled(model: nn.Module) -> bool:
    """Return whether a module's calls go through `torch.compile`."""
    return model._compiled_call_impl is not None
